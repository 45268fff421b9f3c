//! What the gateway itself wants of services: small documents.

use super::Proxy;
use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode},
};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::ResponseFuture;
use std::{error::Error, time::Duration};
use tokio::time::timeout;

/// Why there is no document.
pub(crate) type FetchError = Box<dyn Error + Send + Sync>;

/// The largest document that is fetched, in bytes, and how long that may take.
const LARGEST: usize = 4 * 1024 * 1024;
const WITHIN: Duration = Duration::from_secs(3);

impl Proxy {
    /// Gets a document from any instance of a service, such as its OpenAPI description. Whether that succeeds says nothing
    /// about the requests of clients, so the breaker neither is asked nor hears of it.
    pub(crate) async fn fetch(&self, service: &str, path: &str) -> Result<Bytes, FetchError> {
        let any = self.upstreams.any(service);
        let (instance, client) = any.ok_or_else(|| format!("{service} is not available"))?;
        let request = client.request(Request::get(instance.uri(path)?).body(Body::empty())?);
        let taken = timeout(WITHIN, take(request)).await;
        let (status, body) = taken.map_err(|_| format!("{service} does not answer"))??;
        if status.is_success() {
            Ok(body)
        } else {
            Err(format!("{service} answers {path} with {status}").into())
        }
    }
}

async fn take(answer: ResponseFuture) -> Result<(StatusCode, Bytes), FetchError> {
    let (parts, body) = answer.await?.into_parts();
    Ok((parts.status, Limited::new(body, LARGEST).collect().await?.to_bytes()))
}
