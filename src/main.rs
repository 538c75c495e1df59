//! The program: see `respgres --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    respgres::cli::main()
}
