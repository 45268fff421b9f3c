//! Who may do what on a server that trusts nobody, as data; [`Layout`](crate::Layout) makes the server's configuration
//! of it.
//!
//! Every stream has an account of its own, in which nobody is a user. Who may use it has an account too, without streams,
//! and comes in by doors: single subjects that the one account opens for the other. So an answer goes back through the
//! door that it was asked through, and a reply subject leads nowhere else, least of all into the stream of somebody else.

use crate::{Durable, access, keyring::PERSONAL_KEYS, quota, topology};
use events::{Context, feed};
use std::collections::{BTreeMap, BTreeSet};

/// What waits because it could not be handled.
pub const PARKED: &str = "PARKED";
/// How read models stand.
pub const READ_MODELS: &str = "READ_MODELS";
/// Which instances of services run.
pub const INSTANCES: &str = "INSTANCES";

/// What may be done with one stream. A bucket is a stream too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Write on these subjects.
    Write(Vec<String>),
    /// See how it is made and how much it holds, and nothing that is in it.
    Inspect,
    /// Get single messages.
    Look,
    /// Read it, with consumers that end with their reader.
    Read,
    /// Take what waits for this durable consumer.
    Consume(String),
    /// Be told of changes, in inboxes of one's own.
    Watch,
    /// Take what is written with one consumer, which he makes himself and which is called as he is.
    Follow,
    /// Make it and empty it: what is kept in memory only, by whom it belongs to.
    Remake,
    /// Overwrite single messages: of keys that are destroyed.
    Overwrite,
    /// See how far its consumers are.
    Survey,
    /// Everything.
    Provide,
}

/// Somebody whom the server knows.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The name of the user, and of the account.
    pub name: String,
    /// What it may do, stream by stream.
    pub rights: BTreeMap<String, BTreeSet<Right>>,
    /// Subjects on which processes of this user speak among themselves.
    pub among: Vec<String>,
}

/// What one door is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    /// One answer, or none.
    Ask,
    /// Several answers, soon.
    AskMany,
    /// Several answers, for as long as a consumer is asked.
    Pull,
    /// What a consumer sends by itself.
    Told,
}

impl Holder {
    /// Nobody, who may do nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), rights: BTreeMap::new(), among: Vec::new() }
    }

    /// With one more right.
    pub fn may(&mut self, right: Right, stream: impl Into<String>) {
        self.rights.entry(stream.into()).or_default().insert(right);
    }

    /// Whether it may do so, or everything.
    pub fn has(&self, right: &Right, stream: &str) -> bool {
        let rights = self.rights.get(stream);
        rights.is_some_and(|rights| rights.contains(right) || rights.contains(&Right::Provide))
    }

    /// May write facts and snapshots of a context and answer its clients: it owns it.
    pub fn owns(&mut self, context: Context) {
        self.may(Right::Write(topology::subjects(context)), context.stream());
        self.reads(context);
        for bucket in [topology::snapshots(context), topology::ledger(context)] {
            self.owns_bucket(&bucket);
        }
    }

    /// May read the facts of a context, and the snapshots of its aggregates.
    pub fn reads(&mut self, context: Context) {
        self.may(Right::Read, context.stream());
        self.may(Right::Look, kv(&topology::snapshots(context)));
    }

    /// May keep what it likes in a bucket.
    pub fn owns_bucket(&mut self, bucket: &str) {
        self.may(Right::Write(vec![format!("$KV.{bucket}.>")]), kv(bucket));
        self.may(Right::Look, kv(bucket));
    }

    /// May see what a bucket holds, and be told of changes.
    pub fn watches(&mut self, bucket: &str) {
        self.may(Right::Look, kv(bucket));
        self.may(Right::Watch, kv(bucket));
    }

    /// May react with this durable consumer, park what it cannot handle, and hear what operators ask for.
    pub fn reacts(&mut self, durable: &Durable) {
        self.may(Right::Consume(durable.name.clone()), durable.context.stream());
        let asked = durable.for_operators();
        self.may(Right::Consume(asked.name), asked.context.stream());
        self.parks(&durable.name);
    }

    /// May park under this name.
    pub fn parks(&mut self, consumer: &str) {
        self.may(Right::Write(vec![format!("$KV.{PARKED}.{consumer}.*")]), kv(PARKED));
        self.watches(PARKED);
        // The id of a dead letter does not say whose it is.
        self.may(Right::Write(vec![format!("evt.{}.deadletter.*", Context::Ops)]), Context::Ops.stream());
        self.reads(Context::Ops);
    }

    /// May tell of itself that it runs, and find the others.
    pub fn is_an_instance(&mut self, service: &str) {
        self.may(Right::Write(vec![format!("$KV.{INSTANCES}.{service}.*")]), kv(INSTANCES));
        self.watches(INSTANCES);
    }

    /// May keep a read model, and tell who follows it.
    pub fn projects(&mut self, service: &str) {
        self.may(Right::Write(vec![format!("$KV.{READ_MODELS}.{service}")]), kv(READ_MODELS));
        self.may(Right::Look, kv(READ_MODELS));
        self.may(
            Right::Write(vec![format!("evt.{}.projection.{service}", Context::Ops)]),
            Context::Ops.stream(),
        );
        self.parks(&format!("{service}-projection"));
        let told = feed::stream(service);
        self.may(Right::Write(vec![feed::mark(service), feed::filter(service)]), &told);
        self.may(Right::Read, &told);
        self.may(Right::Remake, told);
    }

    /// May follow the feed of a service's read model, and see what it still holds.
    pub fn follows(&mut self, service: &str) {
        let told = feed::stream(service);
        self.may(Right::Follow, &told);
        self.may(Right::Look, told);
    }

    /// May open personal data, and seal those of somebody new.
    pub fn seals(&mut self) {
        self.opens();
        self.may(Right::Write(vec![format!("$KV.{PERSONAL_KEYS}.*")]), kv(PERSONAL_KEYS));
    }

    /// May open personal data.
    pub fn opens(&mut self) {
        self.watches(PERSONAL_KEYS);
    }

    /// May destroy the keys of personal data.
    pub fn erases(&mut self) {
        self.seals();
        self.may(Right::Overwrite, kv(PERSONAL_KEYS));
    }

    /// May count what clients have left, together with others of its kind.
    pub fn counts(&mut self) {
        self.owns_bucket(quota::BUCKET);
        self.may(Right::Remake, kv(quota::BUCKET));
        self.among.push(quota::recall_subject("*"));
    }

    /// Every door that it needs: account, subject there, and what it is for. None leads where another does.
    pub(crate) fn doors(&self) -> BTreeSet<(String, String, Door)> {
        let mut doors = BTreeSet::new();
        for (stream, rights) in &self.rights {
            let all = rights.iter().flat_map(|right| self.opened(right, stream)).collect::<BTreeSet<_>>();
            let inside =
                |subject: &str| all.iter().any(|(other, _)| other != subject && covers(other, subject));
            doors.extend(
                all.iter()
                    .filter(|(subject, _)| !inside(subject))
                    .map(|(subject, door)| (stream.clone(), subject.clone(), *door)),
            );
        }
        doors
    }

    /// Subjects of requests that it may not make, though a door would let them through: durable consumers are made by
    /// those who provide them, and each is used by whom it belongs to.
    pub(crate) fn kept_from(&self, durables: &[(String, String)]) -> BTreeSet<String> {
        let api = |request: String| format!("{}.CONSUMER.{request}", access::SHARED_API);
        let mut kept = BTreeSet::new();
        for (stream, durable) in durables {
            let reads = self.has(&Right::Read, stream) && !self.has(&Right::Provide, stream);
            if !reads {
                continue;
            }
            kept.insert(api(format!("CREATE.{stream}.{durable}")));
            kept.insert(api(format!("CREATE.{stream}.{durable}.>")));
            kept.insert(api(format!("DELETE.{stream}.{durable}")));
            if !self.has(&Right::Consume(durable.clone()), stream) {
                kept.insert(api(format!("MSG.NEXT.{stream}.{durable}")));
            }
        }
        kept
    }

    fn opened(&self, right: &Right, stream: &str) -> Vec<(String, Door)> {
        let ask = |requests: &[&str]| {
            let subject = |request: &&str| (format!("$JS.API.{}", request.replace("{}", stream)), Door::Ask);
            requests.iter().map(subject).collect::<Vec<_>>()
        };
        let api = |request: &str, door| (format!("$JS.API.{request}"), door);
        match right {
            Right::Write(subjects) => subjects.iter().map(|subject| (subject.clone(), Door::Ask)).collect(),
            Right::Inspect => ask(&["STREAM.INFO.{}"]),
            Right::Look => {
                let mut doors = ask(&["STREAM.INFO.{}", "STREAM.MSG.GET.{}", "DIRECT.GET.{}.>"]);
                doors.push(api(&format!("DIRECT.GET.{stream}"), Door::AskMany));
                doors
            }
            Right::Read => {
                let mut doors = self.opened(&Right::Look, stream);
                doors.extend(ask(&READING));
                doors.push(api(&format!("CONSUMER.MSG.NEXT.{stream}.*"), Door::Pull));
                doors
            }
            Right::Consume(durable) => vec![
                api(&format!("CONSUMER.INFO.{stream}.{durable}"), Door::Ask),
                api(&format!("CONSUMER.MSG.NEXT.{stream}.{durable}"), Door::Pull),
                (format!("$JS.ACK.{stream}.{durable}.>"), Door::Ask),
                // As later servers will have it.
                (format!("$JS.ACK.*.*.{stream}.{durable}.>"), Door::Ask),
            ],
            Right::Watch => {
                let mut doors = ask(&READING);
                doors.extend(ask(&["CONSUMER.CREATE.{}"]));
                doors.push((format!("$JS.FC.{stream}.>"), Door::Ask));
                doors.push((format!("{}.>", access::inbox(&self.name)), Door::Told));
                doors
            }
            // With any other name it might be somebody else's.
            Right::Follow => {
                let own = |request: &str| format!("CONSUMER.{request}.{stream}.{}", self.name);
                let mut doors = self.opened(&Right::Consume(self.name.clone()), stream);
                let asked = [own("CREATE"), format!("{}.>", own("CREATE")), own("DELETE")];
                doors.extend(asked.map(|request| api(&request, Door::Ask)));
                doors
            }
            Right::Remake => ask(&["STREAM.CREATE.{}", "STREAM.UPDATE.{}", "STREAM.PURGE.{}"]),
            Right::Overwrite => ask(&["STREAM.MSG.DELETE.{}"]),
            Right::Survey => ask(&["CONSUMER.LIST.{}", "CONSUMER.NAMES.{}"]),
            Right::Provide => {
                let mut doors = self.opened(&Right::Read, stream);
                doors.extend(self.opened(&Right::Watch, stream));
                for right in [Right::Remake, Right::Overwrite, Right::Survey] {
                    doors.extend(self.opened(&right, stream));
                }
                doors.extend(ask(&["STREAM.DELETE.{}"]));
                doors
            }
        }
    }
}

/// What readers ask of consumers.
const READING: [&str; 4] =
    ["CONSUMER.CREATE.{}.*", "CONSUMER.CREATE.{}.*.>", "CONSUMER.INFO.{}.*", "CONSUMER.DELETE.{}.*"];

/// The stream of a bucket.
pub fn kv(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Whether every subject that fits `inner` fits `outer`.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Every stream and bucket of an installation, with the subjects on which it is written. `services` are those with read
/// models, `buckets` those that a service keeps beside the log.
pub fn streams(services: &[&str], buckets: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for context in Context::ALL {
        all.insert(context.stream().to_owned(), topology::subjects(context));
        for bucket in [topology::snapshots(context), topology::ledger(context)] {
            all.insert(kv(&bucket), vec![format!("$KV.{bucket}.>")]);
        }
    }
    for service in services {
        all.insert(feed::stream(service), vec![feed::mark(service), feed::filter(service)]);
    }
    for bucket in [PARKED, READ_MODELS, INSTANCES, PERSONAL_KEYS, quota::BUCKET].iter().chain(buckets) {
        all.insert(kv(bucket), vec![format!("$KV.{bucket}.>")]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_inside_another_or_not() {
        for (outer, inner, inside) in [
            ("a.>", "a.b", true),
            ("a.>", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.>", false),
            ("a.>", "a.*.c", true),
            ("a.*.c", "a.b.c", true),
            ("a.b", "a.*", false),
            ("a", "a", true),
        ] {
            assert_eq!(covers(outer, inner), inside, "{outer} {inner}");
        }
    }

    #[test]
    fn no_door_leads_where_another_does() {
        let mut holder = Holder::new("orders");
        holder.owns(Context::Orders);
        holder.reads(Context::Inventory);
        let durable = Durable::new("orders-inventory", Context::Inventory);
        holder.reacts(&durable);
        holder.projects("orders");
        let doors: Vec<_> = holder.doors().into_iter().collect();
        for (account, subject, _) in &doors {
            let others = doors.iter().filter(|(other, ..)| other == account);
            let doubled = others.filter(|(_, other, _)| covers(other, subject)).count();
            assert_eq!(doubled, 1, "{subject}");
        }
        let opened = |stream: &str, subject: &str| doors.iter().any(|(a, s, _)| a == stream && s == subject);
        assert!(opened("ORDERS", "evt.orders.>") && !opened("INVENTORY", "evt.inventory.>"));
        assert!(opened("INVENTORY", "$JS.ACK.INVENTORY.orders-inventory.>"));
        assert!(!doors.iter().any(|(_, subject, _)| subject.contains("STREAM.DELETE")));
        let kept = holder.kept_from(&[("INVENTORY".to_owned(), "shipping-inventory".to_owned())]);
        assert!(kept.contains("JS.API.CONSUMER.MSG.NEXT.INVENTORY.shipping-inventory"), "{kept:?}");
    }
}
