//! Somebody with a key who tries what he should not: speaks to NATS by himself, and hears what it refuses.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nats::Seed;
use serde_json::{Value, json};
use std::io;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// A connection to NATS.
pub struct Intruder {
    stream: BufReader<TcpStream>,
    /// What came for its subscriptions: subject and body.
    heard: Vec<(String, Vec<u8>)>,
    asked: u64,
    inbox: String,
}

/// Answers a challenge of the server, as its protocol has it.
fn sign(seed: &Seed, challenge: &str) -> io::Result<String> {
    let pair = nkeys::KeyPair::from_seed(seed.reveal());
    let signed = pair.and_then(|pair| pair.sign(challenge.as_bytes())).map_err(io::Error::other)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(signed))
}

/// What NATS says to somebody whom it does not let in, or let do something.
pub type Refusal = String;

impl Intruder {
    /// Comes in with the key of a role; with none, as what `with` says of him.
    pub async fn enter(
        url: &str,
        role: &str,
        seed: Option<&Seed>,
        with: Value,
    ) -> io::Result<Result<Self, Refusal>> {
        let address = url.trim_start_matches("nats://");
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let info: Value =
            serde_json::from_str(line.trim_start_matches("INFO ").trim()).map_err(io::Error::other)?;
        let mut connect =
            json!({ "verbose": false, "pedantic": false, "lang": "test", "version": "0", "headers": true });
        if let Some(seed) = seed {
            connect["nkey"] = seed.public().into();
            connect["sig"] = sign(seed, info["nonce"].as_str().unwrap_or_default())?.into();
        }
        for (name, value) in with.as_object().into_iter().flatten() {
            connect[name] = value.clone();
        }
        stream.write_all(format!("CONNECT {connect}\r\n").as_bytes()).await?;
        let inbox = format!("{}.intruder", nats::inbox(role));
        let mut intruder = Self { stream, heard: Vec::new(), asked: 0, inbox };
        Ok(match intruder.settle().await? {
            None => Ok(intruder),
            Some(refusal) => Err(refusal),
        })
    }

    /// Publishes; what NATS says against it.
    pub async fn publish(&mut self, subject: &str, reply: &str, body: &str) -> io::Result<Option<Refusal>> {
        let line = format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len());
        self.stream.write_all(line.as_bytes()).await?;
        self.settle().await
    }

    /// Listens; what NATS says against it.
    pub async fn subscribe(&mut self, subject: &str) -> io::Result<Option<Refusal>> {
        self.asked += 1;
        self.stream.write_all(format!("SUB {subject} {}\r\n", self.asked).as_bytes()).await?;
        self.settle().await
    }

    /// Asks, and waits for the answer; or what NATS says against it.
    pub async fn request(&mut self, subject: &str, body: &str) -> io::Result<Result<Value, Refusal>> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        if let Some(refusal) = self.subscribe(&reply).await? {
            return Ok(Err(refusal));
        }
        if let Some(refusal) = self.publish(subject, &reply, body).await? {
            return Ok(Err(refusal));
        }
        loop {
            if let Some((_, body)) = self.heard.iter().find(|(subject, _)| *subject == reply) {
                return Ok(Ok(serde_json::from_slice(body)
                    .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))));
            }
            self.read().await?;
        }
    }

    /// Everything that came so far on these subjects.
    pub fn heard(&self, prefix: &str) -> usize {
        self.heard.iter().filter(|(subject, _)| subject.starts_with(prefix)).count()
    }

    /// Waits until NATS has read everything; what it said against it.
    async fn settle(&mut self) -> io::Result<Option<Refusal>> {
        self.stream.write_all(b"PING\r\n").await?;
        let mut refusal = None;
        loop {
            let Some(line) = self.read().await? else {
                return Ok(refusal.or_else(|| Some("the connection is closed".to_owned())));
            };
            if line == "PONG" {
                return Ok(refusal);
            }
            if let Some(error) = line.strip_prefix("-ERR ") {
                refusal = Some(error.to_owned());
            }
        }
    }

    /// One line, and what belongs to it; none where the connection is closed.
    async fn read(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        let words: Vec<_> = line.split(' ').collect();
        if ["MSG", "HMSG"].contains(&words[0]) {
            let size: usize = words.last().and_then(|size| size.parse().ok()).unwrap_or_default();
            let mut body = vec![0; size + 2];
            self.stream.read_exact(&mut body).await?;
            body.truncate(size);
            if words[0] == "HMSG" {
                let head: usize = words[words.len() - 2].parse().unwrap_or_default();
                body.drain(..head.min(size));
            }
            self.heard.push((words[1].to_owned(), body));
        }
        if line == "PING" {
            self.stream.write_all(b"PONG\r\n").await?;
        }
        Ok(Some(line))
    }
}
