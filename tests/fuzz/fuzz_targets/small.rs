#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(target) = tests_parsers::target("small") {
        target(data);
    }
});
