//! Orders: what a customer asked for, and how it ended.

mod copies;
mod order;
mod react;
mod reactor;

pub use copies::{AccountCopy, Copies, ProductCopy};
pub use order::{
    MAX_LINES, MAX_QUANTITY, Order, OrderCommand, OrderRejection, OrderState, OrderStatus, Placement,
};
pub use react::{Effect, INTERESTS, react};

use crate::environment::{Build, BuildError, WriteSide};
use utoipa_axum::router::OpenApiRouter;

/// The write side of orders.
pub(crate) async fn write_side(build: Build) -> Result<WriteSide, BuildError> {
    let (copies, following) = Copies::start(build.executor.clone(), &build.reactions).await?;
    let _ = &copies;
    let http = OpenApiRouter::new();
    let handler = reactor::handler(build.executor.clone());
    Ok(build.finish(http, INTERESTS, &handler).beside(following))
}
