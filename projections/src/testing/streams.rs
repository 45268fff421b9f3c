//! A nats-server with every stream, for one test. Also included by the tests over real connections, by path.

use events::Context;
use nats::{
    Connection, Durability, EventStore, KeyRing, MasterKey, StoreOptions,
    server::{Binary, Config, Server},
};
use tempfile::TempDir;

/// What a test puts its events into. Dropped, it is gone.
pub(crate) struct Streams {
    pub(crate) server: Server,
    pub(crate) connection: Connection,
    pub(crate) store: EventStore,
    pub(crate) keys: KeyRing,
    /// Where the server keeps what it has; with room for what else the test needs.
    pub(crate) folder: TempDir,
}

impl Streams {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            durability: Durability::Interval,
            ..Config::new(Binary::locate(None).await.unwrap(), folder.path().join("nats"))
        };
        let server = Server::start(config).await.unwrap();
        let connection = Connection::connect(&server.url(), "test").await.unwrap();
        nats::topology::ensure(&connection, &Context::ALL, 1).await.unwrap();
        let store = EventStore::new(&connection, StoreOptions::default());
        let keys = KeyRing::open(&connection, &MasterKey::generate(), 1).await.unwrap();
        Self { server, connection, store, keys, folder }
    }
}
