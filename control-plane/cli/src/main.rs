//! The program `dwcp`.

use std::process::ExitCode;

fn main() -> ExitCode {
    control_plane_cli::main()
}
