//! Where settings come from: a flag, else a variable, else the configuration file, else the default.
//!
//! The command line knows every setting with its help, its variable and its default, so the file is read, checked and
//! printed by it: a new flag is a new key without a line here.

mod check;
mod defaults;
mod file;

pub(crate) use file::{File, Origins, VARIABLE};

use crate::failure::Failure;
use std::path::PathBuf;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill config --print-defaults                  a file with every key of serve, its help and its default
  waybill config --print-defaults dev
  waybill config --print-defaults gateway          routes and limits, for --gateway-config
  waybill config --check waybill.toml              everything that is wrong with it, at once
  waybill serve all --config waybill.toml";

/// Flags of `waybill config`.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Args {
    /// Print a configuration file with every default: of serve, dev or gateway
    #[arg(long, value_name = "COMMAND", num_args = 0..=1, default_missing_value = "serve")]
    print_defaults: Option<String>,
    /// Check a configuration file, together with the environment as it is here
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Prints what is asked for, or says what is wrong.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match (&args.print_defaults, &args.check) {
        (Some(command), _) => print!("{}", defaults::print(command)?),
        (_, Some(path)) => println!("{}", check::check(path)?),
        // One of the two is required.
        (None, None) => {}
    }
    Ok(())
}
