//! An order: pending until everything it needs is done, then completed; or failed, or cancelled, once.

use crate::{Aggregate, Refusal};
use events::{
    AccountId, Address, Money, MoneyError, OrderId, Personal, Sku, UserId,
    orders::{
        Line, OrderCancelled, OrderCompleted, OrderCreated, OrderEvent, OrderFailed, Reason, UserSnapshot,
        Workflow,
    },
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Lines that one order may have: its facts stay small and one atomic batch reserves all of them.
pub const MAX_LINES: usize = 100;
/// Units of one SKU that one order may ask for.
pub const MAX_QUANTITY: u32 = 1_000_000;
/// Characters of a field of free text.
const MAX_TEXT: usize = 200;

/// The aggregate.
#[derive(Debug)]
pub struct Order;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    /// Not everything is done yet.
    Pending,
    /// Everything is done.
    Completed,
    /// It could not be fulfilled.
    Failed,
    /// The customer took it back.
    Cancelled,
}

/// What an order remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    account_id: AccountId,
    /// Who carries it through.
    pub workflow: Workflow,
    /// Where it stands.
    pub status: OrderStatus,
}

/// A new order, priced from the catalogue.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its id.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that pays.
    pub account_id: AccountId,
    /// What is ordered.
    pub items: Vec<Line>,
    /// Where it goes. Checked before it was sealed.
    pub shipping_address: Personal<Address>,
    /// Who carries it through.
    pub workflow: Workflow,
    /// How the customer is known.
    pub user_snapshot: UserSnapshot,
}

/// What can be asked of an order.
#[derive(Clone, Debug)]
pub enum OrderCommand {
    /// Place it.
    Place(Box<Placement>),
    /// Everything is done.
    Complete,
    /// It cannot be fulfilled.
    Fail {
        /// Why.
        reason: Reason,
        /// In words.
        detail: String,
    },
    /// The customer takes it back.
    Cancel {
        /// What the customer says. Checked before it was sealed.
        reason: Option<Personal<String>>,
    },
}

/// Why an order can refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderRejection {
    /// Nothing is ordered.
    #[error("an order needs at least one line")]
    Empty,
    /// Too much is ordered at once.
    #[error("an order has at most {MAX_LINES} lines, not {0}")]
    TooManyLines(usize),
    /// A SKU comes twice.
    #[error("the SKU {sku} is in two lines: put its quantities together")]
    DuplicateSku {
        /// The second line that has it.
        line: usize,
        /// What.
        sku: Sku,
    },
    /// A quantity is zero or too large.
    #[error("a quantity is 1 to {MAX_QUANTITY}, not {quantity}")]
    Quantity {
        /// The line at fault.
        line: usize,
        /// What it asks for.
        quantity: u32,
    },
    /// A product is priced in another currency than those before it.
    #[error("an order has one currency: {error}")]
    Currency {
        /// The line at fault.
        line: usize,
        /// Which two currencies.
        error: MoneyError,
    },
    /// The total does not fit.
    #[error("the total of the order is too large")]
    Total {
        /// The line with which it becomes too large.
        line: usize,
    },
    /// The customer says too much.
    #[error("a reason has at most {MAX_TEXT} characters")]
    ReasonTooLong,
    /// It was placed before.
    #[error("the order {0} exists already")]
    Exists(OrderId),
    /// There is no such order.
    #[error("there is no such order")]
    Unknown,
    /// It has ended.
    #[error("only a pending order can be cancelled: this one is {}", match .0 {
        OrderStatus::Pending => "pending",
        OrderStatus::Completed => "completed",
        OrderStatus::Failed => "failed",
        OrderStatus::Cancelled => "cancelled",
    })]
    NotPending(OrderStatus),
}

impl From<OrderRejection> for Refusal {
    fn from(rejection: OrderRejection) -> Self {
        use OrderRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Empty => Self::invalid("order-empty", "items", detail),
            R::TooManyLines(_) => Self::invalid("too-many-lines", "items", detail),
            R::DuplicateSku { line, .. } => {
                Self::invalid("duplicate-sku", format!("items[{line}].sku"), detail)
            }
            R::Quantity { line, .. } => {
                Self::invalid("quantity-out-of-range", format!("items[{line}].quantity"), detail)
            }
            R::Currency { line, .. } => {
                Self::invalid("currency-mismatch", format!("items[{line}].sku"), detail)
            }
            R::Total { line } => Self::invalid("total-too-large", format!("items[{line}].quantity"), detail),
            R::ReasonTooLong => Self::invalid("reason-too-long", "reason", detail),
            R::Exists(_) => Self::conflict("order-exists", detail),
            R::Unknown => Self::not_found("order-not-found", detail),
            R::NotPending(_) => Self::conflict("order-not-pending", detail),
        }
    }
}

impl Aggregate for Order {
    const KIND: events::Aggregate = events::Aggregate::Order;
    const SCHEMA: &'static str = "order/1";
    type State = Option<OrderState>;
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Rejection = OrderRejection;

    fn decide(state: &Self::State, command: OrderCommand) -> Result<Vec<OrderEvent>, OrderRejection> {
        let order = match (state, command) {
            (None, OrderCommand::Place(placement)) => return place(*placement),
            (Some(order), OrderCommand::Place(_)) => return Err(OrderRejection::Exists(order.order_id)),
            (None, _) => return Err(OrderRejection::Unknown),
            (Some(order), command) => (order, command),
        };
        let (&OrderState { order_id, user_id, account_id, workflow, status }, command) = order;
        let pending = status == OrderStatus::Pending;
        Ok(match command {
            OrderCommand::Complete if pending => vec![OrderCompleted { order_id, user_id }.into()],
            OrderCommand::Fail { reason, detail } if pending => {
                vec![OrderFailed { order_id, user_id, reason, detail }.into()]
            }
            OrderCommand::Cancel { reason } if pending => {
                vec![OrderCancelled { order_id, user_id, account_id, reason, workflow }.into()]
            }
            OrderCommand::Cancel { .. } if status != OrderStatus::Cancelled => {
                return Err(OrderRejection::NotPending(status));
            }
            // It has ended: whoever cancelled or failed it undoes what comes too late.
            _ => vec![],
        })
    }

    fn evolve(state: Self::State, event: &OrderEvent) -> Self::State {
        let ended = |status| state.clone().map(|order| OrderState { status, ..order });
        match event {
            OrderEvent::Created(created) => Some(OrderState {
                order_id: created.order_id,
                user_id: created.user_id,
                account_id: created.account_id,
                workflow: created.workflow,
                status: OrderStatus::Pending,
            }),
            OrderEvent::Completed(_) => ended(OrderStatus::Completed),
            OrderEvent::Failed(_) => ended(OrderStatus::Failed),
            OrderEvent::Cancelled(_) => ended(OrderStatus::Cancelled),
        }
    }
}

fn place(placement: Placement) -> Result<Vec<OrderEvent>, OrderRejection> {
    let total_amount = total(&placement.items)?;
    let Placement { order_id, user_id, account_id, items, shipping_address, workflow, user_snapshot } =
        placement;
    let created = OrderCreated {
        order_id,
        user_id,
        account_id,
        items,
        total_amount,
        shipping_address,
        workflow,
        user_snapshot,
    };
    Ok(vec![created.into()])
}

/// Checks the lines and adds them up.
pub(super) fn total(lines: &[Line]) -> Result<Money, OrderRejection> {
    let first = lines.first().ok_or(OrderRejection::Empty)?;
    if lines.len() > MAX_LINES {
        return Err(OrderRejection::TooManyLines(lines.len()));
    }
    let mut seen = HashSet::new();
    let mut total = Money::zero(first.unit_price.currency);
    for (line, Line { sku, quantity, unit_price }) in lines.iter().enumerate() {
        if !seen.insert(sku) {
            return Err(OrderRejection::DuplicateSku { line, sku: sku.clone() });
        }
        if !(1..=MAX_QUANTITY).contains(quantity) {
            return Err(OrderRejection::Quantity { line, quantity: *quantity });
        }
        total =
            unit_price.times(*quantity).and_then(|cost| total.plus(cost)).map_err(|error| match error {
                MoneyError::Currency(..) => OrderRejection::Currency { line, error },
                MoneyError::Overflow => OrderRejection::Total { line },
            })?;
    }
    Ok(total)
}

/// Checks what a customer says when cancelling.
pub(super) fn check_reason(reason: &str) -> Result<(), OrderRejection> {
    if reason.chars().count() > MAX_TEXT { Err(OrderRejection::ReasonTooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aggregate::testing::given, fixtures};
    use fixtures::{account, address, created, eur, line, order, sealed, sku, user};

    fn placement(items: Vec<Line>) -> Placement {
        Placement {
            order_id: order(1),
            user_id: user(1),
            account_id: account(1),
            items,
            shipping_address: sealed(&address()),
            workflow: Workflow::Choreography,
            user_snapshot: UserSnapshot::default(),
        }
    }

    fn place(items: Vec<Line>) -> OrderCommand {
        OrderCommand::Place(Box::new(placement(items)))
    }

    fn lines() -> Vec<Line> {
        vec![line("TEA", 2, 450), line("CUP", 1, 1200)]
    }

    fn pending() -> OrderEvent {
        created(&lines()).into()
    }

    fn completed() -> OrderEvent {
        OrderCompleted { order_id: order(1), user_id: user(1) }.into()
    }

    fn failed() -> OrderEvent {
        let detail = "no TEA".to_owned();
        OrderFailed { order_id: order(1), user_id: user(1), reason: Reason::OutOfStock, detail }.into()
    }

    fn cancelled() -> OrderEvent {
        OrderCancelled {
            order_id: order(1),
            user_id: user(1),
            account_id: account(1),
            reason: None,
            workflow: Workflow::Choreography,
        }
        .into()
    }

    fn fail() -> OrderCommand {
        OrderCommand::Fail { reason: Reason::OutOfStock, detail: "no TEA".to_owned() }
    }

    const CANCEL: OrderCommand = OrderCommand::Cancel { reason: None };

    #[test]
    fn a_placed_order_is_pending_with_its_total() {
        let OrderEvent::Created(event) = pending() else { panic!() };
        assert_eq!(event.total_amount, eur(2100));
        given::<Order>([]).when(place(lines())).then([event.into()]);
        given::<Order>([pending()]).when(place(lines())).then_refused("order-exists");
    }

    #[test]
    fn a_pending_order_ends_once() {
        given::<Order>([pending()]).when(OrderCommand::Complete).then([completed()]);
        given::<Order>([pending()]).when(fail()).then([failed()]);
        given::<Order>([pending()]).when(CANCEL).then([cancelled()]);
        for end in [completed(), failed(), cancelled()] {
            given::<Order>([pending(), end.clone()]).when(OrderCommand::Complete).then_nothing();
            given::<Order>([pending(), end]).when(fail()).then_nothing();
        }
    }

    #[test]
    fn cancelling_is_for_pending_orders_and_repeatable() {
        given::<Order>([pending(), cancelled()]).when(CANCEL).then_nothing();
        for end in [completed(), failed()] {
            let refusal = given::<Order>([pending(), end]).when(CANCEL).then_refused("order-not-pending");
            assert_eq!(refusal.status, 409);
        }
        assert_eq!(check_reason(&"ä".repeat(200)), Ok(()));
        assert_eq!(check_reason(&"x".repeat(201)), Err(OrderRejection::ReasonTooLong));
    }

    #[test]
    fn an_unknown_order_is_refused() {
        for command in [OrderCommand::Complete, fail(), CANCEL] {
            assert_eq!(given::<Order>([]).when(command).then_refused("order-not-found").status, 404);
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let dear = |of, price| Line { unit_price: Money::new(price, eur(0).currency), ..line(of, 2, 0) };
        let yen = Line { unit_price: Money::new(5, fixtures::currency("JPY")), ..line("CUP", 1, 0) };
        let many = (0..101).map(|n| line(&format!("S{n}"), 1, 1)).collect();
        let cases = [
            (vec![], "order-empty", "items"),
            (many, "too-many-lines", "items"),
            (vec![line("TEA", 1, 1), line("TEA", 1, 1)], "duplicate-sku", "items[1].sku"),
            (vec![line("TEA", 1, 1), line("CUP", 0, 1)], "quantity-out-of-range", "items[1].quantity"),
            (vec![line("TEA", MAX_QUANTITY + 1, 1)], "quantity-out-of-range", "items[0].quantity"),
            (vec![line("TEA", 1, 1), yen], "currency-mismatch", "items[1].sku"),
            (vec![dear("TEA", i64::MAX)], "total-too-large", "items[0].quantity"),
            (vec![dear("TEA", i64::MAX / 2), dear("CUP", 1)], "total-too-large", "items[1].quantity"),
        ];
        for (items, slug, field) in cases {
            let refusal = given::<Order>([]).when(place(items)).then_refused(slug);
            assert_eq!((refusal.status, refusal.field.as_deref()), (422, Some(field)));
        }
        let most = (0..100).map(|n| line(&format!("S{n}"), MAX_QUANTITY, 1)).collect();
        assert!(Order::decide(&None, place(most)).is_ok());
        assert_eq!(sku("S1"), line("S1", 1, 1).sku);
    }
}
