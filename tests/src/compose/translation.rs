//! What a container reads otherwise where it is a process of this machine: hosts with their ports, its own ports, what is
//! mounted, and the network. A name that is written wrong is none of these, and stays wrong.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

/// Ports of this machine in the place of those of containers.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<BTreeMap<(String, u16), u16>>);

impl Ports {
    /// Always the same for a port of a container.
    pub(super) fn of(&self, service: &str, port: u16) -> u16 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry((service.to_owned(), port)).or_insert_with(free)
    }
}

/// One that nobody listens on, and that the system gives to nobody who calls: it is used much later.
fn free() -> u16 {
    const FIRST: u16 = 10_000;
    const EACH: u16 = 100;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests that run as other processes look elsewhere.
    let begin = FIRST + u16::try_from(process::id() % 150).unwrap_or_default() * EACH;
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// How the texts of one container are read.
#[derive(Debug)]
pub(super) struct Translation<'a> {
    /// Its name.
    pub(super) service: &'a str,
    /// The folder that stands for its file system.
    pub(super) root: PathBuf,
    /// Where in it something is mounted.
    pub(super) mounted: Vec<String>,
    /// Names of all containers.
    pub(super) hosts: Vec<&'a str>,
    /// The network that they are in.
    pub(super) network: &'a str,
    pub(super) ports: &'a Ports,
}

/// This machine, as clients of a process see it.
const HERE: &str = "127.0.0.1";
const LOOPBACK: &str = "127.0.0.0/8";
/// Where secrets are, some of which are named by a script only.
const SECRETS: &str = "/run/secrets";

impl Translation<'_> {
    /// Where a path of the container is here.
    pub(super) fn inside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The value of a variable.
    pub(super) fn variable(&self, name: &str, value: &str) -> String {
        match value.parse() {
            Ok(port) if name.ends_with("PORT") => self.ports.of(self.service, port).to_string(),
            _ => self.text(value),
        }
    }

    /// Any other text.
    pub(super) fn text(&self, text: &str) -> String {
        let (mut read, mut rest) = (String::new(), text);
        while let Some(next) = rest.chars().next() {
            let before = read.chars().next_back();
            if let Some((taken, here)) = self.place(before, rest).or_else(|| self.path(before, rest)) {
                read.push_str(&here);
                rest = &rest[taken..];
            } else {
                read.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        read
    }

    /// A host with its port, or the network, at the beginning of a text: how long it is, and what it is here.
    fn place(&self, before: Option<char>, text: &str) -> Option<(usize, String)> {
        if before.is_some_and(in_name) {
            return None;
        }
        if text.starts_with(self.network) {
            return Some((self.network.len(), LOOPBACK.to_owned()));
        }
        let (host, service) = self
            .hosts
            .iter()
            .map(|host| (*host, *host))
            .chain([(HERE, self.service)])
            .find(|(host, _)| text.strip_prefix(host).is_some_and(|rest| rest.starts_with(':')))?;
        let digits: String = text[host.len() + 1..].chars().take_while(char::is_ascii_digit).collect();
        let port = self.ports.of(service, digits.parse().ok()?);
        Some((host.len() + 1 + digits.len(), format!("{HERE}:{port}")))
    }

    /// A path to what is mounted, or into it.
    fn path(&self, before: Option<char>, text: &str) -> Option<(usize, String)> {
        if !text.starts_with('/') || before.is_some_and(|before| before == '/' || in_name(before)) {
            return None;
        }
        let whole = |path: &&str| {
            text.strip_prefix(path).is_some_and(|rest| !rest.chars().next().is_some_and(in_name))
        };
        let mounted = self.mounted.iter().map(String::as_str).chain([SECRETS]).find(whole)?;
        Some((mounted.len(), here(&self.inside(mounted))))
    }
}

fn here(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Whether a name or a path goes on with it.
fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_wrong_stays_wrong() {
        let ports = Ports::default();
        let mounted = vec!["/data".to_owned(), "/run/secrets/tls-ca".to_owned()];
        let translation = Translation {
            service: "nats-1",
            root: "/root".into(),
            mounted,
            hosts: vec!["nats-1", "nats"],
            network: "172.28.0.0/24",
            ports: &ports,
        };
        let (client, route) = (ports.of("nats-1", 4222), ports.of("nats-1", 6222));
        assert_ne!(client, route);
        for (text, read) in [
            ("nats://nats-1:4222,nats://x:4222", format!("nats://127.0.0.1:{client},nats://x:4222")),
            ("//waybill:a@nats-1:6222", format!("//waybill:a@127.0.0.1:{route}")),
            ("http://127.0.0.1:4222/", format!("http://127.0.0.1:{client}/")),
            ("/data and /database or a/data", "/root/data and /database or a/data".to_owned()),
            ("ca=/run/secrets/tls-ca&", "ca=/root/run/secrets/tls-ca&".to_owned()),
            ("nats-1 my-nats-1:4222 172.28.0.0/24", "nats-1 my-nats-1:4222 127.0.0.0/8".to_owned()),
        ] {
            assert_eq!(translation.text(text), read);
        }
        assert_eq!(translation.variable("PORT", "4222"), client.to_string());
        assert_eq!(translation.variable("REPLICAS", "4222"), "4222");
    }
}
