//! What is to be replayed, read from the flags with all their faults at once.

use super::{Args, output::Output};
use crate::{dev, failure::Failure, settings};
use events::{Aggregate, Context, FactType};
use jiff::Timestamp;
use nats::{Filter, From, MasterKey};
use service::{
    Clock,
    config::{Faults, Span},
};

/// Which events, from where, and how they are printed.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) contexts: Vec<Context>,
    pub(super) from: From,
    pub(super) filter: Filter,
    pub(super) output: Output,
    pub(super) follow: bool,
    pub(super) limit: usize,
    /// The master key, where personal data are to be shown.
    pub(super) reveal: Option<MasterKey>,
}

impl Request {
    pub(super) fn read(args: &Args, clock: &Clock) -> Result<Self, Failure> {
        let mut flags = settings::flags([
            ("--from", args.from.clone()),
            ("--correlation", args.correlation.clone()),
            ("--output", Some(args.output.clone())),
            ("--limit", args.limit.clone()),
        ]);
        let sequence = flags.optional::<u64>("--from");
        let correlation = flags.optional("--correlation");
        let output = flags.optional::<Output>("--output");
        let limit = flags.optional::<usize>("--limit").unwrap_or(usize::MAX);
        let faults = flags.faults();
        let subject = args.subject.clone().or_else(|| aggregate(args.aggregate.as_deref()?, faults));
        let contexts = contexts(&args.stream, subject.as_deref(), faults);
        for kind in &args.kinds {
            if !FactType::all().any(|fact| fact.name == kind) {
                faults.add("--type", format!("there is no type {kind}"));
            }
        }
        if sequence.is_some() && contexts.len() > 1 {
            faults.add("--from", "a sequence is a place in one stream: name it with --stream");
        }
        let since = args.since.as_deref().and_then(|text| time(text, clock, faults));
        let from = match (sequence, since) {
            (Some(sequence), _) => From::Sequence(sequence),
            (None, Some(time)) => From::Time(time),
            (None, None) => From::Start,
        };
        let filter = Filter { subject, kinds: args.kinds.clone(), correlation };
        let key = |faults| dev::master_key(&args.master_key, &args.data, "--reveal", faults);
        let (follow, reveal) = (args.follow, if args.reveal { key(faults) } else { None });
        let request = output.map(|output| Self { contexts, from, filter, output, follow, limit, reveal });
        Ok(flags.finish(request)?)
    }
}

/// The subject of `order/<id>`.
fn aggregate(text: &str, faults: &mut Faults) -> Option<String> {
    let found = text.split_once('/').and_then(|(kind, id)| {
        let one = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') && !id.is_empty();
        Some((Aggregate::ALL.into_iter().find(|aggregate| aggregate.token() == kind)?, one.then_some(id)?))
    });
    if found.is_none() {
        let kinds = Aggregate::ALL.map(Aggregate::token).join(", ");
        faults.add("--aggregate", format!("expected KIND/ID, where KIND is one of {kinds}"));
    }
    found.map(|(kind, id)| kind.subject(id).as_str().to_owned())
}

/// The streams that are named and can hold the subject.
fn contexts(streams: &[String], subject: Option<&str>, faults: &mut Faults) -> Vec<Context> {
    let all = streams.iter().any(|stream| stream == "all");
    for stream in streams.iter().filter(|stream| *stream != "all") {
        if Context::of_stream(stream).is_none() {
            let known = Context::ALL.map(Context::stream).join(", ");
            faults.add("--stream", format!("there is no stream {stream}: expected all or {known}"));
        }
    }
    let named = |context: &Context| all || streams.iter().any(|stream| stream == context.stream());
    let holds = |context: &Context| {
        let mut tokens = subject.unwrap_or("evt.>").split('.');
        matches!(tokens.next(), Some("evt" | "*"))
            && tokens.next().is_some_and(|token| matches!(token, ">" | "*") || token == context.token())
    };
    let contexts: Vec<_> = Context::ALL.into_iter().filter(named).collect();
    let holding: Vec<_> = contexts.iter().copied().filter(holds).collect();
    if holding.is_empty() && !contexts.is_empty() {
        faults.add("--subject", "no stream named holds such a subject: they are evt.CONTEXT.AGGREGATE.ID");
    }
    holding
}

/// A time, or how long ago.
fn time(text: &str, clock: &Clock, faults: &mut Faults) -> Option<Timestamp> {
    let ago = || text.parse().ok().and_then(|Span(ago)| clock.now().checked_sub(ago).ok());
    let time = text.parse().ok().or_else(ago);
    if time.is_none() {
        faults.add("--since", "expected a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m");
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(flags: &[&str]) -> Result<Request, String> {
        let line = Line::try_parse_from(["replay"].iter().chain(flags)).map_err(|error| error.to_string())?;
        let clock = Clock::manual("2026-01-31T12:00:00Z".parse().unwrap());
        Request::read(&line.args, &clock).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_everything_from_the_start() {
        let request = read(&[]).unwrap();
        assert_eq!((request.contexts, request.from), (Context::ALL.to_vec(), From::Start));
    }

    #[test]
    fn an_aggregate_names_its_stream() {
        let request = read(&["--aggregate", "item/TEA-1", "--since", "10m"]).unwrap();
        assert_eq!(request.contexts, [Context::Inventory]);
        assert_eq!(request.filter.subject.as_deref(), Some("evt.inventory.item.TEA-1"));
        assert_eq!(request.from, From::Time("2026-01-31T11:50:00Z".parse().unwrap()));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let flags =
            "--stream ORDERS,NOPE --from x --since y --type order.gone --aggregate cart/1 --output xml";
        let flags: Vec<_> = flags.split(' ').collect();
        assert!(read(&flags).unwrap_err().contains("--since"), "clap: either from or since");
        let flags: Vec<_> = flags.into_iter().filter(|flag| !["--since", "y"].contains(flag)).collect();
        let faults = read(&flags).unwrap_err();
        for flag in ["--stream", "--from", "--type", "--aggregate", "--output"] {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
        assert!(read(&["--from", "3"]).unwrap_err().contains("--from"), "of which stream?");
        assert!(read(&["--stream", "ORDERS", "--subject", "evt.payments.>"]).is_err());
        assert!(read(&["--stream", "ORDERS", "--from", "3"]).is_ok());
    }
}
