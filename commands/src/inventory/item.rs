//! The stock of one SKU: what is in the house, and what of it is held for orders.

use crate::{Aggregate, Refusal};
use events::{
    OrderId, Sku,
    inventory::{ItemEvent, Stock, StockAdjusted, StockReceived, StockReleased, StockReserved, StockShipped},
};

/// Units of one SKU in the house: the largest integer that every JSON reader keeps exactly.
pub const MAX_ON_HAND: u64 = (1 << 53) - 1;
/// Characters of the reason for an adjustment.
const MAX_REASON: usize = 200;

/// The aggregate.
#[derive(Debug)]
pub struct Item;

/// What can be asked of the stock of `sku`.
#[derive(Clone, Debug)]
pub struct ItemCommand {
    /// Which.
    pub sku: Sku,
    /// What.
    pub change: StockChange,
}

/// A change of stock.
#[derive(Clone, Debug)]
pub enum StockChange {
    /// Goods arrive.
    Receive {
        /// How many.
        quantity: u32,
    },
    /// A count is put right.
    Adjust {
        /// Units more or less.
        delta: i64,
        /// Why.
        reason: String,
    },
    /// Some is to be held for an order.
    Reserve {
        /// For which order.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// What is held for an order is to be free again.
    Release {
        /// For which order.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
    /// What is held for an order leaves the house.
    Ship {
        /// For which order.
        order_id: OrderId,
        /// How many.
        quantity: u32,
    },
}

/// Why the stock can refuse to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemRejection {
    /// Nothing arrives.
    #[error("a quantity is at least 1")]
    Quantity,
    /// Nothing changes.
    #[error("a delta is not 0")]
    NoDelta,
    /// The reason is empty or too long.
    #[error("a reason has 1 to {MAX_REASON} characters")]
    Reason,
    /// More than can be counted.
    #[error("a SKU has at most {MAX_ON_HAND} units on hand")]
    TooMany {
        /// The field that says how many.
        field: &'static str,
    },
    /// Orders hold more than would be left.
    #[error("{on_hand} units on hand cannot change by {delta}: {reserved} of them are held for orders")]
    BelowReserved {
        /// Units in the house.
        on_hand: u64,
        /// Units of these that orders hold.
        reserved: u64,
        /// What was asked for.
        delta: i64,
    },
    /// Less is available than is to be held.
    #[error("{available} units are available, {requested} were asked for")]
    OutOfStock {
        /// Units that could be held.
        available: u64,
        /// Units asked for.
        requested: u32,
    },
    /// Less is held than is to be freed or shipped.
    #[error("{reserved} units are held, {requested} were asked for")]
    NotReserved {
        /// Units that orders hold.
        reserved: u64,
        /// Units asked for.
        requested: u32,
    },
}

impl From<ItemRejection> for Refusal {
    fn from(rejection: ItemRejection) -> Self {
        use ItemRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Quantity => Self::invalid("quantity-out-of-range", "quantity", detail),
            R::NoDelta => Self::invalid("delta-zero", "delta", detail),
            R::Reason => Self::invalid("reason-invalid", "reason", detail),
            R::TooMany { field } => Self::invalid("stock-too-large", field, detail),
            R::BelowReserved { .. } => Self::conflict("stock-reserved", detail),
            R::OutOfStock { .. } => Self::conflict("out-of-stock", detail),
            R::NotReserved { .. } => Self::conflict("stock-not-reserved", detail),
        }
    }
}

impl Aggregate for Item {
    const KIND: events::Aggregate = events::Aggregate::Item;
    const SCHEMA: &'static str = "item/1";
    type State = Stock;
    type Command = ItemCommand;
    type Event = ItemEvent;
    type Rejection = ItemRejection;

    fn decide(state: &Stock, command: ItemCommand) -> Result<Vec<ItemEvent>, ItemRejection> {
        let ItemCommand { sku, change } = command;
        let stock = after(*state, &change)?;
        Ok(vec![match change {
            StockChange::Receive { quantity } => StockReceived { sku, quantity, stock }.into(),
            StockChange::Adjust { delta, reason } => StockAdjusted { sku, delta, reason, stock }.into(),
            StockChange::Reserve { order_id, quantity } => {
                StockReserved { sku, order_id, quantity, stock }.into()
            }
            StockChange::Release { order_id, quantity } => {
                StockReleased { sku, order_id, quantity, stock }.into()
            }
            StockChange::Ship { order_id, quantity } => {
                StockShipped { sku, order_id, quantity, stock }.into()
            }
        }])
    }

    fn evolve(_: Stock, event: &ItemEvent) -> Stock {
        match event {
            ItemEvent::Received(fact) => fact.stock,
            ItemEvent::Adjusted(fact) => fact.stock,
            ItemEvent::Reserved(fact) => fact.stock,
            ItemEvent::Released(fact) => fact.stock,
            ItemEvent::Shipped(fact) => fact.stock,
        }
    }
}

/// The stock after a change. `reserved <= on_hand <= MAX_ON_HAND` holds before and after.
fn after(stock: Stock, change: &StockChange) -> Result<Stock, ItemRejection> {
    let Stock { on_hand, reserved } = stock;
    let counted = |total: Option<u64>, field| {
        total.filter(|total| *total <= MAX_ON_HAND).ok_or(ItemRejection::TooMany { field })
    };
    let held = |requested: u32| {
        let rest = reserved.checked_sub(requested.into());
        rest.ok_or(ItemRejection::NotReserved { reserved, requested })
    };
    match *change {
        StockChange::Receive { quantity: 0 } | StockChange::Reserve { quantity: 0, .. } => {
            Err(ItemRejection::Quantity)
        }
        StockChange::Receive { quantity } => {
            Ok(Stock { on_hand: counted(on_hand.checked_add(quantity.into()), "quantity")?, reserved })
        }
        StockChange::Adjust { delta: 0, .. } => Err(ItemRejection::NoDelta),
        StockChange::Adjust { ref reason, .. }
            if reason.trim().is_empty() || reason.chars().count() > MAX_REASON =>
        {
            Err(ItemRejection::Reason)
        }
        StockChange::Adjust { delta, .. } if delta < 0 => {
            let left = on_hand.checked_add_signed(delta).filter(|left| *left >= reserved);
            let on_hand = left.ok_or(ItemRejection::BelowReserved { on_hand, reserved, delta })?;
            Ok(Stock { on_hand, reserved })
        }
        StockChange::Adjust { delta, .. } => {
            Ok(Stock { on_hand: counted(on_hand.checked_add_signed(delta), "delta")?, reserved })
        }
        StockChange::Reserve { quantity, .. } => {
            let available = stock.available();
            if u64::from(quantity) > available {
                return Err(ItemRejection::OutOfStock { available, requested: quantity });
            }
            Ok(Stock { on_hand, reserved: reserved + u64::from(quantity) })
        }
        StockChange::Release { quantity, .. } => Ok(Stock { on_hand, reserved: held(quantity)? }),
        StockChange::Ship { quantity, .. } => {
            Ok(Stock { reserved: held(quantity)?, on_hand: on_hand - u64::from(quantity) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{order, sku},
    };
    use proptest::prelude::*;

    fn stock(on_hand: u64, reserved: u64) -> Stock {
        Stock { on_hand, reserved }
    }

    fn received(quantity: u32, stock: Stock) -> ItemEvent {
        StockReceived { sku: sku("TEA"), quantity, stock }.into()
    }

    fn of_tea(change: StockChange) -> ItemCommand {
        ItemCommand { sku: sku("TEA"), change }
    }

    fn adjust(delta: i64) -> ItemCommand {
        of_tea(StockChange::Adjust { delta, reason: "count".to_owned() })
    }

    fn reserve(quantity: u32) -> ItemCommand {
        of_tea(StockChange::Reserve { order_id: order(1), quantity })
    }

    /// Ten in the house, four of them held.
    fn ten_four() -> [ItemEvent; 2] {
        let held = StockReserved { sku: sku("TEA"), order_id: order(1), quantity: 4, stock: stock(10, 4) };
        [received(10, stock(10, 0)), held.into()]
    }

    #[test]
    fn goods_arrive() {
        given::<Item>([])
            .when(of_tea(StockChange::Receive { quantity: 10 }))
            .then([received(10, stock(10, 0))]);
        given::<Item>([])
            .when(of_tea(StockChange::Receive { quantity: 0 }))
            .then_refused("quantity-out-of-range");
        given::<Item>([received(1, stock(MAX_ON_HAND, 0))])
            .when(of_tea(StockChange::Receive { quantity: 1 }))
            .then_refused("stock-too-large");
    }

    #[test]
    fn a_count_is_put_right_but_never_below_what_is_held() {
        let adjusted = |delta, stock| -> ItemEvent {
            StockAdjusted { sku: sku("TEA"), delta, reason: "count".to_owned(), stock }.into()
        };
        given::<Item>(ten_four()).when(adjust(-6)).then([adjusted(-6, stock(4, 4))]);
        given::<Item>(ten_four()).when(adjust(5)).then([adjusted(5, stock(15, 4))]);
        for below in [-7, -11, i64::MIN] {
            let refusal = given::<Item>(ten_four()).when(adjust(below)).then_refused("stock-reserved");
            assert!(refusal.detail.contains("4 of them are held"), "{refusal}");
        }
        given::<Item>(ten_four()).when(adjust(0)).then_refused("delta-zero");
        given::<Item>(ten_four()).when(adjust(i64::MAX)).then_refused("stock-too-large");
        let unexplained = of_tea(StockChange::Adjust { delta: 1, reason: String::new() });
        given::<Item>(ten_four()).when(unexplained).then_refused("reason-invalid");
    }

    #[test]
    fn only_what_is_available_is_held() {
        let reserved =
            StockReserved { sku: sku("TEA"), order_id: order(1), quantity: 6, stock: stock(10, 10) };
        given::<Item>(ten_four()).when(reserve(6)).then([reserved.into()]);
        given::<Item>(ten_four()).when(reserve(7)).then_refused("out-of-stock");
        given::<Item>([]).when(reserve(1)).then_refused("out-of-stock");
    }

    #[test]
    fn what_is_held_is_freed_or_leaves_the_house() {
        let (sku, order_id, quantity) = (sku("TEA"), order(1), 4);
        let released = StockReleased { sku: sku.clone(), order_id, quantity, stock: stock(10, 0) };
        let shipped = StockShipped { sku, order_id, quantity, stock: stock(6, 0) };
        let release = of_tea(StockChange::Release { order_id, quantity });
        let ship = of_tea(StockChange::Ship { order_id, quantity });
        given::<Item>(ten_four()).when(release.clone()).then([released.clone().into()]);
        given::<Item>(ten_four()).when(ship).then([shipped.into()]);
        let [first, second] = ten_four();
        given::<Item>([first, second, released.into()]).when(release).then_refused("stock-not-reserved");
    }

    fn any_change() -> impl Strategy<Value = StockChange> {
        let small = 0_u32..30;
        let order_id = order(1);
        prop_oneof![
            small.clone().prop_map(|quantity| StockChange::Receive { quantity }),
            (-40_i64..40).prop_map(|delta| StockChange::Adjust { delta, reason: "count".to_owned() }),
            any::<i64>().prop_map(|delta| StockChange::Adjust { delta, reason: "count".to_owned() }),
            small.clone().prop_map(move |quantity| StockChange::Reserve { order_id, quantity }),
            small.clone().prop_map(move |quantity| StockChange::Release { order_id, quantity }),
            small.prop_map(move |quantity| StockChange::Ship { order_id, quantity }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_held_is_always_in_the_house(changes in prop::collection::vec(any_change(), 1..60)) {
            let mut stock = Stock::default();
            for change in changes {
                if let Ok(events) = Item::decide(&stock, of_tea(change)) {
                    stock = events.iter().fold(stock, Item::evolve);
                }
                prop_assert!(stock.reserved <= stock.on_hand && stock.on_hand <= MAX_ON_HAND);
            }
        }
    }
}
