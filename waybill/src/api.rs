//! A client of the services' HTTP API: for the demo, for the catalogue of `dev`, and for end-to-end tests.
//!
//! It speaks as the operator, except where a method says otherwise.

mod shop;
mod tokens;

pub use shop::{CURRENCY, Cart};
pub use tokens::Tokens;

use crate::{
    failure::{Failure, because},
    system::{Service, reachable},
};
use serde_json::Value;
use service::tls::ClientTls;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);

/// Asks running services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    urls: BTreeMap<String, String>,
    /// Without them it speaks as nobody.
    tokens: Option<Tokens>,
}

/// What a service answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; null where it is no JSON.
    pub body: Value,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
}

impl Api {
    /// Of services that listen at these addresses.
    pub fn new(addresses: &BTreeMap<Service, SocketAddr>) -> Self {
        let url = |address: &SocketAddr| format!("http://{}", reachable(*address));
        Self::at(
            addresses.iter().map(|(service, address)| (service.name().to_owned(), url(address))).collect(),
        )
    }

    /// Of services at these URLs, by name.
    pub fn at(urls: BTreeMap<String, String>) -> Self {
        // The builder fails only where TLS cannot be set up, which is not asked for; the default is the same client.
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().unwrap_or_default();
        Self { http, urls, tokens: None }
    }

    /// The same services, called with TLS where their URLs say so.
    pub fn with_tls(self, tls: &ClientTls) -> Result<Self, Failure> {
        let http = crate::tls::client(reqwest::Client::builder().timeout(TIMEOUT), Some(tls))?;
        Ok(Self { http, ..self })
    }

    /// The same services, asked with these tokens.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// What it speaks with.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Where the services are, by name.
    pub fn urls(&self) -> BTreeMap<String, String> {
        self.urls.clone()
    }

    /// Where a path of a service is.
    pub fn url(&self, service: Service, path: &str) -> String {
        format!("{}{path}", self.urls.get(service.name()).map_or("", String::as_str))
    }

    /// The client underneath, for requests of other kinds.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// `GET`.
    pub async fn get(&self, service: Service, path: &str) -> Result<Answer, Failure> {
        self.send_as_operator(self.http.get(self.url(service, path))).await
    }

    /// `POST` of JSON under an idempotency key: sent again it has no second effect.
    pub async fn post(
        &self,
        service: Service,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Result<Answer, Failure> {
        let request = self.http.post(self.url(service, path)).header("Idempotency-Key", key).json(body);
        self.send_as_operator(request).await
    }

    /// Sends a request with the operator's token.
    pub async fn send_as_operator(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        match &self.tokens {
            Some(tokens) => self.send(request.bearer_auth(tokens.operator().await?)).await,
            None => self.send(request).await,
        }
    }

    /// Sends a request with a token of this customer.
    pub async fn send_as(&self, user: Uuid, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        match &self.tokens {
            Some(tokens) => self.send(request.bearer_auth(tokens.customer(user).await?)).await,
            None => self.send(request).await,
        }
    }

    /// Sends a request as it is and takes the whole answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Answer { status, body, headers })
    }

    /// Waits until every service says that it is ready; else the error says what it waits for.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + within;
        for (service, url) in &self.urls {
            loop {
                let answer = self.send(self.http.get(format!("{url}/ready"))).await;
                let last = match answer {
                    Ok(Answer { status: 200, .. }) => break,
                    Ok(answer) => answer.body.to_string().into(),
                    Err(error) => error,
                };
                if Instant::now() > deadline {
                    return Err(because(format!("{service} is not ready after {within:?}"))(last));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }
}

impl Answer {
    /// This answer if it has this status, else a failure that tells what was answered to what.
    pub fn expect(self, status: u16, what: &str) -> Result<Self, Failure> {
        if self.status == status {
            return Ok(self);
        }
        Err(format!("{what} was answered with {}: {}", self.status, self.body).into())
    }

    /// The id of what was created.
    pub fn id(&self) -> Result<Uuid, Failure> {
        let id = self.body["id"].as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| format!("no id in {}", self.body).into())
    }

    /// Where the command's last event stands, for queries and commands that must see it.
    pub fn position(&self) -> Option<&str> {
        self.headers.get("Waybill-Position")?.to_str().ok()
    }
}
