//! `waybill replay`: prints recorded events, of one stream or of several in the order they were stored, or sends copies of
//! them elsewhere.

mod cloud_event;
mod merge;
mod output;
mod pace;
mod progress;
mod request;
mod sink;

use crate::{
    access::{AccessArgs, OPERATOR, as_role},
    databases::Secret,
    dev::find_nats,
    failure::{Failure, because},
    settings::MasterKeyArgs,
};
use merge::Merge;
use nats::{Connection, Message, NatsUrl};
use pace::Pace;
use progress::Progress;
use request::Request;
use sink::Sink;
use std::{io, path::PathBuf};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill replay                                        every event there is, as a table
  waybill replay --stream ORDERS,PAYMENTS --since 10m   what happened in the last ten minutes
  waybill replay --aggregate order/0199d3a8-...         one order's own events
  waybill replay --correlation cart-7 --output json     everything that one request caused
  waybill replay --stream ORDERS --type order.failed --follow
  waybill replay --stream ORDERS --from 1000 --to 1009 --output json | jq .data
  waybill replay --since 2026-01-31T12:00:00Z --until 2026-01-31T13:00:00Z \\
      --output cloudevents --file noon.jsonl
  waybill replay --to-subject audit --rate 500          copies, on audit.orders.order.<id> and so on
  waybill replay --to-nats nats://staging:4222 --to-subject copy --speed 10x
  waybill replay --to-nats tls://staging:4222 --to-nats-nkey-file copies.nk --to-nats-ca staging.pem --to-subject copy
  waybill replay --to-nats tls://staging:4222 --to-nats-ca staging.pem --to-nats-cert copies.pem --to-nats-key copies.key --to-subject copy";

/// Flags of `waybill replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Streams to read: ORDERS, INVENTORY, PAYMENTS, FRAUD, SHIPPING, NOTIFICATIONS, USERS, FULFILMENT, OPS, or all
    #[arg(long, value_name = "STREAM,..", value_delimiter = ',', default_value = "all")]
    stream: Vec<String>,
    /// Start at this sequence of the stream; of several at ORDERS:1000,PAYMENTS:17
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "since")]
    from: Option<String>,
    /// Stop behind this sequence of the stream; of several behind ORDERS:1009,PAYMENTS:20
    #[arg(long, value_name = "SEQUENCE", conflicts_with_all = ["until", "follow"])]
    to: Option<String>,
    /// Start at this time (2026-01-31T12:00:00Z), or so long ago (10m, 2h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stop behind what was stored at this time, or so long ago
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<String>,
    /// Only this subject; * and > are wildcards
    #[arg(long)]
    subject: Option<String>,
    /// Only this type, such as order.created; can be repeated
    #[arg(long = "type", value_name = "TYPE")]
    kinds: Vec<String>,
    /// Only what this request caused
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Only what this event or command caused directly
    #[arg(long, value_name = "ID")]
    causation: Option<String>,
    /// Only the event with this id
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only this aggregate, such as order/ID or item/SKU
    #[arg(long, value_name = "KIND/ID", conflicts_with = "subject")]
    aggregate: Option<String>,
    /// How events are printed: table, json (one per line, with everything known of it), or cloudevents (the same in the
    /// JSON format of CloudEvents 1.0)
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: String,
    /// Print into this file instead
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
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
    copies: Copies,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    /// Where NATS is [default: that of the running dev]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Data folder of the running dev
    #[arg(long, value_name = "DIR", default_value = ".waybill")]
    data: PathBuf,
}

/// Flags that send copies elsewhere instead of printing.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Copies instead of output")]
struct Copies {
    /// Send each event as it was recorded to PREFIX.CONTEXT.AGGREGATE.ID. Never to where Waybill itself listens
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["file", "reveal"])]
    to_subject: Option<String>,
    /// Send to this NATS; without --to-subject on the subjects events have, which the NATS they come from refuses, and one
    /// where services of Waybill work. A user and a password, or a token, may stand before an @: in the variable, for
    /// whoever may list the processes of this machine sees the flag
    #[arg(long, value_name = "URL", env = "WAYBILL_TO_NATS", conflicts_with_all = ["file", "reveal"])]
    to_nats: Option<Secret>,
    /// File with the seed of the nkey by which that NATS knows who comes; or the seed itself in the variable
    /// `WAYBILL_TO_NATS_NKEY`
    #[arg(long, value_name = "FILE", env = "WAYBILL_TO_NATS_NKEY_FILE")]
    to_nats_nkey_file: Option<PathBuf>,
    /// Certificate of who signs those of that NATS, in PEM: from then on it has to be TLS
    #[arg(long, value_name = "FILE", env = "WAYBILL_TO_NATS_CA")]
    to_nats_ca: Option<PathBuf>,
    /// Certificate that is shown to that NATS, in PEM, where it asks for one
    #[arg(long, value_name = "FILE", env = "WAYBILL_TO_NATS_CERT")]
    to_nats_cert: Option<PathBuf>,
    /// Key of this certificate, in PEM
    #[arg(long, value_name = "FILE", env = "WAYBILL_TO_NATS_KEY")]
    to_nats_key: Option<PathBuf>,
    /// So many events per second at most
    #[arg(long, value_name = "EVENTS", conflicts_with = "speed")]
    rate: Option<String>,
    /// As they came, so much faster: 1x, 10x, 0.5x
    #[arg(long, value_name = "FACTOR")]
    speed: Option<String>,
}

/// Runs until the end of the streams, or until it is stopped where it follows.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let request = Request::read(&args, &service::Clock::system())?;
    let url = find_nats(args.nats_url, &args.data)?;
    let connection = Connection::connect_as(&url, "waybill replay", &request.access).await?;
    let mut sink = as_role(OPERATOR, &request.access, Sink::open(&connection, &request).await)?;
    let done = tokio::select! {
        done = replay(&connection, &request, &mut sink) => done.map(|()| true),
        signal = service::signal() => signal.map(|_| false).map_err(Into::into),
    };
    // What was taken arrives also where it was stopped.
    let done = match (done, sink.flush().await) {
        (Ok(complete), Ok(())) => Ok(complete),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    sink.sum_up(done.as_ref().is_ok_and(|complete| *complete));
    as_role(OPERATOR, &request.access, done).map(|_| ()).or_else(quiet_when_nobody_reads)
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    Request::read(args, &service::Clock::system()).map(|_| ())
}

async fn replay(connection: &Connection, request: &Request, sink: &mut Sink) -> Result<(), Failure> {
    let mut merge = Merge::open(connection, request).await.map_err(because("cannot read the log"))?;
    let mut pace = Pace::new(request.rate, request.speed);
    let mut progress = Progress::new(merge.length());
    let mut left = request.limit;
    while left > 0
        && let Some(message) = merge.next().await?
    {
        pace.wait(message.stored).await;
        sink.take(&message, &progress).await?;
        progress.at(merge.position());
        left -= 1;
    }
    progress.end();
    if !request.follow || left == 0 {
        return Ok(());
    }
    sink.flush().await?;
    let mut live = merge.follow(connection, request);
    while left > 0
        && let Some(batch) = live.recv().await
    {
        for message in batch?.iter().take(left) {
            pace.wait(message.stored).await;
            sink.take(message, &progress).await?;
            left -= 1;
        }
        sink.flush().await?;
    }
    Ok(())
}

/// `waybill replay | head` is no failure.
fn quiet_when_nobody_reads(failure: Failure) -> Result<(), Failure> {
    match failure.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(failure),
    }
}

/// Messages as the readers give them.
type Batch = Result<Vec<Message>, nats::ReplayError>;
