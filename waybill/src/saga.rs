//! `waybill saga`: what operators see of sagas, and what they can do about them.

use crate::{
    access::{AccessArgs, OPERATOR, as_role},
    api::{Api, Tokens},
    dev::{DevFile, find_nats},
    failure::Failure,
    settings::MasterKeyArgs,
    system::Service,
    tls::CallerArgs,
};
use clap::{Subcommand, ValueEnum};
use nats::{Access, MasterKey, NatsUrl};
use serde_json::{Value, json};
use service::{Clock, config::Faults, tls::ClientTls};
use std::{collections::BTreeMap, path::PathBuf};
use uuid::Uuid;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill saga list --stuck                    those that are in their state for too long
  waybill saga list --state parked
  waybill saga show 018f3f5e-0000-7000-8000-000000000001
  waybill saga resume 018f3f5e-0000-7000-8000-000000000001 --reason 'the carrier is back'
  waybill saga list --url http://127.0.0.1:3007 --nats-url nats://127.0.0.1:4222";

/// Flags of `waybill saga`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    ask: Ask,
    /// Where the fulfilment service is [default: that of the running waybill dev]
    #[arg(long, global = true, value_name = "URL", env = "WAYBILL_FULFILMENT_URL")]
    url: Option<String>,
    /// Where NATS is, which keeps the keys of tokens [default: that of the running waybill dev]
    #[arg(long, global = true, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Data folder of the running waybill dev
    #[arg(long, global = true, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    #[command(flatten)]
    tls: CallerArgs,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// Sagas, those first that are in their state for the longest
    List {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only those that are in their state for so many seconds
        #[arg(long, value_name = "SECONDS")]
        min_age: Option<u32>,
        /// Only those that are in their state for longer than they should be
        #[arg(long)]
        stuck: bool,
    },
    /// The saga of an order, with every attempt
    Show {
        /// The order
        order: Uuid,
    },
    /// Ask again, now
    Retry(Interference),
    /// Go on without an answer
    Skip(Interference),
    /// Undo everything, whatever was done
    Compensate(Interference),
    /// Take the order back, as its customer could
    Cancel(Interference),
    /// Let a parked saga go on
    Resume(Interference),
}

#[derive(Debug, clap::Args)]
struct Interference {
    /// The order
    order: Uuid,
    /// Why, for the record; names no person
    #[arg(long)]
    reason: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Running,
    Compensating,
    Parked,
    Completed,
    Failed,
}

/// Asks the fulfilment service, and prints what it says.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let api = connect(&args).await?;
    match &args.ask {
        Ask::List { state, min_age, stuck } => list(&api, *state, *min_age, *stuck).await,
        Ask::Show { order } => show(&api, *order).await,
        Ask::Retry(it) => interfere(&api, "retry", it).await,
        Ask::Skip(it) => interfere(&api, "skip", it).await,
        Ask::Compensate(it) => interfere(&api, "compensate", it).await,
        Ask::Cancel(it) => interfere(&api, "cancel", it).await,
        Ask::Resume(it) => interfere(&api, "resume", it).await,
    }
}

/// What is known of who asks.
struct Asker {
    access: Access,
    tls: Option<ClientTls>,
    /// Without one it is the running dev's.
    master_key: Option<MasterKey>,
}

fn read(args: &Args) -> Result<Asker, Faults> {
    let mut faults = Faults::default();
    let tls = args.tls.read(&mut faults);
    let access = args.access.only(OPERATOR, &mut faults);
    let master_key = if args.master_key.is_given() { args.master_key.read(&mut faults) } else { None };
    faults.none()?;
    Ok(Asker { access, tls, master_key })
}

/// As an operator, to the service that is named or to that of the running `dev`.
async fn connect(args: &Args) -> Result<Api, Failure> {
    let Asker { access, tls, master_key } = read(args)?;
    let dev = DevFile::find(&args.data)?;
    let name = Service::Fulfilment.name();
    let known = dev.and_then(|dev| dev.services.get(name).cloned());
    let url = args.url.clone().or(known).ok_or("no waybill dev runs here: name the service with --url")?;
    let nats_url = find_nats(args.nats_url.clone(), &args.data)?;
    let tokens = match master_key {
        Some(key) => {
            as_role(OPERATOR, &access, Tokens::open_as(&nats_url, &access, &key, &Clock::system()).await)?
        }
        None => Tokens::of_dev(&args.data, &nats_url).await?,
    };
    let api = Api::at(BTreeMap::from([(name.to_owned(), url)]));
    Ok(tls.iter().try_fold(api, Api::with_tls)?.with_tokens(tokens))
}

async fn list(api: &Api, state: Option<State>, min_age: Option<u32>, stuck: bool) -> Result<(), Failure> {
    let mut wanted = vec![format!("stuck={stuck}"), "limit=100".to_owned()];
    if let Some(state) = state.and_then(|state| state.to_possible_value()) {
        wanted.push(format!("state={}", state.get_name()));
    }
    if let Some(age) = min_age {
        wanted.push(format!("minAge={age}"));
    }
    let (query, mut cursor) = (wanted.join("&"), String::new());
    loop {
        let page = api.get(Service::Fulfilment, &format!("/ops/sagas?{query}{cursor}")).await?;
        let page = page.expect(200, "the list of sagas")?.body;
        for saga in page["items"].as_array().into_iter().flatten() {
            println!("{}", line(saga));
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(()),
        }
    }
}

/// One saga in a line.
fn line(saga: &Value) -> String {
    let text = |name: &str| saga[name].as_str().unwrap_or("-").to_owned();
    let stuck = if saga["stuck"] == true { "  STUCK" } else { "" };
    format!(
        "{}  {:<12} since {}  {:<10} {}{stuck}",
        text("orderId"),
        text("state"),
        text("since"),
        text("step"),
        text("reason")
    )
}

async fn show(api: &Api, order: Uuid) -> Result<(), Failure> {
    let saga = api.get(Service::Fulfilment, &format!("/ops/sagas/{order}")).await?;
    let saga = saga.expect(200, "the saga")?.body;
    println!("{}", line(&saga));
    for event in saga["events"].as_array().into_iter().flatten() {
        println!("{}", happened(event));
    }
    Ok(())
}

/// One event of a saga in a line.
fn happened(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let attempt = event["attempt"].as_i64().map_or_else(String::new, |attempt| format!(" #{attempt}"));
    let done = text("done");
    let done = if done.is_empty() { done } else { format!("{done} was done") };
    let detail = [done, text("reason"), text("detail")].join(" ");
    let (kind, step, actor) = (text("type"), text("step"), text("actor"));
    format!("  {}  {kind:<24} {:<14} {actor}  {}", text("time"), step + &attempt, detail.trim())
        .trim_end()
        .to_owned()
}

async fn interfere(api: &Api, verb: &str, it: &Interference) -> Result<(), Failure> {
    let (order, key) = (it.order, Clock::system().uuid().to_string());
    let path = format!("/ops/sagas/{order}/{verb}");
    let answer = api.post(Service::Fulfilment, &path, &key, &json!({ "reason": it.reason })).await?;
    answer.expect(202, verb)?;
    println!("{verb}: recorded for order {order}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn who_asks_is_said_before_or_after_the_verb() {
        for line in [
            "saga list --nats-nkey-file FILE --nats-ca CA --nats-api API --master-key-file KEY",
            "saga --nats-nkey-file FILE --nats-ca CA --nats-api API --master-key-file KEY list",
        ] {
            let args = Line::try_parse_from(line.split(' ')).unwrap().args;
            assert!(args.access.secrets().any(|file| *file == *"FILE"), "{args:?}");
            assert_eq!(args.access.flags()[1].1.as_deref(), Some("API"));
            assert_eq!(args.master_key.file(), Some(std::path::Path::new("KEY")));
            let faults = read(&args).err().unwrap().to_string();
            for flag in ["--nats-nkey-file", "--nats-ca", "--master-key-file"] {
                assert!(faults.contains(flag), "{flag} is missing in {faults}");
            }
        }
    }

    #[test]
    fn a_saga_and_its_events_fit_into_lines() {
        let saga =
            json!({ "orderId": "1", "state": "parked", "since": "2026", "step": "payment", "stuck": true });
        assert_eq!(line(&saga), "1  parked       since 2026  payment    -  STUCK");
        let event = json!({ "type": "step.requested", "step": "payment", "attempt": 2, "time": "2026", "actor": "a" });
        assert_eq!(happened(&event), "  2026  step.requested           payment #2     a");
        let event = json!({ "type": "step.requested", "step": "inventory", "done": "payment", "attempt": 1, "time": "2026", "actor": "a" });
        assert_eq!(happened(&event), "  2026  step.requested           inventory #1   a  payment was done");
    }
}
