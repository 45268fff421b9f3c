//! What is to be replayed, read from the flags with all their faults at once.

use super::{
    Args, Copies,
    output::Output,
    pace::{Rate, Speed},
};
use crate::{
    access::{self, OPERATOR},
    databases::Secret,
    dev,
    failure::Failure,
    settings,
};
use events::{Aggregate, Context, FactType, Position, Subject};
use jiff::Timestamp;
use nats::{Access, Filter, From, MasterKey, Prefix, SeedError, Until};
use service::{
    Clock,
    config::{Faults, Span},
};
use std::{env, path::PathBuf, str::FromStr};
use uuid::Uuid;

/// Which events, from where to where, and what becomes of them.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) contexts: Vec<Context>,
    between: Between,
    pub(super) filter: Filter,
    pub(super) output: Output,
    pub(super) file: Option<PathBuf>,
    pub(super) target: Option<Target>,
    pub(super) rate: Option<Rate>,
    pub(super) speed: Option<Speed>,
    pub(super) follow: bool,
    pub(super) limit: usize,
    /// Who reads.
    pub(super) access: Access,
    /// The master key, where personal data are to be shown.
    pub(super) reveal: Option<MasterKey>,
}

/// Where copies go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// To other subjects; else to those that events have.
    pub(super) prefix: Option<Prefix>,
    /// To another NATS.
    pub(super) nats: Option<Secret>,
    /// Who comes to that.
    pub(super) access: Access,
}

/// From where to where.
#[derive(Clone, Debug, Default)]
struct Between {
    from: Places,
    to: Places,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// A sequence of the one stream, or of some streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Places {
    /// Nowhere in particular.
    #[default]
    Any,
    /// Of the one stream that there is.
    One(u64),
    /// Of these; of the others nowhere in particular.
    Each(Vec<Position>),
}

impl FromStr for Places {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::One(sequence));
        }
        let each = text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>();
        each.map(Self::Each)
            .map_err(|_| "expected a sequence, or one for each stream: ORDERS:1000,PAYMENTS:17")
    }
}

impl Places {
    fn of(&self, context: Context) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::One(sequence) => Some(*sequence),
            Self::Each(positions) => positions.iter().find(|at| at.context == context).map(|at| at.sequence),
        }
    }

    fn check(&self, flag: &'static str, contexts: &[Context], faults: &mut Faults) {
        match self {
            Self::One(_) if contexts.len() > 1 => {
                faults.add(
                    flag,
                    "a sequence is a place in one stream: name it with --stream, or say ORDERS:1000",
                );
            }
            Self::Any | Self::One(_) => {}
            Self::Each(positions) => {
                for foreign in positions.iter().filter(|at| !contexts.contains(&at.context)) {
                    faults.add(flag, format!("{} is not read", foreign.context.stream()));
                }
            }
        }
    }
}

impl Request {
    pub(super) fn read(args: &Args, clock: &Clock) -> Result<Self, Failure> {
        let copies = &args.copies;
        let mut flags = settings::flags([
            ("--from", args.from.clone()),
            ("--to", args.to.clone()),
            ("--correlation", args.correlation.clone()),
            ("--causation", args.causation.clone()),
            ("--event", args.event.clone()),
            ("--output", Some(args.output.clone())),
            ("--limit", args.limit.clone()),
            ("--to-subject", copies.to_subject.clone()),
            ("--rate", copies.rate.clone()),
            ("--speed", copies.speed.clone()),
        ]);
        let from = flags.optional::<Places>("--from").unwrap_or_default();
        let to = flags.optional::<Places>("--to").unwrap_or_default();
        let filter = Filter {
            subject: None,
            kinds: args.kinds.clone(),
            correlation: flags.optional("--correlation"),
            causation: flags.optional::<Uuid>("--causation"),
            event: flags.optional::<Uuid>("--event"),
        };
        let output = flags.optional::<Output>("--output");
        let limit = flags.optional::<usize>("--limit").unwrap_or(usize::MAX);
        let prefix = flags.optional::<Prefix>("--to-subject");
        let (rate, speed) = (flags.optional("--rate"), flags.optional("--speed"));
        let faults = flags.faults();
        let subject = args.subject.clone().or_else(|| aggregate(args.aggregate.as_deref()?, faults));
        let contexts = contexts(&args.stream, subject.as_deref(), faults);
        check_kinds(&args.kinds, faults);
        from.check("--from", &contexts, faults);
        to.check("--to", &contexts, faults);
        let since = args.since.as_deref().and_then(|text| time("--since", text, clock, faults));
        let until = args.until.as_deref().and_then(|text| time("--until", text, clock, faults));
        let copied = copies.to_subject.is_some() || copies.to_nats.is_some();
        let key = |faults| dev::master_key(&args.master_key, &args.data, "--reveal", faults);
        let reveal = if args.reveal { key(faults) } else { None };
        let access = args.access.only(OPERATOR, faults);
        let there = copies.access(env::var(NKEY).ok(), faults);
        let request = output.map(|output| Self {
            contexts,
            between: Between { from, to, since, until },
            filter: Filter { subject, ..filter },
            output,
            file: args.file.clone(),
            target: copied.then(|| Target { prefix, nats: copies.to_nats.clone(), access: there }),
            rate,
            speed,
            follow: args.follow,
            limit,
            access,
            reveal,
        });
        Ok(flags.finish(request)?)
    }

    /// Where the reading of a stream starts.
    pub(super) fn from(&self, context: Context) -> From {
        match (self.between.from.of(context), self.between.since) {
            (Some(sequence), _) => From::Sequence(sequence),
            (None, Some(time)) => From::Time(time),
            (None, None) => From::Start,
        }
    }

    /// Where it ends, as long as nothing is followed.
    pub(super) fn until(&self, context: Context) -> Until {
        match (self.between.to.of(context), self.between.until) {
            (Some(sequence), _) => Until::Sequence(sequence),
            (None, Some(time)) => Until::Time(time),
            (None, None) => Until::End,
        }
    }
}

/// The variable that holds the seed for another NATS. There is no such flag, for every user of the machine would see it.
const NKEY: &str = "WAYBILL_TO_NATS_NKEY";

impl Copies {
    /// Who comes to the other NATS, as far as its address does not say it.
    fn access(&self, variable: Option<String>, faults: &mut Faults) -> Access {
        let variable = variable.filter(|text| !text.is_empty());
        let (name, seed) = match (&self.to_nats_nkey_file, variable) {
            (Some(file), _) => ("--to-nats-nkey-file", Some(access::seed(file))),
            (None, Some(text)) => (NKEY, Some(text.parse().map_err(|error: SeedError| error.to_string()))),
            (None, None) => (NKEY, None),
        };
        let seed = seed.and_then(|seed| seed.map_err(|why| faults.add(name, why)).ok());
        let shown = [("--to-nats-cert", &self.to_nats_cert), ("--to-nats-key", &self.to_nats_key)];
        let certificate = access::shown_to(shown, ("--to-nats-ca", &self.to_nats_ca), faults);
        Access { seed, ca: self.to_nats_ca.clone(), certificate, ..Access::default() }
    }
}

fn check_kinds(kinds: &[String], faults: &mut Faults) {
    for kind in kinds.iter().filter(|kind| !FactType::all().any(|fact| fact.name == **kind)) {
        faults.add("--type", format!("there is no type {kind}"));
    }
}

/// The subject of `order/<id>`.
fn aggregate(text: &str, faults: &mut Faults) -> Option<String> {
    let found = Subject::of_name(text);
    if found.is_none() {
        let kinds = Aggregate::ALL.map(Aggregate::token).join(", ");
        faults.add("--aggregate", format!("expected KIND/ID, where KIND is one of {kinds}"));
    }
    found.map(|subject| subject.to_string())
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
fn time(flag: &'static str, text: &str, clock: &Clock, faults: &mut Faults) -> Option<Timestamp> {
    let ago = || text.parse().ok().and_then(|Span(ago)| clock.now().checked_sub(ago).ok());
    let time = text.parse().ok().or_else(ago);
    if time.is_none() {
        faults.add(flag, "expected a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m");
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use nats::Seed;

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

    const ORDERS: Context = Context::Orders;

    #[test]
    fn the_defaults_are_everything_from_the_start() {
        let request = read(&[]).unwrap();
        assert_eq!((request.from(ORDERS), request.until(ORDERS)), (From::Start, Until::End));
        assert_eq!(request.contexts, Context::ALL);
    }

    #[test]
    fn an_aggregate_names_its_stream() {
        let request = read(&["--aggregate", "item/TEA-1", "--since", "10m", "--until", "5m"]).unwrap();
        assert_eq!(request.contexts, [Context::Inventory]);
        assert_eq!(request.filter.subject.as_deref(), Some("evt.inventory.item.TEA-1"));
        assert_eq!(request.from(ORDERS), From::Time("2026-01-31T11:50:00Z".parse().unwrap()));
        assert_eq!(request.until(ORDERS), Until::Time("2026-01-31T11:55:00Z".parse().unwrap()));
    }

    #[test]
    fn a_sequence_is_of_one_stream_and_positions_are_of_several() {
        assert!(read(&["--from", "3"]).unwrap_err().contains("--from"), "of which stream?");
        let one = read(&["--stream", "ORDERS", "--from", "3", "--to", "9"]).unwrap();
        assert_eq!((one.from(ORDERS), one.until(ORDERS)), (From::Sequence(3), Until::Sequence(9)));
        let some = read(&["--from", "ORDERS:3,PAYMENTS:5", "--to", "PAYMENTS:9"]).unwrap();
        assert_eq!((some.from(ORDERS), some.until(ORDERS)), (From::Sequence(3), Until::End));
        assert_eq!(some.until(Context::Payments), Until::Sequence(9));
        assert_eq!(some.from(Context::Fraud), From::Start);
        assert!(read(&["--stream", "ORDERS", "--from", "PAYMENTS:5"]).unwrap_err().contains("not read"));
    }

    #[test]
    fn copies_go_elsewhere_or_are_refused() {
        let request = read(&["--to-subject", "audit", "--rate", "500"]).unwrap();
        let target = request.target.unwrap();
        assert!(target.prefix == "audit".parse().ok() && target.nats.is_none());
        assert_eq!(request.rate, Some(Rate(500.0)));
        for own in ["evt", "evt.orders", "$KV.x", "a.>"] {
            assert!(read(&["--to-subject", own]).unwrap_err().contains("--to-subject"), "{own}");
        }
        for both in [["--to-subject", "a", "--reveal"], ["--to-nats", "n:1", "--file=x"]] {
            assert!(read(&both).unwrap_err().contains("cannot be used with"), "{both:?}");
        }
    }

    #[test]
    fn what_says_who_comes_to_another_nats_is_never_shown() {
        let request = read(&["--to-nats", "nats://ada:s3cret@staging"]).unwrap();
        assert!(!format!("{request:?}").contains("s3cret"), "{request:?}");
        let (line, seed) = (Line::parse_from(["replay"]), Seed::generate());
        let mut faults = Faults::default();
        let access = line.args.copies.access(Some(seed.reveal().to_owned()), &mut faults);
        assert_eq!(access.seed.map(|seed| seed.public().to_owned()).as_deref(), Some(seed.public()));
        line.args.copies.access(Some("SUSECRET".to_owned()), &mut faults);
        let faults = faults.to_string();
        assert!(faults.contains(NKEY) && !faults.contains("SUSECRET"), "{faults}");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let flags = "--stream ORDERS,NOPE --from x --to y --type order.gone --aggregate cart/1 --output xml --since then \
                     --causation me --event you --rate none --nats-ca /no/ca --to-nats-nkey-file /no/seed --to-nats-ca /no/ca \
                     --to-nats-cert /no/cert";
        let flags: Vec<_> = flags.split_whitespace().collect();
        assert!(read(&flags).unwrap_err().contains("--since"), "clap: either from or since");
        let flags: Vec<_> = flags.into_iter().filter(|flag| !["--since", "then"].contains(flag)).collect();
        let faults = read(&flags).unwrap_err();
        for flag in [
            "--stream",
            "--from",
            "--to",
            "--type",
            "--aggregate",
            "--output",
            "--causation",
            "--event",
            "--rate",
            "--nats-ca",
            "--to-nats-nkey-file",
            "--to-nats-ca",
            "--to-nats-cert",
            "--to-nats-key",
        ] {
            assert!(faults.contains(&format!("{flag}:")), "{flag} is missing in {faults}");
        }
        assert!(read(&["--follow", "--until", "1m"]).unwrap_err().contains("cannot be used with"));
        assert!(read(&["--stream", "ORDERS", "--subject", "evt.payments.>"]).is_err());
    }
}
