//! Folds the log and says whether what must hold does: every order ended once, and with everything done or everything
//! undone; stock and balances are the sums of what happened to them; the read models say the same.
//!
//! Independent of the code it audits: it knows the facts, not how they are decided or projected.

mod ledger;
mod order;
mod read_model;

use crate::failure::Failure;
use events::{AccountId, Context, Fact, OrderId, Sku};
use ledger::{Balance, Shelf};
use nats::{Connection, Filter, From, Reader, Until};
use order::Order;
use std::collections::BTreeMap;

/// What the log says, in sum.
#[derive(Debug, Default)]
pub struct Audit {
    orders: BTreeMap<OrderId, Order>,
    shelves: BTreeMap<Sku, Shelf>,
    balances: BTreeMap<AccountId, Balance>,
    /// What was wrong at the moment it happened.
    faults: Vec<String>,
}

impl Audit {
    /// Reads every stream from here to its end. Stock and balances are audited where the log is read from their
    /// beginning.
    pub async fn of_log(connection: &Connection, from: From) -> Result<Self, Failure> {
        let mut audit = Self::default();
        // Orders come first: what is read later may be ahead of them, never behind.
        for context in Context::ALL {
            let mut reader = Reader::open(connection, context, from, Until::End, Filter::default()).await?;
            loop {
                let batch = reader.next_batch(1000).await?;
                if batch.is_empty() {
                    break;
                }
                for message in batch {
                    audit.apply(&message.fact()?);
                }
            }
        }
        Ok(audit)
    }

    /// Forgets every other order.
    pub fn retain(&mut self, wanted: impl Fn(OrderId) -> bool) {
        self.orders.retain(|id, _| wanted(*id));
    }

    /// Takes one more fact, the next one of its stream.
    pub fn apply(&mut self, fact: &Fact) {
        match fact {
            Fact::Product(fact) => ledger::product(&mut self.shelves, fact),
            Fact::Item(fact) => ledger::item(&mut self.shelves, fact, &mut self.faults),
            Fact::Account(fact) => {
                ledger::account(&mut self.balances, fact, &mut self.faults);
                order::account(&mut self.orders, fact);
            }
            Fact::Order(fact) => order::order(&mut self.orders, fact),
            Fact::Reservation(fact) => order::reservation(&mut self.orders, fact),
            Fact::Payment(fact) => order::payment(&mut self.orders, fact),
            Fact::Shipment(fact) => order::shipment(&mut self.orders, fact),
            Fact::Assessment(_)
            | Fact::Notification(_)
            | Fact::User(_)
            | Fact::Email(_)
            | Fact::Process(_)
            | Fact::Hold(_)
            | Fact::Timer(_)
            | Fact::DeadLetter(_)
            | Fact::Projection(_) => {}
        }
    }

    /// Everything that does not hold; orders that are still under way are among it.
    pub fn faults(&self) -> Vec<String> {
        let of_orders = self.orders.iter().flat_map(|(id, order)| order.faults(*id));
        self.faults.iter().cloned().chain(of_orders).collect()
    }

    /// Takes what was wrong at the moment it happened since it was asked the last time.
    pub fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// What does not hold of each order that has ended. Some of it may only be on its way still.
    pub fn of_ended_orders(&self) -> BTreeMap<OrderId, Vec<String>> {
        let ended = self.orders.iter().filter(|(_, order)| !order.ends.is_empty());
        let faults = ended.map(|(id, order)| (*id, order.faults(*id)));
        faults.filter(|(_, faults)| !faults.is_empty()).collect()
    }

    /// How many orders have not ended.
    pub fn under_way(&self) -> usize {
        self.orders.values().filter(|order| order.is_under_way()).count()
    }

    /// How many orders there are.
    pub fn orders(&self) -> usize {
        self.orders.len()
    }

    /// How many orders ended in each way: completed, failed, cancelled.
    pub fn ends(&self) -> BTreeMap<&'static str, usize> {
        let mut ends = BTreeMap::new();
        for end in self.orders.values().flat_map(|order| &order.ends) {
            *ends.entry(*end).or_default() += 1;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::{
        Aggregate, Currency, Money, UserId,
        inventory::{InventoryReleased, InventoryReserved, ProductAdded, Stock, StockReceived},
        orders::{OrderCancelled, OrderCompleted, Reason},
        payments::{AccountCredited, AccountOpened},
    };
    use serde_json::json;
    use uuid::Uuid;

    fn id() -> OrderId {
        OrderId::new(Uuid::from_u128(1))
    }

    fn eur(amount: i64) -> Money {
        Money { amount, currency: "EUR".parse::<Currency>().unwrap() }
    }

    /// A fact from its golden file, so that it is one that was really recorded once.
    fn golden(aggregate: Aggregate, kind: &str, version: u32) -> Fact {
        let path = format!("{}/../events/golden/{kind}/{version}.json", env!("CARGO_MANIFEST_DIR"));
        let mut body: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        body["orderId"] = json!(id());
        Fact::from_json(aggregate, kind, version, body.to_string().as_bytes()).unwrap()
    }

    fn created() -> Fact {
        golden(Aggregate::Order, "order.created", 1)
    }

    fn reserved() -> Fact {
        golden(Aggregate::Reservation, "inventory.reserved", 1)
    }

    fn cancelled() -> Fact {
        let Fact::Order(events::orders::OrderEvent::Created(it)) = created() else { unreachable!() };
        let (user_id, account_id, workflow) = (it.user_id, it.account_id, it.workflow);
        Fact::Order(OrderCancelled { order_id: id(), user_id, account_id, reason: None, workflow }.into())
    }

    fn faults(facts: &[Fact]) -> String {
        let mut audit = Audit::default();
        for fact in facts {
            audit.apply(fact);
        }
        audit.faults().join("\n")
    }

    #[test]
    fn an_order_ends_once() {
        assert!(faults(&[created()]).contains("has not ended"));
        assert_eq!(faults(&[created(), cancelled()]), "");
        let completed =
            Fact::Order(OrderCompleted { order_id: id(), user_id: UserId::new(Uuid::from_u128(2)) }.into());
        assert!(faults(&[created(), cancelled(), completed]).contains("ended 2 times"));
    }

    #[test]
    fn what_is_not_completed_is_undone() {
        assert!(faults(&[created(), cancelled(), reserved()]).contains("its stock is still held"));
        let released = Fact::Reservation(
            InventoryReleased {
                order_id: id(),
                reason: Reason::OrderCancelled,
                workflow: events::orders::Workflow::Choreography,
            }
            .into(),
        );
        assert_eq!(faults(&[created(), cancelled(), reserved(), released]), "");
    }

    #[test]
    fn what_is_completed_was_paid() {
        let completed =
            Fact::Order(OrderCompleted { order_id: id(), user_id: UserId::new(Uuid::from_u128(2)) }.into());
        let found = faults(&[created(), completed, reserved()]);
        assert!(found.contains("was charged 0 times") && found.contains("was scheduled 0 times"), "{found}");
    }

    #[test]
    fn sums_are_what_the_facts_say() {
        let sku = Sku::new("TEA").unwrap();
        let added = ProductAdded { sku: sku.clone(), name: "Tea".to_owned(), price: eur(450) };
        let received = |on_hand| {
            let stock = Stock { on_hand, reserved: 0 };
            Fact::Item(StockReceived { sku: sku.clone(), quantity: 5, stock }.into())
        };
        assert_eq!(faults(&[Fact::Product(added.clone().into()), received(5), received(10)]), "");
        assert!(faults(&[Fact::Product(added.into()), received(5), received(9)]).contains("TEA"));

        let account_id = AccountId::new(Uuid::from_u128(3));
        let user_id = UserId::new(Uuid::from_u128(2));
        let opened = AccountOpened { account_id, user_id, currency: eur(0).currency };
        let credited = AccountCredited { account_id, amount: eur(5), balance: eur(6), order_id: None };
        assert!(faults(&[Fact::Account(opened.into()), Fact::Account(credited.into())]).contains("balance"));
    }

    #[test]
    fn an_order_that_is_not_wanted_is_not_judged() {
        let mut audit = Audit::default();
        audit.apply(&created());
        audit.retain(|_| false);
        assert_eq!((audit.orders(), audit.faults().len()), (0, 0));
        let Fact::Reservation(events::inventory::ReservationEvent::Reserved(it)) = reserved() else {
            unreachable!()
        };
        let InventoryReserved { order_id, .. } = it;
        assert_eq!(order_id, id());
    }
}
