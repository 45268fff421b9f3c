//! demo
pub(crate) const EXAMPLES: &str = "waybill demo";
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) async fn run(_args: Args) -> Result<(), crate::failure::Failure> { Ok(()) }
