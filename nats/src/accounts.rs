//! The accounts and users of a server that trusts nobody, as its configuration file has them.

use crate::{
    SHARED_API, inbox,
    rights::{Door, Holder, Right},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// Who looks after the servers of a cluster, in the account that servers keep for themselves.
pub const SYSTEM: &str = "system";

/// What is asked for that: how servers are, to forget one that will not come back, and that another one leads.
const OF_SERVERS: [&str; 4] = [
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.PING.>",
    "$JS.API.SERVER.REMOVE",
    "$JS.API.META.LEADER.STEPDOWN",
];

/// Everybody who comes to a server, and everything that is there.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Who comes.
    pub holders: Vec<Holder>,
    /// Every stream, with the subjects on which it is written.
    pub streams: BTreeMap<String, Vec<String>>,
    /// Every durable consumer: stream and name.
    pub durables: Vec<(String, String)>,
}

/// What a user may publish and subscribe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that it may publish on.
    pub publish: BTreeSet<String>,
    /// Except these.
    pub kept_from: BTreeSet<String>,
    /// Subjects that it may listen on.
    pub subscribe: BTreeSet<String>,
}

/// The account of a stream.
fn account(stream: &str) -> String {
    format!("stream-{stream}")
}

/// How a subject in the account of a stream is called by who comes through a door.
fn outside(subject: &str) -> String {
    match subject.strip_prefix("$JS.API.") {
        Some(request) => format!("{SHARED_API}.{request}"),
        None => subject.to_owned(),
    }
}

impl Layout {
    /// What a user may publish and subscribe: the doors of its account, and its own inboxes.
    pub fn permissions(&self, holder: &Holder) -> Permissions {
        let asked = holder.doors().into_iter().filter(|(_, _, door)| *door != Door::Told);
        let mut publish: BTreeSet<_> = asked.map(|(_, subject, _)| outside(&subject)).collect();
        let own = format!("{}.>", inbox(&holder.name));
        let mut subscribe = BTreeSet::from([own.clone()]);
        if !holder.among.is_empty() {
            publish.insert(own);
            publish.extend(holder.among.iter().cloned());
            subscribe.extend(holder.among.iter().cloned());
        }
        Permissions { publish, kept_from: holder.kept_from(&self.durables), subscribe }
    }

    /// The configuration, with the public key of every holder by its name. Who has none does not come in.
    pub fn render(&self, keys: &BTreeMap<String, String>) -> String {
        let mut text = String::from(
            "# Made by waybill nats-config: who may do what. Not to be edited: it is made again when Waybill changes.\n\
             # No secret is in here: these are the public halves of keys.\n\naccounts {\n",
        );
        system(keys.get(SYSTEM), &mut text);
        for stream in self.streams.keys() {
            self.stream(stream, &mut text);
        }
        for holder in &self.holders {
            self.holder(holder, keys.get(&holder.name), &mut text);
        }
        text.push_str("}\n");
        text
    }

    fn stream(&self, stream: &str, text: &mut String) {
        let mut doors: BTreeMap<(String, Door), Vec<&str>> = BTreeMap::new();
        for holder in &self.holders {
            for (_, subject, door) in holder.doors().into_iter().filter(|(account, ..)| account == stream) {
                doors.entry((subject, door)).or_default().push(&holder.name);
            }
        }
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "  {:?} {{\n    jetstream: enabled\n    exports: [", account(stream));
        for ((subject, door), names) in doors {
            let accounts = list(names);
            let _ = match door {
                Door::Told => writeln!(text, "      {{ stream: {subject:?}, accounts: {accounts} }}"),
                Door::Ask => writeln!(text, "      {{ service: {subject:?}, accounts: {accounts} }}"),
                Door::AskMany => writeln!(
                    text,
                    "      {{ service: {subject:?}, response_type: stream, threshold: \"10s\", accounts: {accounts} }}"
                ),
                Door::Pull => {
                    writeln!(
                        text,
                        "      {{ service: {subject:?}, response_type: stream, accounts: {accounts} }}"
                    )
                }
            };
        }
        text.push_str("    ]\n  }\n");
    }

    fn holder(&self, holder: &Holder, key: Option<&String>, text: &mut String) {
        let Permissions { publish, kept_from, subscribe } = self.permissions(holder);
        let user = key.map(|key| {
            format!(
                "{{ nkey: {key}, permissions: {{\n      publish: {{\n        allow: {}\n        deny: {}\n      }}\n      subscribe: {{ allow: {} }}\n    }} }}",
                lines(&publish),
                lines(&kept_from),
                list(subscribe.iter().map(String::as_str)),
            )
        });
        let _ = writeln!(
            text,
            "  {:?} {{\n    users: [{}]\n    imports: [",
            holder.name,
            user.unwrap_or_default()
        );
        for (stream, subject, door) in holder.doors() {
            let from = format!("{{ account: {:?}, subject: {subject:?} }}", account(&stream));
            let to = outside(&subject);
            let _ = match door {
                Door::Told => writeln!(text, "      {{ stream: {from} }}"),
                _ if to == subject => writeln!(text, "      {{ service: {from} }}"),
                _ => writeln!(text, "      {{ service: {from}, to: {to:?} }}"),
            };
        }
        text.push_str("    ]\n  }\n");
    }

    /// Who may do what with each stream, as a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| user | writes | reads | reacts with |\n|---|---|---|---|\n");
        for holder in &self.holders {
            let all = holder.rights.values().all(|rights| rights.contains(&Right::Provide));
            if all && !holder.rights.is_empty() {
                let _ = writeln!(text, "| {} | everything | everything | - |", holder.name);
                continue;
            }
            let (mut writes, mut reads, mut reacts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (stream, rights) in &holder.rights {
                for right in rights {
                    match right {
                        Right::Write(subjects) => writes.extend(subjects.iter().map(|it| format!("`{it}`"))),
                        Right::Read | Right::Look => drop(reads.insert(format!("`{stream}`"))),
                        Right::Consume(durable) => drop(reacts.insert(format!("`{durable}`"))),
                        _ => {}
                    }
                }
            }
            let cell = |all: BTreeSet<String>| {
                if all.is_empty() { "-".to_owned() } else { all.into_iter().collect::<Vec<_>>().join(", ") }
            };
            let _ =
                writeln!(text, "| {} | {} | {} | {} |", holder.name, cell(writes), cell(reads), cell(reacts));
        }
        text
    }
}

/// The account of the servers, by the name that it has where nobody gives it another, so that `--signal reload` takes it. Its
/// user could end connections and delete what is in other accounts, were it not for the list.
fn system(key: Option<&String>, text: &mut String) {
    let inboxes = ["_INBOX.>".to_owned(), format!("{}.>", inbox(SYSTEM))];
    let user = key.map(|key| {
        format!(
            "{{ nkey: {key}, permissions: {{ publish: {}, subscribe: {} }} }}",
            list(OF_SERVERS),
            list(inboxes.iter().map(String::as_str)),
        )
    });
    let _ = writeln!(text, "  \"$SYS\" {{ users: [{}] }}", user.unwrap_or_default());
}

fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = texts.into_iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

fn lines(texts: &BTreeSet<String>) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| format!("{text:?}")).collect();
    if texts.is_empty() {
        return "[]".to_owned();
    }
    format!("[\n          {}\n        ]", quoted.join("\n          "))
}
