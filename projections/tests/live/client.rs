//! A client of server-sent events that shares no code with what it observes.

use serde_json::Value;
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

/// One event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// An answer that goes on.
pub(crate) struct Events {
    stream: TcpStream,
    pub(crate) status: u16,
    pub(crate) head: String,
    /// What has arrived and is not read yet, without the framing of chunks.
    text: String,
    raw: Vec<u8>,
    chunked: bool,
    /// The id of the last event.
    pub(crate) last: String,
    pub(crate) retry: Option<u32>,
    over: bool,
}

impl Events {
    pub(crate) async fn open(
        address: SocketAddr,
        path: &str,
        user: Uuid,
        last: Option<&str>,
    ) -> io::Result<Self> {
        let header = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let mut this = Self::with(address, path, user, &header).await?;
        last.unwrap_or_default().clone_into(&mut this.last);
        Ok(this)
    }

    pub(crate) async fn with(address: SocketAddr, path: &str, user: Uuid, headers: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-user: {user}\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut this = Self {
            stream,
            status: 0,
            head: String::new(),
            text: String::new(),
            raw: Vec::new(),
            chunked: false,
            last: String::new(),
            retry: None,
            over: false,
        };
        let end = loop {
            if let Some(end) = this.raw.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            this.read().await?;
        };
        this.head = String::from_utf8(this.raw.drain(..end + 4).collect()).unwrap().to_lowercase();
        this.status = this.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        this.chunked = this.head.contains("transfer-encoding: chunked");
        this.unchunk();
        Ok(this)
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let length = self.stream.read(&mut buffer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.raw.extend_from_slice(&buffer[..length]);
        Ok(())
    }

    fn unchunk(&mut self) {
        if !self.chunked {
            self.text.push_str(std::str::from_utf8(&self.raw).unwrap());
            self.raw.clear();
            return;
        }
        while let Some(line) = self.raw.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&self.raw[..line]).unwrap(), 16).unwrap();
            if self.raw.len() < line + 2 + size + 2 {
                return;
            }
            self.over |= size == 0;
            self.text.push_str(std::str::from_utf8(&self.raw[line + 2..line + 2 + size]).unwrap());
            self.raw.drain(..line + 2 + size + 2);
        }
    }

    /// The next event; an error where the connection breaks or ends.
    pub(crate) async fn next(&mut self) -> io::Result<Event> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let mut event = Event { id: self.last.clone(), ..Event::default() };
                let mut data = None;
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => id.clone_into(&mut event.id),
                        Some(("event", name)) => name.clone_into(&mut event.name),
                        Some(("data", text)) => data = Some(text.to_owned()),
                        Some(("retry", text)) => self.retry = Some(text.parse().unwrap()),
                        _ => assert!(line.is_empty() || line.starts_with(':'), "{line}"),
                    }
                }
                self.last.clone_from(&event.id);
                if let Some(data) = data {
                    event.data = serde_json::from_str(&data).unwrap();
                    return Ok(event);
                }
            }
            if self.over {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read().await?;
            self.unchunk();
        }
    }

    /// The next event, which has this name.
    pub(crate) async fn expect(&mut self, name: &str) -> Event {
        let event = crate::rig::soon(name, self.next()).await.unwrap();
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> String {
        while !self.over && self.read().await.is_ok() {
            self.unchunk();
        }
        self.unchunk();
        std::mem::take(&mut self.text)
    }
}
