//! A read model: its tables, the facts it is made of, and the pure function that makes it.

use crate::{
    Changes, Live, Projections, fulfilment, inventory, notifications, orders, past::Thing, payments,
    shipping, table::Table, users,
};
use events::{Aggregate, Context};
use nats::Recorded;
use sha2::{Digest, Sha256};
use utoipa_axum::router::OpenApiRouter;

/// The read model of one service.
#[derive(Debug)]
pub struct View {
    /// The service, which is also the name of the projection.
    pub name: &'static str,
    /// Raised when `project` changes its mind about facts already projected: the tables are then built again. A changed
    /// table needs no new version.
    pub version: u32,
    /// Its tables.
    pub tables: &'static [&'static Table],
    /// The aggregates whose facts it is made of. Others in the same streams are passed over without being decoded.
    pub aggregates: &'static [Aggregate],
    /// What a fact changes. Pure; facts of one stream come in its order, streams in any order among each other.
    pub project: fn(&Recorded, &mut Changes),
    /// What it shows at paths of their own, and so also as it was.
    pub(crate) things: &'static [Thing],
    /// Its queries.
    pub(crate) routes: fn() -> OpenApiRouter<Projections>,
    /// What of it clients can follow.
    pub(crate) live: Live,
}

impl View {
    /// Every read model.
    pub const ALL: [&'static Self; 7] = [
        &orders::VIEW,
        &inventory::VIEW,
        &payments::VIEW,
        &shipping::VIEW,
        &notifications::VIEW,
        &users::VIEW,
        &fulfilment::VIEW,
    ];

    /// The read model of a service.
    pub fn of(service: &str) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|view| view.name == service)
    }

    /// The same for the same declaration: what makes the tables, and the version of what fills them.
    pub(crate) fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(format!("version {}\n", self.version));
        for table in self.tables {
            let Table { name, key, columns, indexes } = table;
            digest.update(format!("{name} {key:?} {columns:?} {indexes:?}\n"));
        }
        digest.finalize()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// The tables whose changed rows are told.
    pub(crate) fn fed(&self) -> impl Iterator<Item = &'static Table> {
        self.live.models.iter().flat_map(|model| model.tables.iter().copied())
    }

    /// The contexts whose streams it reads, each once.
    pub fn contexts(&self) -> impl Iterator<Item = Context> + '_ {
        let reads = |context: &Context| self.aggregates.iter().any(|one| one.context() == *context);
        Context::ALL.into_iter().filter(reads)
    }
}
