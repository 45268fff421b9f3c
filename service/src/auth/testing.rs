//! An issuer for tests: keys of its own, published as a key set.

use super::{Claims, Jwks};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

pub(super) struct Issuer {
    kid: &'static str,
    key: Ed25519KeyPair,
    published: Arc<Mutex<String>>,
    away: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
}

impl Issuer {
    /// An issuer that publishes its own key.
    pub(super) fn new(kid: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let issuer =
            Self { kid, key, published: Arc::default(), away: Arc::default(), reads: Arc::default() };
        issuer.publish(&[&issuer]);
        issuer
    }

    /// Publishes the keys of `issuers`, beside some that nobody here can use.
    pub(super) fn publish(&self, issuers: &[&Self]) {
        let mut keys = vec![
            json!({ "kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AQAB" }),
            json!({ "kty": "later", "kid": 7 }),
        ];
        keys.extend(issuers.iter().map(|issuer| {
            let x = URL_SAFE_NO_PAD.encode(issuer.key.public_key().as_ref());
            json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": issuer.kid, "x": x })
        }));
        *self.published.lock().unwrap() = json!({ "keys": keys }).to_string();
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// How often the key set was read.
    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    pub(super) fn jwks(&self) -> Jwks {
        let (published, away, reads) = (self.published.clone(), self.away.clone(), self.reads.clone());
        Jwks::start(move || {
            reads.fetch_add(1, Ordering::Relaxed);
            let text = published.lock().unwrap().clone();
            let answer = if away.load(Ordering::Relaxed) { Err("away".into()) } else { Ok(text) };
            std::future::ready(answer)
        })
    }

    pub(super) fn sign(&self, claims: &Claims) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.kid });
        self.sign_json(&header, &serde_json::to_value(claims).unwrap())
    }

    pub(super) fn sign_json(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}
