//! Compiles the `.proto` files with protox, so that no protoc is needed on the machine.

use std::{env, error::Error, fs, path::PathBuf};

/// Every file that is compiled; imports come with them.
const FILES: [&str; 11] = [
    "dwcp/v1/watch.proto",
    "dwcp/v1/node.proto",
    "dwcp/v1/token.proto",
    "dwcp/v1/config.proto",
    "dwcp/v1/transfer.proto",
    "dwcp/v1/bench.proto",
    "dwcp/v1/sync.proto",
    "dwcp/v1/audit.proto",
    "dwcp/v1/system.proto",
    "dwcp/agent/v1/local.proto",
    "dwcp/peer/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([".."])?;
    compiler.include_imports(true).include_source_info(true);
    for file in FILES {
        compiler.open_file(file)?;
    }
    // The raw bytes: a pass through prost_types would lose extension options.
    fs::write(out.join("dwcp.fds.bin"), compiler.encode_file_descriptor_set())?;
    // Type names for JSON; ordered maps, so that the same message is always the same bytes.
    let mut config = prost_build::Config::new();
    config.enable_type_names().btree_map(["."]);
    tonic_prost_build::configure()
        .include_file("packages.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;

    let mut operators = protox::Compiler::new([".."])?;
    operators.include_imports(true).include_source_info(true);
    for file in FILES.iter().filter(|file| file.starts_with("dwcp/v1/")) {
        operators.open_file(file)?;
    }
    fs::write(out.join("dwcp.v1.fds.bin"), operators.encode_file_descriptor_set())?;

    println!("cargo:rerun-if-changed=../dwcp");
    Ok(())
}
