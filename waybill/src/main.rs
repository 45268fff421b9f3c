//! The executable: reads the command line, runs, and says how it ended.

use std::process::ExitCode;
use waybill::cli::Cli;

/// A command makes some fifty small allocations; the C library's allocator spends a tenth of the time on them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", waybill::failure::report(&*error));
            waybill::failure::exit_code(&*error)
        }
    }
}
