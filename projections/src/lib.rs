//! # projections: the read side
//!
//! Steps 6 (project), 7 (read model), 8 (query) and 9 (subscribe). The only crate that knows SQL; it meets `commands` in the stream only.
//!
//! - [`Projections`]: the front door, one per service
//! - [`View`]: a read model as data and a pure function; one file per context: `orders`, `inventory`, `payments`,
//!   `shipping`, `users`, `fulfilment`, each with its queries
//! - `projector`: from streams into tables, in order, in batches, with the checkpoint in the same transaction
//! - [`table`], [`Changes`]: tables and changes of rows as values; [`database`]: what keeps them
//! - `generations`: complete sets of tables, one of which serves while the next is built
//! - `telling`: changed rows into the change feed, after the commit; [`Live`]: what clients follow
//! - `freshness`: read your writes; [`Progress`]: how far the tables are
//! - [`rebuild()`], [`verify()`]: the log folded again, and where the tables differ from it

pub mod database;
pub mod table;

mod answer;
mod change;
mod freshness;
mod fulfilment;
mod generations;
mod history;
mod inventory;
mod live;
mod metrics;
mod notifications;
mod orders;
mod page;
mod past;
mod payments;
mod personal;
mod progress;
mod projections;
mod projector;
mod shipping;
mod streams;
mod telling;
#[cfg(test)]
mod testing;
mod users;
mod verify;
mod view;

pub use change::Changes;
pub use generations::Rebuilds;
pub use live::{FeedMetrics, Live, LiveOptions};
pub use metrics::ProjectionMetrics;
pub use progress::{Progress, StreamProgress};
pub use projections::{Feed, Outlet, Projections};
pub use streams::{EventDocument, Streams};
pub use verify::{Compared, RebuildError, Rebuilt, compare, live, rebuild, verify};
pub use view::View;
