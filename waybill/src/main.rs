//! The executable: reads the command line, runs, and says how it ended.

use std::process::ExitCode;
use waybill::cli::Cli;

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
