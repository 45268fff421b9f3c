//! Generations as databases see them: where the catalogue is kept, and what is done to all tables of one at once.

use super::{Database, DatabaseError, Reading, Storage, Writer, Writing, postgres, sqlite};
use crate::{table::Table, view::View};
use events::Position;

/// Where the catalogue of a service is kept.
#[derive(Debug)]
pub(crate) struct Shelf(Kind);

#[derive(Debug)]
enum Kind {
    Sqlite(sqlite::Shelf),
    Postgres(Box<postgres::Shelf>),
}

impl Shelf {
    /// The document with its revision.
    pub(crate) async fn load(&mut self) -> Result<Option<(u64, String)>, DatabaseError> {
        match &mut self.0 {
            Kind::Sqlite(kept) => kept.load().await,
            Kind::Postgres(kept) => kept.load().await,
        }
    }

    /// Replaces the document that has this revision, 0 for none. False where somebody was faster.
    pub(crate) async fn swap(&mut self, revision: u64, document: &str) -> Result<bool, DatabaseError> {
        match &mut self.0 {
            Kind::Sqlite(kept) => kept.swap(revision, document).await,
            Kind::Postgres(kept) => kept.swap(revision, document).await,
        }
    }
}

impl Storage {
    /// The catalogue of a service.
    pub(crate) async fn shelf(&self, service: &'static str) -> Result<Shelf, DatabaseError> {
        Ok(Shelf(match self {
            Self::Sqlite(folder) => Kind::Sqlite(sqlite::Shelf::open(folder, service).await?),
            Self::Postgres(url) => {
                Kind::Postgres(Box::new(Box::pin(postgres::Shelf::open(url, service)).await?))
            }
        }))
    }

    /// Whether there are tables from before there were generations, as generation 0, and whether they are those of `view`.
    pub(crate) async fn adopt(&self, view: &'static View) -> Result<Option<bool>, DatabaseError> {
        match self {
            Self::Sqlite(folder) => sqlite::adopt(folder, view).await,
            // There were generations from the first on.
            Self::Postgres(_) => Ok(None),
        }
    }

    /// From now on nothing is committed to this generation. Up to where it is built.
    pub(crate) async fn close(
        &self,
        service: &str,
        generation: u32,
        token: u64,
    ) -> Result<Vec<Position>, DatabaseError> {
        match self {
            Self::Sqlite(folder) => sqlite::close(folder, service, generation, token).await,
            Self::Postgres(url) => Box::pin(postgres::close(url, service, generation, token)).await,
        }
    }

    /// What was closed with this token, or with any, takes commits again.
    pub(crate) async fn reopen(
        &self,
        service: &str,
        generation: u32,
        token: Option<u64>,
    ) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(folder) => sqlite::reopen(folder, service, generation, token).await,
            Self::Postgres(url) => Box::pin(postgres::reopen(url, service, generation, token)).await,
        }
    }

    /// What a generation is closed with.
    pub(crate) async fn closed(&self, service: &str, generation: u32) -> Result<Option<u64>, DatabaseError> {
        match self {
            Self::Sqlite(folder) => sqlite::closed(folder, service, generation).await,
            Self::Postgres(url) => Box::pin(postgres::closed(url, service, generation)).await,
        }
    }

    /// Removes the tables of a generation.
    pub(crate) async fn remove(&self, service: &str, generation: u32) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(folder) => sqlite::remove(folder, service, generation).await,
            Self::Postgres(url) => Box::pin(postgres::remove(url, service, generation)).await,
        }
    }
}

impl Database {
    /// Opens a generation that is being built, or begins it: without indexes, to be read from these positions on.
    pub(crate) async fn build(
        storage: &Storage,
        view: &'static View,
        generation: u32,
        since: &[Position],
    ) -> Result<Self, DatabaseError> {
        Ok(Self(match storage {
            Storage::Sqlite(folder) => {
                Reading::Sqlite(sqlite::Database::open(folder, view, generation, Some(since)).await?)
            }
            Storage::Postgres(url) => {
                let opened = Box::pin(postgres::Database::open(url, view, generation, Some(since)));
                Reading::Postgres(opened.await?)
            }
        }))
    }
}

impl Writer {
    /// Whether nothing is committed to these tables any more.
    pub(crate) async fn is_closed(&mut self) -> Result<bool, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => Ok(writer.closed().await?.is_some()),
            Writing::Postgres(writer) => Ok(writer.closed().await?.is_some()),
        }
    }

    /// Makes the indexes that are missing: a build makes them when everything is there.
    pub(crate) async fn finish(&mut self) -> Result<(), DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.finish().await,
            Writing::Postgres(writer) => writer.finish().await,
        }
    }

    /// Copies these tables, and what waits, from another generation as it is at one moment. Gives that moment.
    pub(crate) async fn copy(
        &mut self,
        storage: &Storage,
        from: u32,
        tables: &[&'static Table],
    ) -> Result<Vec<Position>, DatabaseError> {
        match (&mut self.0, storage) {
            (Writing::Sqlite(writer), Storage::Sqlite(folder)) => writer.copy(folder, from, tables).await,
            (Writing::Postgres(writer), Storage::Postgres(_)) => writer.copy(from, tables).await,
            _ => Err(DatabaseError::new("copy the tables", "they are in another database")),
        }
    }
}
