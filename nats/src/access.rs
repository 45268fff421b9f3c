//! Who a process is to NATS, how it knows that it speaks with the right one, and what it may ask there.

use async_nats::{ConnectOptions, Event, ServerError};
use std::{
    fmt,
    path::PathBuf,
    pin::pin,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// Where JetStream is asked, in an account that has streams of its own.
pub(crate) const OWN_API: &str = "$JS.API";

/// Where JetStream is asked by those that `waybill nats-config` makes: their accounts have no streams, and ask others
/// under this name. The usual one is taken by the account's own JetStream, which would say that there is none.
pub const SHARED_API: &str = "JS.API";

/// The client hears what is refused in a task of its own, which is not far behind the answers.
const MOMENT: Duration = Duration::from_millis(250);

/// The private half of an nkey: who has it is that user. Never shown.
#[derive(Clone)]
pub struct Seed {
    text: Zeroizing<String>,
    public: String,
}

/// Why a text is no seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the seed of an nkey of a user, which begins with SU")]
pub struct SeedError;

impl Seed {
    /// A new one.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "only a pair that was made of a public key has no seed"
    )]
    pub fn generate() -> Self {
        let pair = nkeys::KeyPair::new_user();
        let text = pair.seed().expect("a new pair has a seed").into();
        Self { text, public: pair.public_key() }
    }

    /// The seed itself, to be written into a file that nobody else can read.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The public half, which the server knows.
    pub fn public(&self) -> &str {
        &self.public
    }
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let text = Zeroizing::new(text.trim().to_owned());
        let public = nkeys::KeyPair::from_seed(&text).map_err(|_| SeedError)?.public_key();
        if public.starts_with('U') { Ok(Self { text, public }) } else { Err(SeedError) }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How a process comes to NATS. By default it is nobody in particular, on a server that asks nobody.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Who it is.
    pub seed: Option<Seed>,
    /// Who signs the certificates of servers; without one those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// Its own certificate and the key of that, for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// What its inboxes begin with; the client's own where it is not said.
    pub inbox: Option<String>,
    /// Where it asks JetStream; in its own account where it is not said.
    pub api: Option<String>,
    /// Whether it makes streams where they are missing, also where others ask for theirs in accounts that are not their own.
    pub provisions: bool,
    /// What the server has refused.
    pub refusals: Refusals,
}

/// What a server has refused to somebody, on any of his connections. It says so beside what was asked, which then has no
/// answer. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// The first one of each kind: how often the same is refused does not matter, and kinds are few.
    texts: Mutex<Vec<String>>,
    news: Notify,
}

/// What a refusal is about: the operation, and the first token of the subject.
fn kind(text: &str) -> &str {
    let subject = text.find('"').map_or(text.len(), |quote| quote + 1);
    let end = text[subject..].find(['.', '"']).map_or(text.len(), |end| subject + end);
    &text[..end]
}

impl Refusals {
    /// The first one, in the words of the server.
    pub fn first(&self) -> Option<String> {
        self.texts().first().cloned()
    }

    /// One that is about a subject which begins like this.
    fn of(&self, beginning: &str) -> Option<String> {
        let subject = format!("\"{beginning}");
        self.texts().iter().find(|text| text.contains(&subject)).cloned()
    }

    /// The same, of whatever the server has said before now: it is heard a moment later than an answer that came behind it.
    pub(crate) async fn soon_of(&self, beginning: &str) -> Option<String> {
        let heard = async {
            loop {
                let mut news = pin!(self.0.news.notified());
                news.as_mut().enable();
                if let Some(text) = self.of(beginning) {
                    return text;
                }
                news.await;
            }
        };
        tokio::time::timeout(MOMENT, heard).await.ok()
    }

    fn texts(&self) -> MutexGuard<'_, Vec<String>> {
        // Every statement leaves it whole.
        self.0.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hear(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            && text.to_lowercase().starts_with("permissions violation")
        {
            let mut texts = self.texts();
            if !texts.iter().any(|known| kind(known) == kind(text)) {
                texts.push(text.clone());
            }
            drop(texts);
            self.0.news.notify_waiters();
        }
    }
}

impl Access {
    /// Of a user that `waybill nats-config` has made: with inboxes of its own, and streams in other accounts.
    #[must_use]
    pub fn of_role(self, role: &str, seed: Seed) -> Self {
        let inbox = self.inbox.or_else(|| Some(inbox(role)));
        let api = self.api.or_else(|| Some(SHARED_API.to_owned()));
        Self { seed: Some(seed), inbox, api, ..self }
    }

    /// Where JetStream is asked.
    pub(crate) fn api(&self) -> &str {
        self.api.as_deref().unwrap_or(OWN_API)
    }

    /// Whether streams are made where they are missing.
    pub(crate) fn makes(&self) -> bool {
        self.provisions || self.api() == OWN_API
    }

    pub(crate) fn apply(&self, mut options: ConnectOptions) -> ConnectOptions {
        if let Some(seed) = &self.seed {
            options = options.nkey(seed.reveal().to_owned());
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &self.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        match &self.inbox {
            Some(inbox) => options.custom_inbox_prefix(inbox),
            None => options,
        }
    }
}

/// What the inboxes of a role begin with.
pub fn inbox(role: &str) -> String {
    format!("_INBOX_{role}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_never_shown_and_only_one_of_a_user_is_taken() {
        let seed = Seed::generate();
        let access = Access::default().of_role("orders", seed.clone());
        assert!(!format!("{access:?}").contains(seed.reveal()), "{access:?}");
        let same: Seed = format!(" {}\n", seed.reveal()).parse().unwrap();
        assert_eq!(same.public(), seed.public());
        assert!(seed.public().starts_with('U'));
        let account = nkeys::KeyPair::new_account().seed().unwrap();
        for bad in [&account, seed.public(), "", "SU"] {
            assert_eq!(bad.parse::<Seed>().unwrap_err(), SeedError, "{bad}");
        }
    }

    fn refused(subject: &str) -> Event {
        let text = format!("Permissions Violation for Publish to \"{subject}\"");
        Event::ServerError(ServerError::Other(text))
    }

    #[tokio::test]
    async fn however_much_is_refused_one_of_each_kind_is_known() {
        let refusals = Refusals::default();
        refusals.hear(&Event::Connected);
        assert_eq!(refusals.first(), None);
        for number in 0..1000 {
            refusals.hear(&refused(&format!("$JS.API.STREAM.INFO.{number}")));
        }
        refusals.hear(&refused("audit.orders.order.1"));
        assert!(refusals.first().unwrap().contains("INFO.0\""));
        assert!(refusals.soon_of("audit.").await.unwrap().contains("order.1"));
        assert_eq!(refusals.soon_of("copies.").await, None);
        assert_eq!(refusals.texts().len(), 2);
    }

    #[tokio::test]
    async fn a_refusal_is_waited_for_that_is_heard_behind_an_answer() {
        let refusals = Refusals::default();
        let hearing = refusals.clone();
        let late = tokio::spawn(async move {
            tokio::task::yield_now().await;
            hearing.hear(&refused("evt.orders.order.1"));
            tokio::task::yield_now().await;
            hearing.hear(&refused("audit.orders.order.1"));
        });
        assert!(refusals.soon_of("audit.").await.is_some());
        late.await.unwrap();
    }

    #[test]
    fn a_role_has_inboxes_of_its_own_and_makes_nothing() {
        assert!(Access::default().makes());
        let orders = Access::default().of_role("orders", Seed::generate());
        assert_eq!((orders.inbox.as_deref(), orders.api()), (Some("_INBOX_orders"), SHARED_API));
        assert!(!orders.makes());
        assert!(Access { provisions: true, ..orders }.makes());
    }
}
