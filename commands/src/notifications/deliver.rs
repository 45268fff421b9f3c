//! Tells one fact on one channel: looks whether that was done, tells, records what became of it.
//!
//! The record is the guard: what is recorded is never told again. Between telling and recording nothing but a crash can
//! come, and then the fact is told once more, under the same name (`Message-ID`, `Waybill-Notification-Id`), by which the
//! receiver recognises it.

use super::{
    letter::Letter,
    mail::{Draft, Mailer},
    notification::{Notification, NotificationCommand},
    react::{News, customer, react},
    recipient::{Known, Recipient, RecipientState},
    webhook::{Post, Poster},
};
use crate::{Decision, Executor, Key};
use events::{
    Aggregate, CommandId, Context, Fact, Metadata, UserId,
    envelope::Envelope,
    notifications::{ChannelName, Fault, Notice, NotificationEvent, NotificationFailed, NotificationSent},
};
use nats::{Handler, KeyRing, Recorded, Retry};
use service::{Clock, crash_point};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Who records what became of notifications.
const ACTOR: &str = "service:notifications";
/// Pauses between attempts to record what was told.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// What became of an attempt to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was accepted, with this code.
    Sent(Option<u16>),
    /// It never will be.
    GivenUp(Fault, Option<u16>),
    /// It was not, and may be later. Why, without anything personal.
    Later(String),
}

/// How a channel tells.
#[derive(Debug)]
pub(super) enum Way {
    /// By mail, the customer.
    Mail(Mailer),
    /// By a request, somebody else's system.
    Webhook(Poster),
}

/// One channel.
pub(super) struct Channel {
    pub(super) name: ChannelName,
    pub(super) way: Way,
    pub(super) executor: Executor,
    pub(super) keys: KeyRing,
    pub(super) clock: Clock,
    /// How old a fact may be to be told.
    pub(super) give_up_after: Duration,
    /// Lets so many tell at the same time.
    pub(super) room: Semaphore,
}

/// What is to be told, once.
struct Telling {
    notice: Notice,
    news: News,
    /// Of the fact that is told.
    fact: Envelope,
}

pub(super) fn handler(channel: Channel) -> Handler {
    let channel = Arc::new(channel);
    Arc::new(move |recorded| {
        let channel = Arc::clone(&channel);
        Box::pin(async move { channel.handle(recorded).await })
    })
}

impl Channel {
    async fn handle(&self, trigger: Recorded) -> Result<&'static str, Retry> {
        let Some(telling) = self.telling(&trigger).await? else { return Ok("ignored") };
        let key = Key::<Notification>::new(telling.notice.id());
        // Before the place is taken, so that what was done long ago does not wait for it; and again when it is.
        if self.executor.state(&key).await?.is_done(telling.notice.delivery) {
            return Ok("replayed");
        }
        let Ok(_room) = self.room.acquire().await else {
            return Err(Retry::world("the channel is closed"));
        };
        let outcome = if self.is_too_old(&trigger) {
            Outcome::GivenUp(Fault::Expired, None)
        } else {
            match self.tell(&telling).await? {
                Ok(outcome) => outcome,
                Err(unwanted) => return Ok(unwanted),
            }
        };
        let notice = telling.notice;
        let (command, word) = match outcome {
            Outcome::Sent(code) => (NotificationCommand::Sent(NotificationSent { notice, code }), "sent"),
            Outcome::GivenUp(reason, code) => {
                let failed = NotificationFailed { notice, reason, code };
                (NotificationCommand::Failed(failed), "given up")
            }
            Outcome::Later(why) => return Err(Retry::World(why)),
        };
        self.record(&trigger.envelope, &key, command).await;
        Ok(word)
    }

    fn is_too_old(&self, trigger: &Recorded) -> bool {
        let age = self.clock.now().duration_since(trigger.envelope.time);
        Duration::try_from(age).is_ok_and(|age| age > self.give_up_after)
    }

    /// What a fact wants told on this channel: itself, or what an operator wants told again.
    async fn telling(&self, trigger: &Recorded) -> Result<Option<Telling>, Retry> {
        if let Fact::Notification(event) = &trigger.fact {
            return match event {
                NotificationEvent::RedeliveryRequested(it) if it.notice.channel == self.name => {
                    self.again(&it.notice).await.map(Some)
                }
                _ => Ok(None),
            };
        }
        let Some(news) = react(&trigger.fact) else { return Ok(None) };
        if let Way::Webhook(poster) = &self.way
            && !poster.wants(&trigger.envelope.kind)
        {
            return Ok(None);
        }
        let Some(user_id) = self.customer(&news).await? else { return Ok(None) };
        let notice = Notice {
            event_id: trigger.envelope.id,
            event_type: trigger.envelope.kind.to_string(),
            source: trigger.position,
            channel: self.name.clone(),
            user_id,
            order_id: news.order_id,
            delivery: 1,
        };
        let news = News { user_id: Some(user_id), ..news };
        Ok(Some(Telling { notice, news, fact: trigger.envelope.clone() }))
    }

    /// What was told before, from the log.
    async fn again(&self, notice: &Notice) -> Result<Telling, Retry> {
        let aggregate =
            if notice.source.context == Context::Shipping { Aggregate::Shipment } else { Aggregate::Order };
        let subject = aggregate.subject(notice.order_id);
        let found = self.executor.store().at(&subject, notice.source.sequence).await?;
        let recorded = found.map(|message| message.record()).transpose()?;
        let gone = || Retry::Message(format!("what was told is not at {}", notice.source));
        let recorded =
            recorded.filter(|recorded| recorded.envelope.id == notice.event_id).ok_or_else(gone)?;
        let news = react(&recorded.fact).ok_or_else(gone)?;
        let news = News { user_id: Some(notice.user_id), ..news };
        Ok(Telling { notice: notice.clone(), news, fact: recorded.envelope })
    }

    /// Whose order it is; `None` of one that nobody knows.
    async fn customer(&self, news: &News) -> Result<Option<UserId>, Retry> {
        if news.user_id.is_some() {
            return Ok(news.user_id);
        }
        // Every fact of an order names its customer, so the last one is enough.
        let subject = Aggregate::Order.subject(news.order_id);
        let last = self.executor.store().last(&subject).await?;
        let last = last.map(|message| message.record()).transpose()?;
        Ok(last.and_then(|recorded| customer(&recorded.fact)))
    }

    /// Tells, once; or why that is not wanted.
    async fn tell(&self, telling: &Telling) -> Result<Result<Outcome, &'static str>, Retry> {
        let Telling { notice, news, fact } = telling;
        // As the log has it now, not as it was when the fact was recorded.
        let known = match self.executor.state(&Key::<Recipient>::new(notice.user_id)).await? {
            RecipientState::Known(known) => known,
            RecipientState::Erased => return Ok(Err("erased")),
            RecipientState::Unknown => return Ok(Err("nobody")),
        };
        match &self.way {
            Way::Mail(mailer) if known.wants_mail() => self.write(mailer, &known, telling).await,
            Way::Mail(_) => Ok(Err("unwanted")),
            Way::Webhook(poster) => {
                let post = Post {
                    id: &notice.id(),
                    delivery: notice.delivery,
                    kind: &notice.event_type,
                    source: &format!("/waybill/{}", notice.source.context),
                    subject: &fact.subject,
                    time: fact.time,
                    news,
                };
                crash_point("tell.before", self.name.as_str());
                let outcome = poster.send(&post, self.clock.now()).await;
                crash_point("tell.after", self.name.as_str());
                Ok(Ok(outcome))
            }
        }
    }

    /// Opens the address, no earlier than this, and writes to it.
    async fn write(
        &self,
        mailer: &Mailer,
        known: &Known,
        Telling { notice, news, fact }: &Telling,
    ) -> Result<Result<Outcome, &'static str>, Retry> {
        let name = self.keys.reveal(&known.name).await?;
        let address = self.keys.reveal(&known.email).await?;
        let Some((name, address)) = name.zip(address) else { return Ok(Err("erased")) };
        let letter = Letter::new(&name, news);
        let letter = mailer.templates.write(&notice.event_type, &known.preferences.language, &letter);
        // What the error says of the values is not repeated: they are personal.
        let letter = letter
            .map_err(|error| Retry::Message(format!("the letter cannot be written: {:?}", error.kind())))?;
        let mut id = notice.id().to_string();
        if notice.delivery > 1 {
            id = format!("{id}.{}", notice.delivery);
        }
        let draft = Draft { name: &name, address: &address, letter: &letter, id: &id, time: fact.time };
        crash_point("tell.before", self.name.as_str());
        let outcome = mailer.send(&draft).await;
        crash_point("tell.after", self.name.as_str());
        Ok(Ok(outcome))
    }

    /// Records what became of it, for as long as it takes: given back now, it would be told again.
    async fn record(&self, trigger: &Envelope, key: &Key<Notification>, command: NotificationCommand) {
        let (name, channel) = (key.subject().id(), self.name.as_str());
        let metadata = Metadata {
            command: CommandId::from_event(trigger.id, &format!("notifications/{channel}")),
            ..Metadata::caused_by(trigger, ACTOR)
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let (of, asked) = (key.clone(), command.clone());
            let run = move |decision: &mut Decision| decision.apply(&of, asked.clone());
            match self.executor.execute(vec![key.load()], metadata.clone(), run).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(name, %error, "told, but not recorded yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}
