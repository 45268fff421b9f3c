//! One notification: what became of telling one fact on one channel. The guard against telling it twice.

use crate::{Aggregate, Refusal};
use events::notifications::{
    Notice, NotificationEvent, NotificationFailed, NotificationRedeliveryRequested, NotificationSent,
};
use serde::{Deserialize, Serialize};

/// The aggregate.
#[derive(Debug)]
pub struct Notification;

/// What is known of a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationState {
    /// What it is about; missing until something became of it.
    notice: Option<Notice>,
    /// Which delivery is wanted. The first is wanted by itself.
    wanted: u32,
    /// Which deliveries are done, sent or given up: this one and all before it.
    done: u32,
}

impl NotificationState {
    /// Whether a delivery is done, sent or given up.
    pub fn is_done(&self, delivery: u32) -> bool {
        self.done >= delivery
    }
}

/// What can be asked of a notification.
#[derive(Clone, Debug)]
pub enum NotificationCommand {
    /// Remember that it was handed over.
    Sent(NotificationSent),
    /// Remember that it was given up.
    Failed(NotificationFailed),
    /// Be sent again.
    Redeliver,
}

/// Why a notification can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotificationRejection {
    /// There is none, or it is still being tried for the first time.
    #[error("there is no such notification, or it was neither sent nor given up yet")]
    Unknown,
}

impl From<NotificationRejection> for Refusal {
    fn from(rejection: NotificationRejection) -> Self {
        Self::not_found("notification-not-found", rejection.to_string())
    }
}

impl Aggregate for Notification {
    const KIND: events::Aggregate = events::Aggregate::Notification;
    const SCHEMA: &'static str = "notification/1";
    type State = NotificationState;
    type Command = NotificationCommand;
    type Event = NotificationEvent;
    type Rejection = NotificationRejection;

    fn decide(
        state: &NotificationState,
        command: NotificationCommand,
    ) -> Result<Vec<NotificationEvent>, NotificationRejection> {
        Ok(match command {
            NotificationCommand::Sent(sent) if !state.is_done(sent.notice.delivery) => vec![sent.into()],
            NotificationCommand::Failed(failed) if !state.is_done(failed.notice.delivery) => {
                vec![failed.into()]
            }
            NotificationCommand::Sent(_) | NotificationCommand::Failed(_) => vec![],
            NotificationCommand::Redeliver => {
                let notice = state.notice.clone().ok_or(NotificationRejection::Unknown)?;
                // Asked for again while it is under way, it is one more delivery and not two.
                if state.wanted > state.done {
                    return Ok(vec![]);
                }
                let notice = Notice { delivery: state.done.saturating_add(1), ..notice };
                vec![NotificationRedeliveryRequested { notice }.into()]
            }
        })
    }

    fn evolve(state: NotificationState, event: &NotificationEvent) -> NotificationState {
        match event {
            NotificationEvent::Sent(NotificationSent { notice, .. })
            | NotificationEvent::Failed(NotificationFailed { notice, .. }) => NotificationState {
                notice: Some(notice.clone()),
                wanted: state.wanted.max(notice.delivery),
                done: state.done.max(notice.delivery),
            },
            NotificationEvent::RedeliveryRequested(it) => {
                NotificationState { wanted: it.notice.delivery, ..state }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{order, user},
    };
    use events::{Context, EventId, Position, notifications::Fault};

    fn notice(delivery: u32) -> Notice {
        Notice {
            event_id: EventId::new(uuid::Uuid::from_u128(7)),
            event_type: "order.completed".to_owned(),
            source: Position { context: Context::Orders, sequence: 42 },
            channel: "email".parse().unwrap(),
            user_id: user(1),
            order_id: order(1),
            delivery,
        }
    }

    fn sent(delivery: u32) -> NotificationSent {
        NotificationSent { notice: notice(delivery), code: Some(250) }
    }

    fn failed(delivery: u32) -> NotificationFailed {
        NotificationFailed { notice: notice(delivery), reason: Fault::Expired, code: None }
    }

    fn requested(delivery: u32) -> NotificationRedeliveryRequested {
        NotificationRedeliveryRequested { notice: notice(delivery) }
    }

    #[test]
    fn what_is_sent_or_given_up_is_recorded_once() {
        let nothing: [NotificationEvent; 0] = [];
        given::<Notification>(nothing).when(NotificationCommand::Sent(sent(1))).then([sent(1).into()]);
        for done in [sent(1).into(), failed(1).into()] {
            let given = given::<Notification>([done]);
            given.when(NotificationCommand::Sent(sent(1))).then_nothing();
            given.when(NotificationCommand::Failed(failed(1))).then_nothing();
        }
    }

    #[test]
    fn it_is_sent_again_on_request_once_for_each_request() {
        let nothing: [NotificationEvent; 0] = [];
        let unknown = given::<Notification>(nothing).when(NotificationCommand::Redeliver);
        unknown.then_refused("notification-not-found");
        let given_up = given::<Notification>([failed(1).into()]);
        given_up.when(NotificationCommand::Redeliver).then([requested(2).into()]);
        let asked = given::<Notification>([failed(1).into(), requested(2).into()]);
        asked.when(NotificationCommand::Redeliver).then_nothing();
        asked.when(NotificationCommand::Sent(sent(1))).then_nothing();
        asked.when(NotificationCommand::Sent(sent(2))).then([sent(2).into()]);
        let again = given::<Notification>([failed(1).into(), requested(2).into(), sent(2).into()]);
        again.when(NotificationCommand::Redeliver).then([requested(3).into()]);
    }
}
