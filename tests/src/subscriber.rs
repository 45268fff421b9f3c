//! A NATS client in a hundred lines: it reads the protocol from the wire, so that what it sees does not depend on the
//! client library that Waybill uses.

use crate::eventually;
use serde_json::Value;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// A message as it came over the wire.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body; null where it is no JSON.
    pub body: Value,
}

impl Received {
    /// A header, empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Listens to a subject. It sees what is published, also what the stream then refuses.
#[derive(Debug)]
pub struct Subscriber {
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<io::Result<()>>,
}

impl Subscriber {
    /// Listens from now on: what is published after this returns is seen.
    pub async fn listen(nats_url: &str, subject: &str) -> io::Result<Self> {
        Self::say(nats_url, &format!("SUB {subject} 1\r\n")).await
    }

    /// Connects and says this; answers when the server has heard it.
    async fn say(nats_url: &str, lines: &str) -> io::Result<Self> {
        let address = nats_url.trim_start_matches("nats://");
        let (from, mut to) = TcpStream::connect(address).await?.into_split();
        let mut from = BufReader::new(from);
        let hello = r#"{"verbose":false,"pedantic":false,"headers":true,"lang":"tests","version":"0"}"#;
        to.write_all(format!("CONNECT {hello}\r\n{lines}PING\r\n").as_bytes()).await?;
        let mut line = String::new();
        while line != "PONG\r\n" {
            // What comes before is the server's greeting.
            line.clear();
            if from.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let received = Arc::default();
        let task = tokio::spawn(receive(from, to, Arc::clone(&received)));
        Ok(Self { received, task })
    }

    /// What was received so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks NATS itself, such as `$JS.API.CONSUMER.INFO.ORDERS.inventory-orders`, and gives the answer.
pub async fn request(nats_url: &str, subject: &str, body: &str) -> io::Result<Value> {
    let inbox = Subscriber::listen(nats_url, "_INBOX.tests.*").await?;
    let asked = format!("_INBOX.tests.{}", fastrand::u64(..));
    let lines = format!("PUB {subject} {asked} {}\r\n{body}\r\n", body.len());
    let _connection = Subscriber::say(nats_url, &lines).await?;
    let answer = eventually(subject, ANSWERED_WITHIN, async || {
        inbox.received().into_iter().find(|answer| answer.subject == asked)
    });
    Ok(answer.await.body)
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    received: Arc<Mutex<Vec<Received>>>,
) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        match words.next() {
            Some("PING") => to.write_all(b"PONG\r\n").await?,
            // HMSG <subject> <sid> [reply] <bytes of headers> <bytes of all>, or MSG <subject> <sid> [reply] <bytes>
            Some(verb @ ("HMSG" | "MSG")) => {
                let words: Vec<_> = words.collect();
                let number = |back: usize| {
                    let word = words.len().checked_sub(back).and_then(|place| words.get(place));
                    word.and_then(|word| word.parse::<usize>().ok()).ok_or(io::ErrorKind::InvalidData)
                };
                let (of_headers, of_all) = (if verb == "HMSG" { number(2)? } else { 0 }, number(1)?);
                let subject = words.first().copied().unwrap_or_default().to_owned();
                let mut bytes = vec![0; of_all + 2];
                from.read_exact(&mut bytes).await?;
                let headers = headers(bytes.get(..of_headers).unwrap_or_default());
                let body = bytes.get(of_headers..of_all).unwrap_or_default();
                let body = serde_json::from_slice(body).unwrap_or_default();
                let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
                received.push(Received { subject, headers, body });
            }
            _ => {}
        }
    }
}

/// `NATS/1.0`, then a header per line.
fn headers(block: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(block);
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}
