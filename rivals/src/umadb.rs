//! UmaDB over gRPC: its real server in a process of its own, which is this program started again as `umadb-server`.

use crate::{
    Result,
    event::{Event, Move, Parcel},
    server::{PATIENCE, Server, free_port},
};
use rustix::process::Signal;
use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};
use tokio::sync::oneshot;
use umadb_client::{AsyncUmaDbClient, UmaDbClient};
use umadb_dcb::{DcbAppendCondition, DcbEvent, DcbEventStoreAsync, DcbQuery, DcbQueryItem};
use umadb_server::{ServerOptions, StorageOptions, start_server_with_options};
use uuid::Uuid;

/// A client and its server, which fsyncs every commit (it knows no other way) and commits what waits as one.
pub(crate) struct Umadb {
    clients: Vec<AsyncUmaDbClient>,
    next: AtomicUsize,
    _server: Server,
}

impl Umadb {
    /// Starts the server on `folder` and connects.
    pub(crate) async fn start(folder: &Path, connections: usize) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(env::current_exe()?);
        command.arg("umadb-server").arg(&address).arg(folder).stdout(Stdio::null());
        let mut server = Server::start(&mut command, Signal::INT)?;
        let url = format!("http://{address}");
        let mut clients = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while clients.len() < connections {
            server.check()?;
            match UmaDbClient::new(url.clone()).connect_async().await {
                Ok(client) => clients.push(client),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => {} // The client itself waits between its attempts.
            }
        }
        Ok(Self { clients, next: AtomicUsize::new(0), _server: server })
    }

    /// Records one event, after the aggregate's last position; gives the new position.
    pub(crate) async fn append(&self, command: Move, last: Option<u64>, loading: bool) -> Result<u64> {
        let client = &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()];
        let tag = command.id.to_string();
        let query = DcbQuery::new().item(DcbQueryItem::new().tags([tag.as_str()]));
        let (event, after) = if loading {
            let (events, head) = client.read_with_head(Some(query.clone()), None, false, None).await?;
            let mut parcel = Parcel::default();
            for recorded in &events {
                parcel.evolve(&serde_json::from_slice(&recorded.event.data)?);
            }
            (parcel.decide(command).ok_or("UmaDB gave another history")?, head)
        } else {
            (Event::new(command), last)
        };
        let kind = event.kind();
        let record = DcbEvent::new().event_type(kind).tags([tag]).data(event.body()?).uuid(Uuid::now_v7());
        let condition = DcbAppendCondition::new(query).after(after);
        Ok(client.append(vec![record], Some(condition), None).await?)
    }
}

/// The server itself, until it is interrupted.
pub(crate) async fn serve(address: &str, folder: &Path) -> Result<()> {
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        // Without a handler for the signal the process ends at once, which is as well.
        let _ = tokio::signal::ctrl_c().await;
        let _ = stop.send(());
    });
    let storage = StorageOptions::default().db_path(folder);
    let options = ServerOptions { listen_addr: address.to_owned(), tls: None, api_key: None, storage };
    start_server_with_options(options, stopped).await.map_err(|error| error.to_string().into())
}
