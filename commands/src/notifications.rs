//! Notifications: what customers and other systems are told of orders, by mail and by webhooks.
//!
//! - `react`: what is told of a fact; `recipient`: whom, from the log, and whether he wants it
//! - `letter`: what mail says, from templates; `mail`: handed to a mail server or put into a folder
//! - `webhook`: signed requests to endpoints of others; `public`: which addresses they may reach
//! - `notification`: the aggregate, one per fact and channel; `deliver`: look, tell, record; `http`: tell it again
//!
//! Each channel has consumers of its own, so that none waits for another or repeats it: one for each stream that it is told
//! of, and one for what operators want told again.

mod deliver;
mod http;
mod letter;
mod mail;
mod notification;
mod public;
mod react;
mod recipient;
mod webhook;

pub use letter::{TemplateFaults, Templates};
pub use mail::{Mail, MailError, Post, Sender, Smtp, SmtpTls};
pub use notification::{Notification, NotificationCommand, NotificationRejection, NotificationState};
pub use react::{INTERESTS, News, TOLD, react};
pub use recipient::{Known, Recipient, RecipientState, TOPIC};
pub use webhook::{TIMEOUT, Webhook, webhook_channel};

use crate::environment::{Build, BuildError, WriteSide};
use deliver::{Channel, Way};
use mail::Mailer;
use nats::Manner;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use webhook::Poster;

/// How notifications are sent.
#[derive(Clone, Debug)]
pub struct Channels {
    /// Mail to customers.
    pub mail: Mail,
    /// What mail says.
    pub templates: Templates,
    /// Endpoints of other systems. Their names differ.
    pub webhooks: Vec<Webhook>,
    /// How old a fact may be to be told: then it is given up.
    pub give_up_after: Duration,
    /// What is waited before the second attempt; twice as long before each further one.
    pub first_retry: Duration,
    /// What is waited at most before another attempt to mail.
    pub last_mail_retry: Duration,
    /// What is waited at most before another request to an endpoint.
    pub last_webhook_retry: Duration,
}

impl Channels {
    /// Mail goes into a folder, and nobody else is told.
    pub fn outbox(folder: impl Into<PathBuf>) -> Self {
        Self {
            mail: Mail { from: Sender::of_this_machine(), post: Post::Outbox(folder.into()) },
            templates: Templates::built_in(),
            webhooks: Vec::new(),
            give_up_after: Duration::from_hours(72),
            first_retry: Duration::from_secs(5),
            last_mail_retry: Duration::from_mins(15),
            last_webhook_retry: Duration::from_hours(6),
        }
    }
}

/// Why there are no channels.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Mail cannot be sent as it is configured.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// An endpoint cannot be told as it is configured.
    #[error("webhook {name}: {why}")]
    Webhook {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A consumer cannot be made.
    #[error(transparent)]
    Consumer(#[from] nats::ConsumerError),
}

/// The write side of notifications.
pub(crate) async fn write_side(build: Build, channels: &Channels) -> Result<WriteSide, BuildError> {
    let mut consumers = Vec::new();
    for (channel, last) in open(&build, channels)? {
        let (name, handler) = (channel.name.clone(), deliver::handler(channel));
        for (context, kinds) in INTERESTS {
            let manner = Manner::Tell { first: channels.first_retry, last };
            let durable = durable(&name, *context);
            let consumer = nats::Consumer { manner, ..build.consumer(*context, kinds, durable) };
            // Before the service says that it is ready: from then on everything is told.
            consumer.ensure().await.map_err(ChannelError::from)?;
            consumers.push((consumer, Arc::clone(&handler)));
        }
    }
    let http = http::routes(build.api());
    Ok(build.finish_with(http, consumers))
}

/// What the consumer is called with which a channel is told of a stream.
pub(crate) fn durable(channel: impl std::fmt::Display, stream: events::Context) -> String {
    format!("notifications-{channel}-{stream}")
}

/// The channel of mail.
pub const EMAIL: &str = "email";

/// Whose facts it reads beside those that it tells: who is told.
pub const READS: [events::Aggregate; 2] = [events::Aggregate::User, events::Aggregate::Order];

/// Every channel, and how long it waits at most between attempts.
fn open(build: &Build, channels: &Channels) -> Result<Vec<(Channel, Duration)>, ChannelError> {
    let channel = |name, way, room: u8| Channel {
        name,
        way,
        executor: build.executor.clone(),
        keys: build.keys.clone(),
        clock: build.clock.clone(),
        give_up_after: channels.give_up_after,
        room: Semaphore::new(room.into()),
    };
    let mailer = Mailer::new(&channels.mail, channels.templates.clone())?;
    let mail = channel(email(), Way::Mail(mailer), mail::AT_ONCE);
    let mut open = vec![(mail, channels.last_mail_retry)];
    for webhook in &channels.webhooks {
        let wrong = |why| ChannelError::Webhook { name: webhook.name.clone(), why };
        let poster = Poster::new(webhook).map_err(wrong)?;
        let channel = channel(poster.channel.clone(), Way::Webhook(poster), webhook::AT_ONCE);
        open.push((channel, channels.last_webhook_retry));
    }
    Ok(open)
}

/// The channel of mail.
#[expect(clippy::expect_used, reason = "letters only")]
fn email() -> events::notifications::ChannelName {
    EMAIL.parse().expect("a channel")
}
