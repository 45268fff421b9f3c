//! OTLP: how telemetry gets to where the environment says, and what is done when it does not.

mod secured;
mod target;

use crate::{config::Faults, tls::fault};
use axum::http::{Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use prost::Message;
use rustls::ClientConfig;
use secured::Secured;
use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use target::Protocol;
pub(super) use target::{Signal, Target};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, client::Grpc, metadata::MetadataMap, transport::Channel};
use tonic_prost::ProstCodec;

/// The first pause after a refusal that may pass; each next one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// What gRPC is spoken in, as it is agreed on with TLS.
const HTTP_2: &[u8] = b"h2";

enum Transport {
    Grpc(Channel),
    Http(reqwest::Client),
}

impl Transport {
    fn to(target: &Target) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let tls = target.secured.as_ref().map(Secured::config).transpose()?;
        Ok(match target.protocol {
            Protocol::Grpc => Self::Grpc(channel(&target.endpoint, tls)),
            Protocol::HttpProtobuf => Self::Http(match tls {
                Some(tls) => reqwest::Client::builder().tls_backend_preconfigured(tls).build()?,
                None => reqwest::Client::builder().build()?,
            }),
        })
    }
}

/// Connects when there is something to send.
fn channel(endpoint: &Uri, tls: Option<ClientConfig>) -> Channel {
    let channel = Channel::builder(endpoint.clone());
    let Some(mut tls) = tls else { return channel.connect_lazy() };
    tls.alpn_protocols = vec![HTTP_2.to_vec()];
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    // The connector around it takes the other scheme.
    http.enforce_http(false);
    channel.connect_with_connector_lazy(HttpsConnector::from((http, tls)))
}

/// Sends one signal to its target. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sender(Arc<Inner>);

struct Inner {
    target: Target,
    transport: Transport,
    runtime: Handle,
    /// Whether the last attempt failed: an outage is logged once.
    failing: AtomicBool,
    /// Cancelled when the process ends: then nothing is tried again.
    last: CancellationToken,
}

/// Why a request was not accepted.
struct Refused {
    why: String,
    /// Whether the same request may be accepted later.
    passing: bool,
}

impl Sender {
    /// To this target; what it needs runs on this runtime. Once `last` is cancelled nothing is tried again.
    pub(super) fn new(target: Target, runtime: &Handle, last: CancellationToken) -> Result<Self, Faults> {
        let _inside = runtime.enter();
        let transport = Transport::to(&target).map_err(|why| {
            let mut faults = Faults::default();
            faults.add("OTEL_EXPORTER_OTLP_ENDPOINT", why);
            faults
        })?;
        if let Some(secured) = target.secured.clone() {
            runtime.spawn(last.clone().run_until_cancelled_owned(secured.follow(target.signal.name())));
        }
        let runtime = runtime.clone();
        Ok(Self(Arc::new(Inner { target, transport, runtime, failing: false.into(), last })))
    }

    /// Sends a request and waits for the answer, wherever it is called: the work is done on the runtime.
    pub(super) async fn send(&self, request: impl Message + Clone + 'static) -> OTelSdkResult {
        let inner = Arc::clone(&self.0);
        let sent = self.0.runtime.spawn(async move { inner.send(request).await }).await;
        sent.unwrap_or_else(|_| Err("the runtime has ended".to_owned()))
            .map_err(OTelSdkError::InternalFailure)
    }
}

impl Inner {
    async fn send(&self, request: impl Message + Clone + 'static) -> Result<(), String> {
        let result = self.send_within(request).await;
        let (signal, endpoint) = (self.target.signal.name(), &self.target.endpoint);
        let failed = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed => {
                tracing::warn!(signal, %endpoint, error, "telemetry is not exported; what is recorded until it can be is lost");
            }
            Ok(()) if failed => tracing::info!(signal, %endpoint, "telemetry is exported again"),
            _ => {}
        }
        result
    }

    /// Tries until the time-out.
    async fn send_within(&self, request: impl Message + Clone + 'static) -> Result<(), String> {
        let deadline = Instant::now() + self.target.timeout;
        let mut pause = FIRST_RETRY;
        loop {
            let refused = match tokio::time::timeout_at(deadline, self.attempt(request.clone())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(refused)) => refused,
                Err(_) => return Err(format!("no answer within {:?}", self.target.timeout)),
            };
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if !refused.passing || Instant::now() + jittered >= deadline {
                return Err(refused.why);
            }
            // At the end of the process it is said at once why there is no next attempt, while that can still be said.
            if self.last.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
                return Err(refused.why);
            }
            pause *= 2;
        }
    }

    async fn attempt(&self, message: impl Message + 'static) -> Result<(), Refused> {
        let headers = self.target.headers.0.clone();
        match &self.transport {
            Transport::Grpc(channel) => {
                let mut client = Grpc::new(channel.clone());
                let unready = |error: tonic::transport::Error| Refused { why: whole(&error), passing: true };
                client.ready().await.map_err(unready)?;
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = MetadataMap::from_headers(headers);
                // What the answer says is of no use: it has no field that would be needed.
                let codec = ProstCodec::<_, ()>::default();
                let answer = client.unary(request, self.target.signal.method(), codec).await;
                answer.map(drop).map_err(|status| Refused {
                    why: match status.source() {
                        // It was not even asked.
                        Some(error) => whole(error),
                        None => format!("{:?} {}", status.code(), status.message()),
                    },
                    passing: is_passing(status.code()),
                })
            }
            Transport::Http(client) => {
                let request = client.post(self.target.endpoint.to_string()).headers(headers);
                let request = request.header(header::CONTENT_TYPE, "application/x-protobuf");
                let answer = request.body(message.encode_to_vec()).send().await;
                let status = answer.map_err(|error| Refused { why: whole(&error), passing: true })?.status();
                if status.is_success() {
                    return Ok(());
                }
                Err(Refused { why: status.to_string(), passing: matches!(status.as_u16(), 429 | 502..=504) })
            }
        }
    }
}

/// The codes that the specification says may pass.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// What TLS has against a connection, or else an error with everything that caused it.
fn whole(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    fault(error).unwrap_or_else(|| causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}
