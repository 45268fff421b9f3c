//! How the database of a service stands, for whoever looks for what is wrong. Nothing is made or changed.

use super::{DatabaseError, Storage, postgres, sqlite};
use crate::{
    generations::{Catalogue, Own},
    view::View,
};
use events::Position;
use jiff::Timestamp;
use nats::State;
use std::path::Path;

/// How a database stands.
#[derive(Clone, Debug, Default)]
pub struct DatabaseLook {
    /// What it is: `SQLite`, `PostgreSQL 15.4`.
    pub server: String,
    /// What time it has; none where it has no clock of its own.
    pub now: Option<Timestamp>,
    /// Connections that there are, and may be.
    pub connections: Option<(u64, u64)>,
    /// The tables; none where nothing was ever projected here.
    pub tables: Option<TablesLook>,
}

/// The tables that serve.
#[derive(Clone, Debug)]
pub struct TablesLook {
    /// The number of their generation.
    pub generation: u32,
    /// The version of the view that they were built with.
    pub version: u32,
    /// The version that this program has.
    pub own: u32,
    /// Whether they are of this program's declaration.
    pub is_own: bool,
    /// Whether another generation is being built.
    pub is_building: bool,
    /// Up to where each stream is in them.
    pub checkpoints: Vec<Position>,
    /// Aggregates whose events wait for an operator.
    pub parked: u64,
}

/// What a database says of itself.
pub(super) struct Found {
    pub(super) look: DatabaseLook,
    /// The catalogue of generations, as it is kept.
    pub(super) catalogue: Option<String>,
}

impl Storage {
    /// Copies the files of a view into a folder, each as it is at one moment, and gives their names. On PostgreSQL there are
    /// none.
    pub async fn copy_files(&self, view: &'static View, to: &Path) -> Result<Vec<String>, DatabaseError> {
        let Self::Sqlite(folder) = self else { return Ok(Vec::new()) };
        loop {
            let (before, names) = (self.numbers(view).await?, sqlite::files(folder, view.name).await?);
            let mut copied = true;
            for name in &names {
                copied &= sqlite::copy(folder, name, to).await?;
            }
            // Where tables were switched or removed meanwhile, the files do not belong together.
            if copied && before == self.numbers(view).await? {
                return Ok(names);
            }
        }
    }

    /// The generations that there are, and which of them serves.
    async fn numbers(&self, view: &'static View) -> Result<Vec<(u32, State)>, DatabaseError> {
        let catalogue = match self {
            Self::Sqlite(folder) => sqlite::examine(folder, view.name).await?.catalogue,
            Self::Postgres(url) => Box::pin(postgres::examine(url, view.name)).await?.catalogue,
        };
        let Some(catalogue) = catalogue else { return Ok(Vec::new()) };
        let catalogue = Catalogue::read(&catalogue)?;
        Ok(catalogue.generations.iter().map(|one| (one.shown.number, one.shown.state)).collect())
    }

    /// How the database of a view stands.
    pub async fn examine(&self, view: &'static View) -> Result<DatabaseLook, DatabaseError> {
        let Found { mut look, catalogue } = match self {
            Self::Sqlite(folder) => sqlite::examine(folder, view.name).await?,
            Self::Postgres(url) => Box::pin(postgres::examine(url, view.name)).await?,
        };
        let Some(catalogue) = catalogue else { return Ok(look) };
        let catalogue = Catalogue::read(&catalogue)?;
        let Some(live) = catalogue.live() else { return Ok(look) };
        let (generation, own) = (live.shown.number, Own::of(view));
        let (checkpoints, parked) = match self {
            Self::Sqlite(folder) => sqlite::standing(folder, view.name, generation).await?,
            Self::Postgres(url) => Box::pin(postgres::standing(url, view.name, generation)).await?,
        };
        let is_building = catalogue.generations.iter().any(|entry| entry.shown.state == State::Building);
        look.tables = Some(TablesLook {
            generation,
            version: live.shown.version,
            own: own.version,
            is_own: live.shown.model == own.model,
            is_building,
            checkpoints,
            parked,
        });
        Ok(look)
    }
}
