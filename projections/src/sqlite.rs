//! The seam between read models and their database, on SQLite: everything that is particular to SQLite is in here and
//! in `sqlite/`. A second database is a second module with the same few methods.
//!
//! The journal is a write-ahead log without a sync per commit: after a power cut the last commits may be missing, never
//! half there. The checkpoint is part of each commit, so the projector just does the missing ones again.

mod moment;
mod parked;
mod row;
mod schema;
mod statement;

pub use moment::{Difference, Disagreement, Moment};
pub use parked::Parked;
pub use row::{Row, Stored};

use crate::{change::Changes, table::Value, view::View};
use events::{Context, Position, Subject};
use service::crash_point;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool, query, query_with,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use statement::Statements;
use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct DatabaseError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DatabaseError {
    fn new(action: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { action, source: source.into() }
    }
}

/// How long to wait for another process that writes to the same file.
const BUSY: Duration = Duration::from_secs(5);

/// Connections for queries. Each is a thread of its own.
const READERS: u32 = 4;

/// The database of one service, for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    readers: SqlitePool,
    options: SqliteConnectOptions,
    view: &'static View,
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Changes and checkpoints are in the database.
    Done,
    /// Somebody else moved a checkpoint meanwhile. Nothing was written.
    Lost,
}

/// Moves the checkpoint of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose stream.
    pub context: Context,
    /// Where the checkpoint has to be.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
}

/// What a batch passes over.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Aggregates that waited before it and have events in it.
    pub(crate) held: HashSet<Subject>,
    /// Aggregates that begin to wait in it.
    pub(crate) parked: Vec<Parked>,
}

/// Connects. SQLite does not wait for its busy timeout when a file becomes one with a write-ahead log: whoever meets
/// another process at that moment is told at once that the file is locked, and tries again here.
async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = Instant::now() + BUSY;
    loop {
        match options.connect().await {
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(LOCKED) && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// SQLite's code for a file that another connection has locked.
const LOCKED: &str = "5";
const LOCKED_PAUSE: Duration = Duration::from_millis(5);

/// The one connection that writes. Who holds it need not be alone: commits compare and set the checkpoint.
#[derive(Debug)]
pub struct Writer {
    connection: SqliteConnection,
    statements: Statements,
    view: &'static View,
}

impl Database {
    /// Opens the file, or creates it, and sees to it that it has the tables of `view`: those of another version of the
    /// program are dropped, and the stream is read again from its start.
    pub async fn open(path: &Path, view: &'static View) -> Result<Self, DatabaseError> {
        let failed = |error| DatabaseError::new("open the database", error);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            // Bulk writes: a larger cache and fewer, larger moves from the log into the file.
            .pragma("cache_size", "-32768")
            .pragma("wal_autocheckpoint", "4000")
            .pragma("temp_store", "memory")
            .statement_cache_capacity(512)
            .disable_statement_logging();
        let mut connection = connect(&options).await.map_err(failed)?;
        schema::ensure(&mut connection, view).await?;
        connection.close().await.map_err(failed)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY)
            .connect_lazy_with(options.clone().pragma("query_only", "on"));
        Ok(Self { readers, options, view })
    }

    /// A connection that writes. An error when the tables are by now those of another version of the program.
    pub async fn writer(&self) -> Result<Writer, DatabaseError> {
        let connection = connect(&self.options).await;
        let connection = connection.map_err(|error| DatabaseError::new("open the database", error))?;
        let mut writer = Writer { connection, statements: Statements::default(), view: self.view };
        writer.checkpoints().await?;
        Ok(writer)
    }

    /// Every row that a query finds. Parameters are written `$1`, `$2`, …
    pub async fn rows(&self, sql: &'static str, values: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let rows = query_with(sql, statement::arguments(values)?).fetch_all(&self.readers).await;
        let rows = rows.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(rows.into_iter().map(Row::new).collect())
    }

    /// The one row that a query finds, if there is one.
    pub async fn row(&self, sql: &'static str, values: Vec<Value>) -> Result<Option<Row>, DatabaseError> {
        let row = query_with(sql, statement::arguments(values)?).fetch_optional(&self.readers).await;
        let row = row.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(row.map(Row::new))
    }

    /// Lets go of the file.
    pub async fn close(&self) {
        self.readers.close().await;
    }
}

impl Writer {
    /// Up to where each stream of the view is in the tables.
    pub async fn checkpoints(&mut self) -> Result<Vec<Position>, DatabaseError> {
        schema::checkpoints(&mut self.connection, self.view).await
    }

    /// Writes changes and moves checkpoints, all or nothing. Checkpoints go first: who loses has written nothing yet.
    pub async fn commit(&mut self, changes: Changes, moves: &[Move]) -> Result<Commit, DatabaseError> {
        self.commit_past(changes, moves, &Past::default()).await
    }

    /// The same, past events that wait.
    pub(crate) async fn commit_past(
        &mut self,
        changes: Changes,
        moves: &[Move],
        past: &Past,
    ) -> Result<Commit, DatabaseError> {
        let failed = |error| DatabaseError::new("commit to the read model", error);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for step in moves {
            let sql = "UPDATE waybill_checkpoint SET sequence = $1 \
                       WHERE projection = $2 AND stream = $3 AND sequence = $4";
            let outcome = query(sql)
                .bind(step.to.cast_signed())
                .bind(self.view.name)
                .bind(step.context.stream())
                .bind(step.from.cast_signed())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            if outcome.rows_affected() == 0 {
                transaction.rollback().await.map_err(failed)?;
                return Ok(Commit::Lost);
            }
        }
        for subject in &past.held {
            // Another projector has brought back what it waited for.
            if !parked::waits(&mut transaction, self.view.name, subject).await? {
                transaction.rollback().await.map_err(failed)?;
                return Ok(Commit::Lost);
            }
        }
        for (table, rows) in changes.into_tables() {
            self.statements.write(&mut transaction, table, rows).await?;
        }
        for parked in &past.parked {
            parked::insert(&mut transaction, self.view.name, parked).await?;
        }
        crash_point("project.before", self.view.name);
        transaction.commit().await.map_err(failed)?;
        crash_point("project.after", self.view.name);
        Ok(Commit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Key, Table, Type};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use utoipa_axum::router::OpenApiRouter;

    const THINGS: Table = Table {
        name: "things",
        key: &[("id", Type::Int), ("kind", Type::Text)],
        columns: &[("a", Type::Int), ("b", Type::Int), ("note", Type::Text)],
        indexes: &[&["note", "a"]],
    };

    const CHANGED: Table =
        Table { columns: &[("a", Type::Int), ("b", Type::Int), ("note", Type::Int)], ..THINGS };

    const fn view(tables: &'static [&'static Table]) -> View {
        View {
            name: "things",
            version: 1,
            tables,
            aggregates: &[events::Aggregate::Order, events::Aggregate::Payment],
            project: |_, _| (),
            routes: OpenApiRouter::new,
        }
    }

    static OLD: View = view(&[&THINGS]);
    static NEW: View = view(&[&CHANGED]);

    fn step(from: u64, to: u64) -> [Move; 1] {
        [Move { context: Context::Orders, from, to }]
    }

    fn thing(id: i64, note: &'static str) -> Changes {
        let mut changes = Changes::default();
        changes.upsert(&THINGS, [id.into(), "x".into()], [(0, id.into()), (2, note.into())]);
        changes
    }

    async fn notes(database: &Database) -> Vec<Option<String>> {
        let rows = database.rows("SELECT note FROM things ORDER BY id, kind", Vec::new()).await.unwrap();
        rows.iter().map(|row| row.find("note").unwrap()).collect()
    }

    #[tokio::test]
    async fn of_two_writers_at_one_checkpoint_one_wins_and_the_other_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.db"), &OLD).await.unwrap();
        let (mut one, mut two) = (database.writer().await.unwrap(), database.writer().await.unwrap());
        assert_eq!(one.commit(thing(1, "one"), &step(0, 5)).await.unwrap(), Commit::Done);
        assert_eq!(two.commit(thing(1, "two"), &step(0, 4)).await.unwrap(), Commit::Lost);
        assert_eq!(notes(&database).await, [Some("one".to_owned())]);
        assert_eq!(two.checkpoints().await.unwrap()[0].to_string(), "ORDERS:5");
        assert_eq!(two.commit(thing(2, "two"), &step(5, 6)).await.unwrap(), Commit::Done);
        assert_eq!(notes(&database).await.len(), 2);
    }

    #[tokio::test]
    async fn a_changed_declaration_starts_anew_and_the_old_program_writes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let old = Database::open(&path, &OLD).await.unwrap();
        let mut writer = old.writer().await.unwrap();
        writer.commit(thing(1, "{}"), &step(0, 5)).await.unwrap();
        let again = Database::open(&path, &OLD).await.unwrap();
        assert_eq!(notes(&again).await.len(), 1, "an unchanged one stays");

        let new = Database::open(&path, &NEW).await.unwrap();
        assert_eq!(notes(&new).await.len(), 0);
        assert_eq!(new.writer().await.unwrap().checkpoints().await.unwrap()[0].sequence, 0);
        assert_eq!(writer.commit(thing(2, "{}"), &step(5, 6)).await.unwrap(), Commit::Lost);
        assert!(writer.checkpoints().await.is_err() && old.writer().await.is_err());
    }

    #[tokio::test]
    async fn several_processes_may_open_a_new_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let opened = futures::future::join_all((0..4).map(|_| Database::open(&path, &OLD))).await;
        for database in opened {
            database.unwrap().writer().await.unwrap();
        }
    }

    #[tokio::test]
    async fn moments_do_not_move_and_tell_where_they_differ() {
        let folder = tempfile::tempdir().unwrap();
        let open = async |name: &str| Database::open(&folder.path().join(name), &OLD).await.unwrap();
        let (left, right) = (open("left.db").await, open("right.db").await);
        let (mut to_left, mut to_right) = (left.writer().await.unwrap(), right.writer().await.unwrap());
        for (at, changes) in
            [thing(1, "same"), thing(2, "left"), thing(3, "only left")].into_iter().enumerate()
        {
            to_left.commit(changes, &step(at as u64, at as u64 + 1)).await.unwrap();
        }
        for (at, changes) in
            [thing(1, "same"), thing(2, "right"), thing(4, "only right")].into_iter().enumerate()
        {
            to_right.commit(changes, &step(at as u64, at as u64 + 1)).await.unwrap();
        }
        let mut moment = left.moment().await.unwrap();
        to_left.commit(thing(1, "later"), &step(3, 4)).await.unwrap();
        let found = moment.differences(&mut right.moment().await.unwrap()).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|one| (one.key, one.kind)).collect();
        assert_eq!(
            found,
            [
                ("2 x".to_owned(), Disagreement::Differs(vec!["note"])),
                ("3 x".to_owned(), Disagreement::Unexpected),
                ("4 x".to_owned(), Disagreement::Missing),
            ]
        );
        assert_eq!(moment.differences(&mut left.moment().await.unwrap()).await.unwrap().len(), 1);
    }

    /// What to do to a row, and which: upsert, patch, increment or delete.
    type Op = (u8, i64, usize, i64);

    fn apply(
        changes: &mut Changes,
        model: &mut BTreeMap<i64, [Option<i64>; 2]>,
        (what, id, column, value): Op,
    ) {
        let key: Key = [id.into(), "x".into()].into();
        match what {
            0 => {
                changes.upsert(&THINGS, key, [(column, value.into())]);
                model.insert(id, std::array::from_fn(|place| (place == column).then_some(value)));
            }
            1 => {
                changes.patch(&THINGS, key, [(column, value.into())]);
                model.entry(id).or_default()[column] = Some(value);
            }
            2 => {
                changes.increment(&THINGS, key, column, value);
                let cell = &mut model.entry(id).or_default()[column];
                *cell = Some(cell.unwrap_or(0) + value);
            }
            _ => {
                changes.delete(&THINGS, key);
                model.remove(&id);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_database_does_what_the_changes_say(
            batches in prop::collection::vec(
                prop::collection::vec((0..4_u8, 0..200_i64, 0..2_usize, -9..9_i64), 0..400), 1..4)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let database = Database::open(&folder.path().join("t.db"), &OLD).await.unwrap();
                let mut writer = database.writer().await.unwrap();
                let mut model = BTreeMap::new();
                for ops in batches {
                    let mut changes = Changes::default();
                    for op in ops {
                        apply(&mut changes, &mut model, op);
                    }
                    writer.commit(changes, &[]).await.unwrap();
                }
                let rows = database.rows("SELECT id, a, b FROM things ORDER BY id", Vec::new()).await.unwrap();
                let rows = rows.iter().map(|row| {
                    (row.get("id").unwrap(), [row.find("a").unwrap(), row.find("b").unwrap()])
                });
                prop_assert_eq!(rows.collect::<BTreeMap<i64, _>>(), model);
                Ok(())
            })?;
        }
    }
}
