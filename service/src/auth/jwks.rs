//! The issuer's public keys (RFC 7517), kept up to date in the background.

use super::AuthError;
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::HashMap, error::Error, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

/// How often the keys are read again.
const REFRESH: Duration = Duration::from_mins(5);
/// The least time between two reads: a flood of tokens with unknown keys does not become a flood of reads.
pub(super) const PAUSE: Duration = Duration::from_secs(3);
/// The pause after a first read that failed, doubled up to the least time: whoever starts beside others finds out within
/// moments where the keys are, and nobody can be let in until then.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long one read may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why the keys cannot be read.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// The keys that tokens are checked with: the newest that could be read, however long ago. Cheap to clone; the reading
/// ends with the last clone.
#[derive(Clone, Debug)]
pub struct Jwks {
    seen: watch::Receiver<Seen>,
    ask: mpsc::Sender<()>,
}

/// What is known after so many attempts.
#[derive(Debug, Default)]
struct Seen {
    keys: Option<KeySet>,
    attempts: u64,
    /// When the last attempt ended.
    last: Option<Instant>,
}

#[derive(Debug)]
struct KeySet {
    /// The number of the attempt that first read this set.
    generation: u64,
    /// The document, to tell a new set from the same one.
    text: String,
    keys: HashMap<String, DecodingKey>,
}

impl Jwks {
    /// Reads the keys with `source`, which returns the JSON text of a key set: now, every few minutes, and when a token
    /// names a key that is not known.
    pub fn start<F>(source: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<String, SourceError>> + Send + 'static,
    {
        let (sender, seen) = watch::channel(Seen::default());
        let (ask, asked) = mpsc::channel(1);
        tokio::spawn(follow(source, sender, asked));
        Self { seen, ask }
    }

    /// Names the present set. What was checked with another one is to be checked again, for a key may be gone.
    pub(super) fn generation(&self) -> Option<u64> {
        self.seen.borrow().keys.as_ref().map(|keys| keys.generation)
    }

    /// The key named `kid` and the generation it is of. Where it is not known, the set is read again, unless that
    /// happened just now.
    pub(super) async fn key(&self, kid: &str) -> Result<(u64, DecodingKey), AuthError> {
        if let Some(found) = self.find(kid) {
            return Ok(found);
        }
        self.read_again().await;
        self.find(kid).ok_or_else(|| match self.generation() {
            Some(_) => AuthError::UnknownKey,
            None => AuthError::KeysUnavailable,
        })
    }

    fn find(&self, kid: &str) -> Option<(u64, DecodingKey)> {
        let seen = self.seen.borrow();
        let set = seen.keys.as_ref()?;
        Some((set.generation, set.keys.get(kid)?.clone()))
    }

    async fn read_again(&self) {
        let mut seen = self.seen.clone();
        let attempts = {
            let seen = seen.borrow_and_update();
            if seen.last.is_some_and(|last| last.elapsed() < PAUSE) {
                return;
            }
            seen.attempts
        };
        // A full channel: somebody has just asked for the same.
        let _ = self.ask.try_send(());
        // The attempt ends within its time-out, and it never ends without being counted.
        let _ = seen.wait_for(|seen| seen.attempts > attempts).await;
    }
}

async fn follow<F>(source: impl Fn() -> F, seen: watch::Sender<Seen>, mut asked: mpsc::Receiver<()>)
where
    F: Future<Output = Result<String, SourceError>>,
{
    let (mut failing, mut known, mut pause) = (false, false, FIRST_PAUSE);
    loop {
        let read = match timeout(TIMEOUT, source()).await {
            Ok(Ok(text)) => parse(&text).map(|keys| (text, keys)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the source of the keys does not answer".into()),
        };
        // Who asked meanwhile has been served by this attempt.
        while asked.try_recv().is_ok() {}
        match &read {
            Ok(_) if failing => tracing::info!("the keys of access tokens can be read again"),
            // Said once, not every few seconds.
            Err(error) if !failing => tracing::warn!(%error, "the keys of access tokens cannot be read"),
            _ => {}
        }
        failing = read.is_err();
        known |= read.is_ok();
        seen.send_modify(|seen| seen.take(read.ok()));
        let next = match (failing, known) {
            (false, _) => REFRESH,
            (true, true) => PAUSE,
            (true, false) => {
                let next = pause;
                pause = (pause * 2).min(PAUSE);
                next
            }
        };
        if let Ok(None) = timeout(next, asked.recv()).await {
            return;
        }
    }
}

impl Seen {
    fn take(&mut self, read: Option<(String, HashMap<String, DecodingKey>)>) {
        self.attempts += 1;
        self.last = Some(Instant::now());
        let Some((text, keys)) = read else { return };
        if self.keys.as_ref().is_none_or(|known| known.text != text) {
            self.keys = Some(KeySet { generation: self.attempts, text, keys });
        }
    }
}

/// The Ed25519 keys of a set, by name. Keys of other kinds are left out, as RFC 7517 asks.
fn parse(text: &str) -> Result<HashMap<String, DecodingKey>, SourceError> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<Value>,
    }
    let Document { keys } = serde_json::from_str(text)?;
    let keys: HashMap<_, _> = keys.into_iter().filter_map(usable).collect();
    if keys.is_empty() { Err("the key set has no Ed25519 key with a name".into()) } else { Ok(keys) }
}

fn usable(key: Value) -> Option<(String, DecodingKey)> {
    let Jwk { common, algorithm } = serde_json::from_value(key).ok()?;
    let AlgorithmParameters::OctetKeyPair(pair) = algorithm else { return None };
    let signs = common.public_key_use.is_none_or(|purpose| purpose == PublicKeyUse::Signature)
        && common.key_algorithm.is_none_or(|algorithm| algorithm == KeyAlgorithm::EdDSA)
        && pair.curve == EllipticCurve::Ed25519;
    let key = DecodingKey::from_ed_components(&pair.x).ok().filter(|_| signs)?;
    let whole = key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 32);
    whole.then_some((common.key_id?, key))
}
