//! A connection to NATS with the settings Waybill relies on.

use crate::{
    Access, Refusals, SHARED_API,
    url::{shown, without_secret},
};
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, Message, Request, RequestError, RequestErrorKind,
    ServerAddr, connection::State, jetstream, subject::ToSubject,
};
use percent_encoding::percent_decode_str;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Oldest server whose atomic batches are right: earlier ones reject valid batches (nats-server #8376).
pub(crate) const MIN_SERVER: [u64; 3] = [2, 14, 4];

/// A connection to NATS. Cheap to clone; reconnects for ever.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    /// Counts how often the connection was made. What a server keeps in memory is gone after each time.
    pub(crate) connected: watch::Receiver<u64>,
    /// Where JetStream is asked.
    api: Arc<str>,
    /// Whether it makes streams where they are missing.
    makes: bool,
    /// What the server has refused.
    pub(crate) refusals: Refusals,
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server does not answer.
    #[error("cannot connect to NATS at {url}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the client says.
        source: async_nats::ConnectError,
    },
    /// The server asks who comes, and does not know him.
    #[error(
        "NATS at {url} does not know who this is: give the key of the role with --nats-nkey-file, as waybill nats-config makes it"
    )]
    Unknown {
        /// Where.
        url: String,
    },
    /// The server is too old.
    #[error(
        "nats-server {found} at {url} is too old: Waybill needs 2.14.4 or newer, for atomic batches that are right"
    )]
    TooOld {
        /// Where.
        url: String,
        /// Its version.
        found: String,
    },
    /// The server runs without JetStream.
    #[error(
        "nats-server at {url} runs without JetStream: start it with -js or a jetstream block in its configuration"
    )]
    NoJetStream {
        /// Where.
        url: String,
    },
}

impl Connection {
    /// Connects to the first server that answers, and refuses one that is too old or has no JetStream. `urls` are the
    /// addresses of one or more nodes of a cluster, with commas between them, a user and a password or a token in them where
    /// the server asks for that; `name` shows up in the server's connection list.
    pub async fn connect(urls: &str, name: &str) -> Result<Self, ConnectError> {
        Self::connect_as(urls, name, &Access::default()).await
    }

    /// The same, as somebody whom the server knows.
    pub async fn connect_as(urls: &str, name: &str, access: &Access) -> Result<Self, ConnectError> {
        let connection = Self::connect_any_as(urls, name, access).await?;
        let info = connection.client.server_info();
        if parse_version(&info.version) < MIN_SERVER {
            return Err(ConnectError::TooOld { url: shown(urls), found: info.version });
        }
        if !info.jetstream {
            return Err(ConnectError::NoJetStream { url: shown(urls) });
        }
        Ok(connection)
    }

    /// The same, to a server that need not be one for Waybill: of any version, with or without `JetStream`.
    pub async fn connect_any(urls: &str, name: &str) -> Result<Self, ConnectError> {
        Self::connect_any_as(urls, name, &Access::default()).await
    }

    /// The same, as somebody whom the server knows.
    pub async fn connect_any_as(urls: &str, name: &str, access: &Access) -> Result<Self, ConnectError> {
        let (connects, connected) = watch::channel(0);
        let refusals = access.refusals.clone();
        let options = access
            .apply(ConnectOptions::new())
            .name(name)
            // The default is to notice a dead peer after minutes.
            .ping_interval(Duration::from_secs(10))
            .connection_timeout(Duration::from_secs(5))
            .client_capacity(8192)
            // Subjects are built from checked tokens only.
            .skip_subject_validation(true)
            .reconnect_delay_callback(|attempts| {
                let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
                let ceiling = 25_u64 << exponent;
                Duration::from_millis(ceiling / 2 + fastrand::u64(..=ceiling / 2))
            })
            .event_callback(move |event| {
                refusals.hear(&event);
                if matches!(event, Event::Connected) {
                    connects.send_modify(|count| *count += 1);
                }
                async move { tracing::info!(%event, "nats connection") }
            });
        let options = match Login::of(urls) {
            // A key says better who it is.
            Some(login) if access.seed.is_none() => login.apply(options),
            _ => options,
        };
        // The client takes no login out of an address, but might show it.
        let addresses: Vec<_> = urls.split(',').map(|url| without_secret(url.trim())).collect();
        let unreachable = |source: async_nats::ConnectError| match source.kind() {
            ConnectErrorKind::AuthorizationViolation => ConnectError::Unknown { url: shown(urls) },
            _ => ConnectError::Unreachable { url: shown(urls), source },
        };
        let client = options.connect(addresses).await.map_err(unreachable)?;
        let jetstream =
            jetstream::context::ContextBuilder::new().api_prefix(access.api()).build(client.clone());
        let (api, makes, refusals) = (access.api().into(), access.makes(), access.refusals.clone());
        Ok(Self { client, jetstream, connected, api, makes, refusals })
    }

    /// The subject of a request to JetStream.
    pub(crate) fn api(&self, request: impl fmt::Display) -> String {
        format!("{}.{request}", self.api)
    }

    /// Whether every stream is in an account of its own, and this is in none of them.
    pub(crate) fn is_apart(&self) -> bool {
        &*self.api == SHARED_API
    }

    /// Whether streams, buckets and durable consumers are made where they are missing. Otherwise they are there, or
    /// somebody has forgotten to run `waybill provision`.
    pub fn makes(&self) -> bool {
        self.makes
    }

    /// A name for a consumer that ends with its reader: nobody guesses it, and none that lasts is called like it.
    pub(crate) fn passing_name(&self) -> String {
        let inbox = self.client.new_inbox();
        inbox.rsplit('.').next().unwrap_or(&inbox).to_owned()
    }

    /// Asks, and waits no longer than `timeout`, whatever happens. The client's own time-out begins when the request has a
    /// place in its queue, which is full while a server hangs.
    pub(crate) async fn ask(
        &self,
        subject: impl ToSubject,
        request: Request,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let answer = self.client.send_request(subject, request.timeout(None));
        let answer = tokio::time::timeout(timeout, answer).await;
        answer.unwrap_or_else(|_| Err(RequestError::new(RequestErrorKind::TimedOut)))
    }

    /// Whether the server can be reached at this moment.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Version of the server last connected to.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }
}

/// Who comes, where the address says it: a user with a password, or a token.
enum Login {
    User(String, Zeroizing<String>),
    Token(Zeroizing<String>),
}

impl Login {
    /// Of the first address that has one: nodes of a cluster know the same users.
    fn of(urls: &str) -> Option<Self> {
        urls.split(',').find_map(|url| {
            let address: ServerAddr = url.trim().parse().ok()?;
            let user = decoded(address.username()?);
            Some(match address.password() {
                Some(password) => Self::User(user, Zeroizing::new(decoded(password))),
                None => Self::Token(Zeroizing::new(user)),
            })
        })
    }

    fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        match self {
            Self::User(user, password) => options.user_and_password(user.clone(), (**password).clone()),
            Self::Token(token) => options.token((**token).clone()),
        }
    }
}

/// What an address has as `%40` and so on, for there an `@` has a meaning.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Major, minor and patch; what cannot be read counts as 0, and so as too old.
pub(crate) fn parse_version(text: &str) -> [u64; 3] {
    let mut numbers =
        text.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_who_comes() {
        let login = |urls: &str| match Login::of(urls)? {
            Login::User(user, password) => Some((user, Some(password.to_string()))),
            Login::Token(token) => Some((token.to_string(), None)),
        };
        let user = |name: &str, password: &str| Some((name.to_owned(), Some(password.to_owned())));
        assert_eq!(login("nats://ada:s3cret@host:4222"), user("ada", "s3cret"));
        assert_eq!(login("nats://a, tls://ada:p%40ss%2Cw%C3%B6rd@b"), user("ada", "p@ss,wörd"));
        assert_eq!(login("t0ken@host"), Some(("t0ken".to_owned(), None)));
        assert_eq!(login("nats://host:4222,host"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("2.15.1") > MIN_SERVER);
        assert!(parse_version("2.14.4") >= MIN_SERVER);
        assert!(parse_version("v2.14.4-RC.1") >= MIN_SERVER);
        assert!(parse_version("2.9.25") < MIN_SERVER);
        assert!(parse_version("nonsense") < MIN_SERVER);
    }
}
