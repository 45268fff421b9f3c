//! A PostgreSQL server for tests, which fail where it does not do what they ask. Also included by the tests of `projections`,
//! by path.

use super::Started;
use std::{
    fmt::Display,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
};

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Cluster(Started);

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// The one that the tests of a process share, each with databases of its own.
    ///
    /// # Panics
    /// Where there is no PostgreSQL; the message names what to install.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// One alone, to be killed.
    ///
    /// # Panics
    /// Where there is no PostgreSQL; the message names what to install.
    pub fn start() -> Self {
        // The machine does not fail in a test, so nothing need be on the disk; a killed server has it in the kernel.
        Self(done(Started::start(&["fsync=off"])))
    }

    /// A new, empty database for whoever may do everything.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub fn database(&self, name: &str) -> String {
        done(self.0.database(name));
        self.url(name)
    }

    /// The URL of a database for whoever may do everything.
    pub fn url(&self, database: &str) -> String {
        self.0.url(database)
    }

    /// What `psql` answers in a database.
    ///
    /// # Panics
    /// Where it refuses.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        done(self.0.sql(&self.url(database), sql))
    }

    /// The same as whoever the URL names; what it complains about where it refuses.
    ///
    /// # Errors
    /// What the server says.
    pub fn try_sql(&self, url: &str, sql: &str) -> Result<String, String> {
        self.0.sql(url, sql).map_err(|error| error.to_string())
    }

    /// What it has written down so far.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Ends it as a crash does: the postmaster is killed, nothing is written down.
    pub fn kill(&self) {
        self.0.kill();
    }

    /// Ends it as `pg_ctl stop -m immediate` does: without writing down what is in memory.
    pub fn stop_immediately(&self) {
        self.0.stop_immediately();
    }

    /// Starts it, after a crash too, and waits until it answers.
    ///
    /// # Panics
    /// When it does not; its log is shown.
    pub fn launch(&self) {
        done(self.0.launch());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of PostgreSQL:\n{}", self.0.log());
        }
    }
}

fn done<T>(outcome: Result<T, impl Display>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error}"))
}
