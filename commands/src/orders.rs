//! Orders: what a customer asked for, and how it ended.

mod order;
mod react;

pub use order::{
    MAX_LINES, MAX_QUANTITY, Order, OrderCommand, OrderRejection, OrderState, OrderStatus, Placement,
};
pub use react::{Effect, INTERESTS, react};
