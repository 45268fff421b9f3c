//! The data folder of a `dev` that does not run, for those who put something into it.

use super::lock::Lock;
use crate::failure::Failure;
use nats::{
    Durability,
    server::{Binary, Config, Server},
};
use std::path::Path;

/// A data folder with a nats-server on it, and nothing else.
pub(crate) struct Folder {
    nats: Server,
    _lock: Lock,
}

impl Folder {
    /// Takes the folder and starts its nats-server. What is put in is on disk when the server is closed: a power cut before
    /// that costs a repetition, not an order.
    pub(crate) async fn open(dir: &Path) -> Result<Self, Failure> {
        let lock = Lock::take(dir)?;
        let config = Config::new(Binary::locate(None).await?, dir.join("nats"));
        let nats = Server::start(Config { durability: Durability::Interval, ..config }).await?;
        Ok(Self { nats, _lock: lock })
    }

    /// Where its NATS is.
    pub(crate) fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// Stops the server, which closes its files.
    pub(crate) async fn close(self) {
        self.nats.stop().await;
    }
}
