//! Asks an instance for its health now and then. Each has a task of its own: one that hangs delays no other.

use super::{member::Member, ops::Counters};
use crate::connect::{Address, Connector};
use axum::{body::Body, http::Request};
use hyper_util::client::legacy::Client;
use service::{Clock, tls::fault};
use std::{sync::Weak, time::Duration};
use tokio::time::{sleep, timeout};

/// How the health of instances is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckPolicy {
    /// How often; a tenth more or less, so that gateways do not ask all at once.
    pub(crate) every: Duration,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// So many good answers in a row make an instance healthy.
    pub(crate) rise: u32,
    /// So many bad ones in a row make it unhealthy.
    pub(crate) fall: u32,
}

impl Default for CheckPolicy {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), timeout: Duration::from_secs(2), rise: 1, fall: 2 }
    }
}

/// Checks an instance until it is forgotten.
pub(super) async fn keep_checking(
    member: Weak<Member>,
    policy: CheckPolicy,
    clock: Clock,
    counters: Counters,
    client: Client<Connector, Body>,
) {
    loop {
        let Some(address) = member.upgrade().map(|member| member.address.clone()) else { return };
        let answer = timeout(policy.timeout, check(&client, &address)).await;
        let result = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let Some(member) = member.upgrade() else { return };
        counters.checked(&member.instance.service, result.is_ok());
        member.checked(result, policy.rise, policy.fall, clock.now());
        drop(member);
        sleep(policy.every.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Asks once. Only 2xx is good.
async fn check(client: &Client<Connector, Body>, address: &Address) -> Result<(), String> {
    let uri = address.uri("/health").map_err(|error| error.to_string())?;
    let request = Request::get(uri).body(Body::empty()).map_err(|error| error.to_string())?;
    match client.request(request).await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("it answers {}", response.status())),
        Err(error) => Err(match fault(&error) {
            Some(why) => why,
            None if error.is_connect() => "no connection".to_owned(),
            None => error.to_string(),
        }),
    }
}
