//! `waybill replay`: prints recorded events, of one stream or of several in the order they were stored.

mod merge;
mod output;
mod redact;
mod request;

use crate::{
    dev::find_nats,
    failure::{Failure, because},
    settings::MasterKeyArgs,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use merge::Merge;
use nats::{Connection, KeyRing, Message, Until};
use output::Printer;
use request::Request;
use std::{io, path::PathBuf};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill replay                                        every event there is, as a table
  waybill replay --stream ORDERS,PAYMENTS --since 10m   what happened in the last ten minutes
  waybill replay --aggregate order/0199d3a8-...         one order's own events
  waybill replay --correlation cart-7 --output json     everything that one request caused
  waybill replay --stream ORDERS --type order.failed --follow
  waybill replay --stream ORDERS --from 1000 --limit 10 --output json | jq .data";

/// Flags of `waybill replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Streams to read: ORDERS, INVENTORY, PAYMENTS, FRAUD, SHIPPING, USERS, or all
    #[arg(long, value_name = "STREAM,..", value_delimiter = ',', default_value = "all")]
    stream: Vec<String>,
    /// Start at this sequence of the stream
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "since")]
    from: Option<String>,
    /// Start at this time (2026-01-31T12:00:00Z), or so long ago (10m, 2h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only this subject; * and > are wildcards
    #[arg(long)]
    subject: Option<String>,
    /// Only this type, such as order.created; can be repeated
    #[arg(long = "type", value_name = "TYPE")]
    kinds: Vec<String>,
    /// Only what this request caused
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Only this aggregate, such as order/ID or item/SKU
    #[arg(long, value_name = "KIND/ID", conflicts_with = "subject")]
    aggregate: Option<String>,
    /// How events are printed: table, or json (CloudEvents, one per line)
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: String,
    /// Do not stop at the end: print what is recorded from now on too
    #[arg(long)]
    follow: bool,
    /// Stop after so many events
    #[arg(long, value_name = "COUNT")]
    limit: Option<String>,
    /// Show personal data, opened with the master key; by default that of the data folder. Of erased users there is nothing to show
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    /// Where NATS is [default: that of the running dev]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<String>,
    /// Data folder of the running dev
    #[arg(long, value_name = "DIR", default_value = ".waybill")]
    data: PathBuf,
}

/// Runs until the end of the streams, or until it is stopped where it follows.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let request = Request::read(&args, &service::Clock::system())?;
    let url = find_nats(args.nats_url, &args.data)?;
    let connection = Connection::connect(&url, "waybill replay").await?;
    tokio::select! {
        printed = print(&connection, &request) => printed.or_else(quiet_when_nobody_reads),
        signal = service::signal() => signal.map(|_| ()).map_err(Into::into),
    }
}

async fn print(connection: &Connection, request: &Request) -> Result<(), Failure> {
    let mut merge = Merge::open(connection, request).await.map_err(because("cannot read the log"))?;
    let keys = match &request.reveal {
        Some(master_key) => Some(KeyRing::open(connection, master_key, 1).await?),
        None => None,
    };
    let mut printer = Printer::new(request.output, keys, io::stdout());
    let bar = progress_bar(merge.end());
    let mut left = request.limit;
    while left > 0
        && let Some(message) = merge.next().await?
    {
        let data = printer.data(&message).await;
        bar.suspend(|| printer.print(&message, data))?;
        bar.set_position(merge.position());
        left -= 1;
    }
    bar.finish_and_clear();
    printer.flush()?;
    if !request.follow || left == 0 {
        return Ok(());
    }
    let mut live = merge.follow(connection, request);
    while left > 0
        && let Some(batch) = live.recv().await
    {
        for message in batch?.iter().take(left) {
            let data = printer.data(message).await;
            printer.print(message, data)?;
            left -= 1;
        }
        printer.flush()?;
    }
    Ok(())
}

/// On standard error, where it is a terminal: standard output holds the events.
fn progress_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(5));
    // The template is a constant that parses; were it not to, the default is as good.
    let style =
        ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} events, {per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// `waybill replay | head` is no failure.
fn quiet_when_nobody_reads(failure: Failure) -> Result<(), Failure> {
    match failure.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(failure),
    }
}

/// Where a reading ends that does not follow.
const END: Until = Until::End;

/// Messages as the readers give them.
type Batch = Result<Vec<Message>, nats::ReplayError>;
