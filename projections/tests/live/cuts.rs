//! The connection is cut a thousand times at random places, and what the client was told is compared with the log.

use crate::{
    client::{Event, Events},
    proxy::Proxy,
    rig::{DEADLINE, Node, OPERATOR, Rig, until},
    socket::Socket,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpStream;

const PRODUCTS: u64 = 8;

/// What carries what is told.
#[derive(Clone, Copy)]
pub(crate) enum Carrier {
    Events,
    Socket,
}

/// A connection that may be cut.
enum Wire {
    Events(Box<Events>),
    Socket(Box<Socket>),
}

impl Carrier {
    /// As counters have it.
    const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Socket => "socket",
        }
    }

    /// Follows all products, from where the client was; an error where the connection breaks before.
    async fn open(self, address: SocketAddr, last: &str) -> io::Result<Wire> {
        match self {
            Self::Events => {
                let last = Some(last).filter(|last| !last.is_empty());
                let events = Events::open(address, "/products/stream?limit=100", OPERATOR, last).await?;
                assert_eq!(events.status, 200, "{}", events.head);
                Ok(Wire::Events(Box::new(events)))
            }
            Self::Socket => {
                let stream = TcpStream::connect(address).await?;
                let mut socket = Socket::over(stream, "/products/socket", OPERATOR).await?;
                let all = json!({ "type": "subscribe", "id": "all", "model": "products", "cursor": last,
                    "where": { "limit": 100 } });
                socket.ask(all).await?;
                Ok(Wire::Socket(Box::new(socket)))
            }
        }
    }
}

impl Wire {
    /// What is told next, of the position `last` where it has none of its own; an error where the connection breaks.
    async fn next(&mut self, last: &str) -> io::Result<Event> {
        let socket = match self {
            Self::Events(events) => return events.next().await,
            Self::Socket(socket) => socket,
        };
        let mut message = socket.next().await?;
        let id = message["cursor"].as_str().unwrap_or(last).to_owned();
        let name = message["type"].as_str().unwrap().to_owned();
        let data = if message["problem"].is_null() { "data" } else { "problem" };
        Ok(Event { id, name, data: message[data].take() })
    }
}

/// What a client has been told.
#[derive(Default)]
struct Transcript {
    prices: BTreeMap<String, u64>,
    last: String,
    /// How often it has connected, and with what the last time.
    connections: u64,
    opened: String,
    changes: u64,
    /// Changes to what was known already.
    again: Vec<String>,
    /// Where each product was told last.
    places: BTreeMap<String, String>,
    resets: u64,
    /// How often it was dropped because it took too long.
    slow: u64,
    faults: Vec<String>,
}

impl Transcript {
    fn hear(&mut self, name: &str, id: &str, data: &Value) {
        match name {
            "snapshot" => {
                let items = data["items"].as_array().unwrap();
                for item in items {
                    let (sku, price) = read(item);
                    let before = self.prices.insert(sku.clone(), price).unwrap_or(0);
                    // A snapshot may say again what is known, never less.
                    if price < before {
                        self.faults.push(format!("{sku} went from {before} back to {price} in a snapshot"));
                    }
                }
                if items.len() < self.prices.len() {
                    self.faults.push("a snapshot has lost something".to_owned());
                }
            }
            "change" => {
                let (sku, price) = read(data);
                let before = self.prices.insert(sku.clone(), price).unwrap_or(0);
                if price < before {
                    self.faults.push(format!("{sku} went from {before} back to {price} at {id}"));
                }
                let place = format!("{} {id}", self.connections);
                let known = self.places.insert(sku.clone(), place.clone());
                if price == before {
                    self.again.push(format!(
                        "{sku} is {price} at {place} as at {known:?}; resumed with {}",
                        self.opened
                    ));
                }
                self.changes += 1;
            }
            "reset" => self.resets += 1,
            "live" => {}
            // Whoever takes too long is asked to come again, which is a cut like any other.
            "bye" if data["type"] == "/problems/subscriber-too-slow" => self.slow += 1,
            other => self.faults.push(format!("{other}: {data}")),
        }
        id.clone_into(&mut self.last);
    }
}

fn read(item: &Value) -> (String, u64) {
    (item["sku"].as_str().unwrap().to_owned(), item["price"]["amount"].as_u64().unwrap())
}

/// Follows through the proxy until it is cut so many times; then to the end without cuts.
async fn follow(rig: &Rig, proxy: &Proxy, by: Carrier, times: usize, done: &AtomicBool) -> Transcript {
    let mut random = fastrand::Rng::with_seed(42);
    let mut transcript = Transcript::default();
    loop {
        let over = proxy.cuts.load(Ordering::SeqCst) >= times;
        // Most are cut within the first events, some later.
        let most = 1 << random.u32(6..13);
        proxy.cut_after(if over { usize::MAX } else { 1 + random.usize(..most) });
        transcript.connections += 1;
        transcript.opened.clone_from(&transcript.last);
        let Ok(mut wire) = by.open(proxy.address, &transcript.last).await else {
            continue;
        };
        loop {
            let wait = if over { Duration::from_secs(1) } else { DEADLINE };
            match tokio::time::timeout(wait, wire.next(&transcript.last)).await {
                Ok(Ok(event)) => transcript.hear(&event.name, &event.id, &event.data),
                Ok(Err(_)) => break,
                Err(_) if done.load(Ordering::SeqCst) => {
                    let said = transcript.prices == rig.prices();
                    if said {
                        return transcript;
                    }
                    transcript.faults.push(format!("{:?} is not {:?}", transcript.prices, rig.prices()));
                    return transcript;
                }
                Err(_) => done.store(true, Ordering::SeqCst),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_thousand_cuts_nothing_is_missing_and_nothing_goes_back() {
    cut_at_random(Rig::start().await, Carrier::Events, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_thousand_cuts_of_a_socket_nothing_is_missing_and_nothing_goes_back() {
    cut_at_random(Rig::start().await, Carrier::Socket, 1000).await;
}

pub(crate) async fn cut_at_random(rig: Rig, by: Carrier, times: usize) {
    let rig = Arc::new(rig);
    let node: Node = rig.usual("inventory").await;
    let proxy = Proxy::start(node.address).await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (rig, cuts) = (Arc::clone(&rig), Arc::clone(&proxy.cuts));
        let mut progress = node.projections.progress();
        tokio::spawn(async move {
            let mut number = 0;
            while cuts.load(Ordering::SeqCst) < times {
                rig.product_behind(&mut progress, &format!("P{}", number % PRODUCTS)).await;
                number += 1;
            }
            number
        })
    };
    let transcript = follow(&rig, &proxy, by, times, &done).await;
    let written = writer.await.unwrap();
    assert_eq!(transcript.faults, Vec::<String>::new());
    assert!(
        transcript.changes > times as u64 / 2 && written > times as u64 / 2,
        "{} of {written}",
        transcript.changes
    );
    assert_eq!(transcript.resets, 0, "the feed keeps enough");
    assert!(transcript.slow * 20 <= transcript.connections, "too slow {} times", transcript.slow);
    assert_eq!(transcript.again, Vec::<String>::new(), "of {} changes none comes twice", transcript.changes);
    let (_, page) = node.get("/products?limit=100", OPERATOR).await;
    let answer: BTreeMap<_, _> = page["items"].as_array().unwrap().iter().map(read).collect();
    assert_eq!(transcript.prices, answer);
    let open = format!("waybill_feed_subscriptions{{projection=\"inventory\",carrier=\"{}\"}} ", by.name());
    until("those that were cut are forgotten", async || {
        // The server learns of a cut when it next writes.
        rig.product("P0").await;
        node.counted(&open) <= 1.0
    })
    .await;
}
