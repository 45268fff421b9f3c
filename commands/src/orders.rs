//! Orders: what a customer asked for, and how it ended.

mod asking;
mod copies;
mod http;
mod order;
mod react;
mod users;

pub use copies::{AccountCopy, Copies, ProductCopy};
pub use order::{
    MAX_LINES, MAX_QUANTITY, Order, OrderCommand, OrderRejection, OrderState, OrderStatus, Placement,
};
use order::{check_reason, total};
pub use react::{Effect, INTERESTS, react};
pub use users::{Said, UsersService};

use crate::{
    environment::{Build, BuildError, WriteSide},
    reactor,
};
use events::orders::Workflow;
use users::Users;

/// Whose facts orders read beside those that they answer, to keep their own copies up to date.
pub const FOLLOWS: [events::Aggregate; 2] = [copies::FOLLOWED, users::FOLLOWED];

/// Whose facts orders read at all, beside those that they answer.
pub const READS: [events::Aggregate; 3] = [copies::FOLLOWED, users::FOLLOWED, events::Aggregate::Account];

/// The write side of orders.
pub(crate) async fn write_side(build: Build, workflow: Workflow) -> Result<WriteSide, BuildError> {
    let (copies, following) = Copies::start(build.executor.clone(), &build.reactions).await?;
    let users = Users::start(build.users.clone(), build.executor.clone(), &build.reactions).await?;
    let (users, following_users) = users;
    let http = http::routes(build.api(), copies, users, build.keys.clone(), workflow);
    let handler = reactor::handler(build.reacting("service:orders"), react, Effect::decide);
    Ok(build.finish(http, INTERESTS, &handler).beside(following).beside(following_users))
}
