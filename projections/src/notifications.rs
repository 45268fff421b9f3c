//! The notifications service's read model: what became of each notification. Nothing personal: who was written to is
//! nowhere, only whose order it was about.

mod queries;

use crate::{
    Changes, Live, View,
    live::{LiveModel, SeenBy},
    past::Thing,
    table::{Table, Type, Value, row},
};
use events::{
    Aggregate, Fact,
    notifications::{Notice, NotificationEvent},
};
use nats::Recorded;

/// The read model of the notifications service.
pub(crate) static VIEW: View = View {
    name: "notifications",
    version: 1,
    tables: &[&NOTIFICATIONS],
    aggregates: &[Aggregate::Notification],
    project,
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/notifications/socket",
        models: &[LiveModel {
            name: "notifications",
            one: "/notifications/{id}",
            single: true,
            many: Some("/notifications"),
            tables: &[&NOTIFICATIONS],
            seen_by: SeenBy::Owner("userId"),
            filters: &["userId", "status", "channel"],
            only_in_one: &[],
            personal: false,
        }],
    },
};

/// What is shown one by one.
const THINGS: &[Thing] = &[Thing::new("/notifications/{id}", Aggregate::Notification)];

/// Notifications.
const NOTIFICATIONS: Table = Table {
    name: "notifications",
    key: &[("id", Type::Text)],
    columns: &[
        ("user_id", Type::Uuid),
        ("order_id", Type::Uuid),
        ("event_id", Type::Uuid),
        ("event_type", Type::Text),
        ("channel", Type::Text),
        ("status", Type::Text),
        ("reason", Type::Text),
        ("code", Type::Int),
        ("delivery", Type::Int),
        // Of its first fact: its place in lists, whatever happens later.
        ("sequence", Type::Int),
        ("updated_at", Type::Timestamp),
    ],
    indexes: &[&["user_id", "sequence"], &["sequence"]],
};

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    let Fact::Notification(event) = &recorded.fact else { return };
    match event {
        NotificationEvent::Sent(it) => put(recorded, &it.notice, "sent", Value::Null, it.code, changes),
        NotificationEvent::Failed(it) => {
            put(recorded, &it.notice, "failed", Value::name(it.reason), it.code, changes);
        }
        NotificationEvent::RedeliveryRequested(it) => {
            put(recorded, &it.notice, "requested", Value::Null, None, changes);
        }
    }
}

fn put(
    recorded: &Recorded,
    notice: &Notice,
    status: &'static str,
    reason: Value,
    code: Option<u16>,
    changes: &mut Changes,
) {
    let id = notice.id().to_string();
    let row = row!(NOTIFICATIONS {
        user_id: notice.user_id,
        order_id: notice.order_id,
        event_id: notice.event_id,
        event_type: notice.event_type.clone(),
        channel: notice.channel.as_str().to_owned(),
        status: status,
        reason: reason,
        code: code.map(i64::from),
        delivery: i64::from(notice.delivery),
        updated_at: recorded.envelope.time,
    });
    changes.patch(&NOTIFICATIONS, id.clone(), row);
    if recorded.envelope.version == 1 {
        changes.patch(&NOTIFICATIONS, id, row!(NOTIFICATIONS { sequence: recorded.position.sequence }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, Model};
    use events::{
        Context, EventId, OrderId, Position, UserId,
        notifications::{Fault, NotificationFailed, NotificationRedeliveryRequested, NotificationSent},
    };
    use uuid::Uuid;

    fn notice(delivery: u32) -> Notice {
        Notice {
            event_id: EventId::new(Uuid::from_u128(1)),
            event_type: "order.completed".to_owned(),
            source: Position { context: Context::Orders, sequence: 7 },
            channel: "webhook-erp".parse().unwrap(),
            user_id: UserId::new(Uuid::from_u128(2)),
            order_id: OrderId::new(Uuid::from_u128(3)),
            delivery,
        }
    }

    #[tokio::test]
    async fn a_notification_says_what_became_of_it_last_and_keeps_its_place() {
        let failed = NotificationFailed { notice: notice(1), reason: Fault::Expired, code: Some(503) };
        let requested = NotificationRedeliveryRequested { notice: notice(2) };
        let sent = NotificationSent { notice: notice(2), code: Some(204) };
        let events: [NotificationEvent; 3] = [failed.into(), requested.into(), sent.into()];
        let mut log = Log::default();
        let mut seen = Vec::new();
        for event in events {
            log.add(Aggregate::Notification, notice(1).id(), event, Fact::Notification);
            let model = Model::new(&VIEW).await;
            model.apply(&log.all).await;
            let row = model.database.row("SELECT * FROM notifications", Vec::new()).await.unwrap().unwrap();
            let reason = row.find::<String>("reason").unwrap();
            let numbers = ["code", "delivery", "sequence"].map(|column| row.find::<i64>(column).unwrap());
            seen.push((row.get::<String>("status").unwrap(), reason, numbers));
        }
        let of = |status: &str, reason: Option<&str>, numbers: [Option<i64>; 3]| {
            (status.to_owned(), reason.map(str::to_owned), numbers)
        };
        let expected = [
            of("failed", Some("expired"), [Some(503), Some(1), Some(1)]),
            of("requested", None, [None, Some(2), Some(1)]),
            of("sent", None, [Some(204), Some(2), Some(1)]),
        ];
        assert_eq!(seen, expected);
    }
}
