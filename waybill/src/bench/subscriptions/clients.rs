//! Clients that follow: many that hear nothing, in a process of their own, and some that note when they hear what.

use crate::{bench::load::Sample, failure::Failure};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};
use uuid::Uuid;

/// The variable that says whom to follow: address, count and token.
pub(super) const WHAT: &str = "WAYBILL_BENCH_IDLE";

/// Connections made at once.
const AT_ONCE: usize = 64;
const DEADLINE: Duration = Duration::from_mins(2);

/// Follows, says so, and ends when nobody listens any more.
pub(in crate::bench) async fn run() -> Result<(), Failure> {
    let what = std::env::var(WHAT).map_err(|_| "this is started by 'bench subscriptions'")?;
    let parts: Vec<_> = what.split(' ').collect();
    let [address, count, token] = parts[..] else { return Err("this is no address, count and token".into()) };
    let (address, count): (SocketAddr, u128) = (address.parse()?, count.parse()?);
    super::descriptors(u64::try_from(count)?)?;
    let mut open = Vec::new();
    let mut opening = JoinSet::new();
    for number in 0..count {
        let token = token.to_owned();
        opening.spawn(async move { follow(address, Uuid::from_u128(number), &token).await });
        if opening.len() >= AT_ONCE
            && let Some(one) = opening.join_next().await
        {
            open.push(one??.0);
        }
    }
    while let Some(one) = opening.join_next().await {
        open.push(one??.0);
    }
    println!("all follow");
    let wait = || std::io::Read::read(&mut std::io::stdin(), &mut [0]);
    let _ = tokio::task::spawn_blocking(wait).await;
    drop(open);
    Ok(())
}

/// Follows the orders of a user; what has arrived behind the beginning.
async fn follow(address: SocketAddr, user: Uuid, token: &str) -> Result<(TcpStream, Vec<u8>), Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "GET /orders/stream?userId={user} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut buffer).await?;
        text.extend_from_slice(&buffer[..length]);
        let live = b"event: live\ndata: ";
        if let Some(place) = text.windows(live.len()).position(|part| part == live) {
            return Ok((stream, text.split_off(place + live.len())));
        }
        if length == 0 || text.len() > 64 * 1024 {
            return Err(format!("no stream: {}", String::from_utf8_lossy(&text)).into());
        }
    }
}

/// Who follow their own orders.
pub(super) struct Followers {
    heard: Heard,
    tasks: JoinSet<()>,
    count: watch::Receiver<u64>,
}

/// When orders were recorded, and when they were heard of. Cheap to clone.
#[derive(Clone)]
pub(super) struct Heard {
    times: Arc<Mutex<HashMap<Uuid, Times>>>,
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Times {
    recorded: Option<Instant>,
    heard: Option<Instant>,
}

impl Heard {
    /// An order is recorded, now.
    pub(super) fn expect(&self, order: Uuid) {
        self.note(order, |times, now| times.recorded = Some(now));
    }

    fn note(&self, order: Uuid, note: impl FnOnce(&mut Times, Instant)) {
        let now = Instant::now();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        note(times.entry(order).or_default(), now);
    }
}

impl Followers {
    pub(super) async fn start(address: SocketAddr, users: &[Uuid], token: &str) -> Result<Self, Failure> {
        let (sender, count) = watch::channel(0);
        let heard = Heard { times: Arc::default(), count: sender };
        let mut tasks = JoinSet::new();
        for user in users {
            let (stream, rest) = follow(address, *user, token).await?;
            tasks.spawn(listen(stream, rest, heard.clone()));
        }
        Ok(Self { heard, tasks, count })
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Waits until all is heard: how long each took from the acknowledgement of the log to its client.
    pub(super) async fn finish(mut self, expected: u64, started: Instant) -> Result<Sample, Failure> {
        let all = self.count.wait_for(|count| *count >= expected);
        tokio::time::timeout(DEADLINE, all).await.map_err(|_| "not every change was heard of")??;
        let mut sample = Sample::of(expected, started.elapsed());
        let times = self.heard.times.lock().unwrap_or_else(PoisonError::into_inner);
        for times in times.values() {
            if let Some((recorded, heard)) = times.recorded.zip(times.heard) {
                sample.note(heard.saturating_duration_since(recorded));
            }
        }
        drop(times);
        self.tasks.abort_all();
        Ok(sample)
    }
}

/// Notes each order that is told.
async fn listen(mut stream: TcpStream, mut text: Vec<u8>, heard: Heard) {
    let mut buffer = vec![0; 4096];
    let change = b"event: change\ndata: {\"id\":\"";
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        text.extend_from_slice(&buffer[..length]);
        while let Some(place) = text.windows(change.len()).position(|part| part == change) {
            let from = place + change.len();
            let Some(id) = text.get(from..from + 36) else { break };
            let order = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            text.drain(..from + 36);
            if let Some(order) = order {
                heard.note(order, |times, now| times.heard = Some(now));
                heard.count.send_modify(|count| *count += 1);
            }
        }
        let keep = text.len().saturating_sub(change.len() + 36);
        text.drain(..keep);
    }
}
