//! The seed of what a test chooses at random.

/// `DWCP_TEST_SEED`, or else always the same: whether a change may land depends on the change, and campaigns look for more.
///
/// # Panics
/// It is no number.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("DWCP_TEST_SEED").ok();
    let seed = given.map_or(20_261_121, |seed| seed.parse().expect("DWCP_TEST_SEED is a number"));
    eprintln!("DWCP_TEST_SEED={seed}");
    seed
}
