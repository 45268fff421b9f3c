//! What is told of a fact. Pure.

use events::{
    Context, Fact, Money, OrderId, UserId,
    orders::{Line, OrderEvent, Reason},
    shipping::ShipmentEvent,
};
use serde::Serialize;

/// The facts that notifications answer, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Orders, &["order.created", "order.completed", "order.failed"]),
    (Context::Shipping, &["shipment.dispatched"]),
    (Context::Notifications, &["notification.redelivery.requested"]),
];

/// The types of facts that somebody is told of.
pub const TOLD: [&str; 4] = ["order.created", "order.completed", "order.failed", "shipment.dispatched"];

/// What there is to tell: nothing personal. This is also the data of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct News {
    /// The order.
    pub order_id: OrderId,
    /// The customer, where the fact names him.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// What was ordered, of a new order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Line>,
    /// What it costs, of a new order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_amount: Option<Money>,
    /// Why, of an order that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// What is told of a fact; `None` of one that nobody is told of.
pub fn react(fact: &Fact) -> Option<News> {
    let of = |order_id, user_id| News { order_id, user_id, items: vec![], total_amount: None, reason: None };
    Some(match fact {
        Fact::Order(OrderEvent::Created(it)) => News {
            items: it.items.clone(),
            total_amount: Some(it.total_amount),
            ..of(it.order_id, Some(it.user_id))
        },
        Fact::Order(OrderEvent::Completed(it)) => of(it.order_id, Some(it.user_id)),
        Fact::Order(OrderEvent::Failed(it)) => {
            News { reason: Some(it.reason), ..of(it.order_id, Some(it.user_id)) }
        }
        Fact::Shipment(ShipmentEvent::Dispatched(it)) => of(it.order_id, None),
        _ => return None,
    })
}

/// Whose order a fact of an order is about.
pub(super) fn customer(fact: &Fact) -> Option<UserId> {
    let Fact::Order(event) = fact else { return None };
    Some(match event {
        OrderEvent::Created(it) => it.user_id,
        OrderEvent::Completed(it) => it.user_id,
        OrderEvent::Failed(it) => it.user_id,
        OrderEvent::Cancelled(it) => it.user_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{created, eur, line, order, user};
    use events::{
        orders::{OrderCompleted, OrderFailed},
        shipping::{ShipmentDelivered, ShipmentDispatched},
    };
    use serde_json::json;

    #[test]
    fn four_facts_are_told_and_nothing_personal_of_them() {
        let (order_id, user_id) = (order(1), user(1));
        let of_order = |event: OrderEvent| react(&Fact::Order(event)).unwrap();
        let new = of_order(created(&[line("TEA", 2, 450)]).into());
        assert_eq!((new.total_amount, new.items.len(), new.user_id), (Some(eur(900)), 1, Some(user_id)));
        let text = serde_json::to_string(&new).unwrap();
        assert!(!text.contains("sealed") && !text.contains("ddress"), "{text}");
        let done = of_order(OrderCompleted { order_id, user_id }.into());
        assert_eq!(serde_json::to_value(&done).unwrap(), json!({ "orderId": order_id, "userId": user_id }));
        let detail = "two are missing".to_owned();
        let failed = of_order(OrderFailed { order_id, user_id, reason: Reason::OutOfStock, detail }.into());
        assert_eq!(failed.reason, Some(Reason::OutOfStock));
        let sent = react(&Fact::Shipment(ShipmentDispatched { order_id }.into())).unwrap();
        assert_eq!((sent.order_id, sent.user_id), (order_id, None));
        assert_eq!(react(&Fact::Shipment(ShipmentDelivered { order_id }.into())), None);
    }

    #[test]
    fn what_is_told_is_what_is_consumed() {
        let consumed = INTERESTS.iter().filter(|(context, _)| *context != Context::Notifications);
        assert_eq!(consumed.flat_map(|(_, kinds)| kinds.to_vec()).collect::<Vec<_>>(), TOLD);
    }
}
