//! Webhooks: what happened, posted to endpoints of others and signed, so that they know who says so.
//!
//! `Waybill-Signature: t=<seconds>,v1=<digest>` is the HMAC-SHA256 over `<seconds>.<body>`, once under each secret of the
//! endpoint: while a secret is replaced there are two, and the receiver may know either.

use super::{
    deliver::Outcome,
    public::{Guard, is_public},
    react::{News, TOLD},
};
use aws_lc_rs::hmac;
use events::{
    EventId,
    notifications::{ChannelName, Fault, NotificationId},
};
use jiff::Timestamp;
use reqwest::{Client, StatusCode, Url, redirect::Policy};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use std::{fmt::Write, time::Duration};

/// Requests to one endpoint at the same time.
pub(super) const AT_ONCE: u8 = 8;
/// How long an endpoint may take to answer, unless it is said.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a secret has at least: what is shorter can be guessed.
const MIN_SECRET: usize = 16;

/// An endpoint of somebody else.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Names its channel: 1 to 56 of `a-z 0-9 -`.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// What requests are signed with: one, or two while one is replaced by the other.
    pub secrets: Vec<SecretString>,
    /// The types of facts it is told; all, where there are none.
    pub events: Vec<String>,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Whether it may be on this machine or in this network, and be spoken to without TLS.
    pub allow_private: bool,
}

/// Posts to one endpoint.
#[derive(Debug)]
pub(super) struct Poster {
    pub(super) channel: ChannelName,
    url: Url,
    secrets: Vec<SecretString>,
    events: Vec<String>,
    client: Client,
}

/// What is posted: a `CloudEvent` in structured mode.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: EventId,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'static str,
    data: &'a News,
}

/// One request.
pub(super) struct Post<'a> {
    pub(super) id: &'a NotificationId,
    pub(super) delivery: u32,
    pub(super) kind: &'a str,
    pub(super) source: &'a str,
    pub(super) subject: &'a str,
    pub(super) time: Timestamp,
    pub(super) news: &'a News,
}

impl Webhook {
    /// What is wrong with it, if anything. Nothing of its secrets is said.
    pub fn check(&self) -> Result<(), String> {
        let url: Url = self.url.parse().map_err(|error| format!("url: {error}"))?;
        if !self.channel().is_ok_and(|_| (1..=56).contains(&self.name.len())) {
            return Err("name: expected 1 to 56 of a-z 0-9 -".to_owned());
        }
        let alien = self.events.iter().find(|kind| !TOLD.contains(&kind.as_str()));
        if let Some(alien) = alien {
            return Err(format!("events: nobody is told of {alien}, only of {}", TOLD.join(", ")));
        }
        if self.secrets.is_empty() || self.secrets.iter().any(|one| one.expose_secret().len() < MIN_SECRET) {
            return Err(format!("secrets: at least one, each of at least {MIN_SECRET} bytes"));
        }
        if !["http", "https"].contains(&url.scheme())
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return Err("url: expected https://.. without a user".to_owned());
        }
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        if !self.allow_private
            && (url.scheme() == "http" || literal.is_some_and(|address| !is_public(address)))
        {
            return Err(
                "url: needs https and an address that is not private, unless allow-private is set".to_owned()
            );
        }
        Ok(())
    }

    fn channel(&self) -> Result<ChannelName, events::notifications::ChannelNameError> {
        webhook_channel(&self.name).parse()
    }
}

/// What the channel of a webhook is called.
pub fn webhook_channel(name: &str) -> String {
    format!("webhook-{name}")
}

impl Poster {
    /// For an endpoint that was checked.
    pub(super) fn new(webhook: &Webhook) -> Result<Self, String> {
        webhook.check()?;
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(webhook.timeout)
            .user_agent(concat!("waybill/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Guard { allow_private: webhook.allow_private })
            .build();
        Ok(Self {
            channel: webhook.channel().map_err(|error| error.to_string())?,
            url: webhook.url.parse().map_err(|_| "url".to_owned())?,
            secrets: webhook.secrets.clone(),
            events: webhook.events.clone(),
            client: client.map_err(|error| error.to_string())?,
        })
    }

    /// Whether the endpoint is told of facts of this type.
    pub(super) fn wants(&self, kind: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|wanted| wanted == kind)
    }

    /// Posts what happened, once; the body is the same each time.
    pub(super) async fn send(&self, post: &Post<'_>, now: Timestamp) -> Outcome {
        let event = CloudEvent {
            specversion: "1.0",
            id: post.id.event,
            source: post.source,
            kind: post.kind,
            subject: post.subject,
            time: post.time,
            datacontenttype: "application/json",
            data: post.news,
        };
        let Ok(body) = serde_json::to_vec(&event) else {
            return Outcome::Later("what happened cannot be written as JSON".to_owned());
        };
        let request = self
            .client
            .post(self.url.clone())
            .header("Content-Type", "application/cloudevents+json")
            .header("Waybill-Signature", signature(&self.secrets, now, &body))
            .header("Waybill-Notification-Id", post.id.to_string())
            .header("Waybill-Delivery", post.delivery)
            .body(body);
        match request.send().await {
            // What else it says is not read.
            Ok(answer) => answered(answer.status()),
            Err(error) if error.is_timeout() => {
                Outcome::Later("the endpoint does not answer in time".to_owned())
            }
            Err(error) => Outcome::Later(format!("the endpoint cannot be reached: {}", cause(&error))),
        }
    }
}

/// What an endpoint's answer means.
fn answered(status: StatusCode) -> Outcome {
    let code = status.as_u16();
    match status {
        status if status.is_success() => Outcome::Sent(Some(code)),
        // The one answer that says: never again.
        StatusCode::GONE => Outcome::GivenUp(Fault::Refused, Some(code)),
        _ => Outcome::Later(format!("the endpoint answers {code}")),
    }
}

/// The innermost cause, which says why.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The header that proves who says it, and when.
fn signature(secrets: &[SecretString], now: Timestamp, body: &[u8]) -> String {
    let time = now.as_second();
    let signed = [format!("{time}.").as_bytes(), body].concat();
    let mut header = format!("t={time}");
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        header.push_str(",v1=");
        for byte in hmac::sign(&key, &signed).as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(header, "{byte:02x}");
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Webhook {
        Webhook {
            name: "erp".to_owned(),
            url: "https://erp.example.com/hooks".to_owned(),
            secrets: vec![SecretString::from("whsec_0123456789abcdef")],
            events: vec![],
            timeout: TIMEOUT,
            allow_private: false,
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_with_it() {
        assert_eq!(webhook().check(), Ok(()));
        let url = |url: &str| Webhook { url: url.to_owned(), ..webhook() };
        let local = |url: &str| Webhook { allow_private: true, url: url.to_owned(), ..webhook() };
        let secret = |secret: &str| Webhook { secrets: vec![SecretString::from(secret)], ..webhook() };
        for (bad, part) in [
            (Webhook { name: "ERP".to_owned(), ..webhook() }, "name"),
            (Webhook { name: String::new(), ..webhook() }, "name"),
            (Webhook { name: "x".repeat(57), ..webhook() }, "name"),
            (Webhook { events: vec!["user.created".to_owned()], ..webhook() }, "events"),
            (Webhook { secrets: vec![], ..webhook() }, "secrets"),
            (secret("short-secret"), "secrets"),
            (url("erp.example.com"), "url"),
            (url("ftp://erp.example.com"), "url"),
            (url("http://erp.example.com"), "url"),
            (url("https://user:pass@erp.example.com"), "url"),
            (url("https://127.0.0.1/x"), "url"),
            (url("https://2130706433/x"), "url"),
            (url("https://[::1]/x"), "url"),
            (url("https://[::ffff:10.0.0.1]/x"), "url"),
            (url("https://169.254.169.254/latest"), "url"),
        ] {
            let fault = bad.check().unwrap_err();
            assert!(fault.starts_with(part) && !fault.contains("short-secret"), "{fault}");
        }
        assert_eq!(local("http://127.0.0.1:9000/x").check(), Ok(()));
        assert!(!format!("{:?}", webhook()).contains("whsec"));
    }

    /// Computed with `printf '1700000000.{}' | openssl dgst -sha256 -hmac <secret>`.
    #[test]
    fn every_secret_signs_the_time_and_the_body() {
        let secrets = ["whsec_0123456789abcdef", "whsec_fedcba9876543210"].map(SecretString::from);
        let header = signature(&secrets, Timestamp::from_second(1_700_000_000).unwrap(), b"{}");
        assert_eq!(
            header,
            "t=1700000000,v1=d0c329a0542d1a8e66b0b5503cf2d2f8f8e174c98224b843c11f74ea14c341e9,v1=5be515c7a39af58c208242ea26d122a303fda18af1b00dba420f2df7a8522bb0"
        );
    }

    #[test]
    fn only_success_is_success() {
        assert_eq!(answered(StatusCode::NO_CONTENT), Outcome::Sent(Some(204)));
        assert_eq!(answered(StatusCode::GONE), Outcome::GivenUp(Fault::Refused, Some(410)));
        for later in [302, 400, 401, 404, 429, 500, 503] {
            let status = StatusCode::from_u16(later).unwrap();
            assert!(matches!(answered(status), Outcome::Later(_)), "{later}");
        }
    }
}
