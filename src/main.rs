//! The process: hands over to the library and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    retune::cli::run(std::env::args_os(), retune::ops::registry())
}
