//! A whole system in this process.

use crate::{Kept, ReadModels, eventually, request, run};
use events::Context;
use futures::future::try_join_all;
use nats::{
    Access, Connection, Filter, From, Reader, ReplayError, Until,
    server::{self, Binary, Guard, Node, Server},
    topology,
};
use projections::database::Storage;
use service::tls::Tls;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use waybill::{
    access::{NatsAccess, OPERATOR, PROVISIONING},
    api::{Api, Tokens},
    audit::Audit,
    failure::Failure,
    provision::Provision,
    rights,
    system::{Config, Service, System},
};

const READY_WITHIN: Duration = Duration::from_mins(1);
const SETTLED_WITHIN: Duration = Duration::from_mins(2);

/// A nats-server of its own, or a cluster, and services against it. Dropped, everything ends.
pub struct World {
    /// The services; more of them can be started against the same NATS.
    pub system: Option<System>,
    /// Asks the services.
    pub api: Api,
    /// How the services were started: the world outside can be set here while they run.
    pub config: Config,
    /// The nats-server: can be killed and paused. Of a cluster the first node.
    pub nats: Server,
    /// The other nodes.
    pub others: Vec<Server>,
    /// Where the read models are.
    pub kept: Kept,
    dir: TempDir,
}

impl World {
    /// Every service, the durable profile, the world outside well disposed.
    pub async fn start(read_models: ReadModels) -> Result<Self, Failure> {
        Self::with(read_models, |_| ()).await
    }

    /// The same, with other settings.
    pub async fn with(read_models: ReadModels, change: impl FnOnce(&mut Config)) -> Result<Self, Failure> {
        Self::of(read_models, &Service::ALL, change).await
    }

    /// The same, with some services only.
    pub async fn of(
        read_models: ReadModels,
        services: &[Service],
        change: impl FnOnce(&mut Config),
    ) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let binary = Binary::locate(None).await?;
        let kept = read_models.kept();
        let databases = kept.databases().await?;
        let mut config = Config { databases, ..Config::new("", dir.path().join("views")) };
        change(&mut config);
        let server = server::Config::new(binary, dir.path().join("nats"));
        let nats = Server::start(server::Config { durability: config.durability, ..server }).await?;
        config.nats_url = nats.url().into();
        let (system, api) = start(&config, services).await?;
        Ok(Self { system: Some(system), api, config, nats, others: Vec::new(), kept, dir })
    }

    /// Every service, each with a key of its own, on a NATS that trusts nobody and on which everything was made before.
    pub async fn secured(read_models: ReadModels) -> Result<Self, Failure> {
        Self::guarded_by(read_models, &Service::ALL, None).await
    }

    /// The same on a cluster of three nodes, where both sides of every connection show certificates.
    pub async fn with_certificates(read_models: ReadModels) -> Result<Self, Failure> {
        Self::guarded_by(read_models, &Service::ALL, Some(free_ports(3).await?)).await
    }

    /// The same on one node, with some services only.
    pub async fn of_with_certificates(
        read_models: ReadModels,
        services: &[Service],
    ) -> Result<Self, Failure> {
        Self::guarded_by(read_models, services, Some(Vec::new())).await
    }

    /// Where there are `routes`, there are certificates: of one node alone, or of a cluster with a node for each of these ports.
    async fn guarded_by(
        read_models: ReadModels,
        services: &[Service],
        routes: Option<Vec<u16>>,
    ) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let kept = read_models.kept();
        let folder = dir.path().join("access");
        let out = folder.to_string_lossy().into_owned();
        let tls = dir.path().join("tls");
        let shown = tls.to_string_lossy().into_owned();
        let mut common = Access::default();
        let mut made = vec!["nats-config", "--out", &out];
        if routes.is_some() {
            succeed(&["dev-certs", "--out", &shown]).await?;
            made.extend(["--certificates", &shown]);
            common.ca = Some(tls.join("ca.pem"));
            common.certificate = Some((tls.join("orders.pem"), tls.join("orders.key")));
        }
        let ports = routes.unwrap_or_default();
        let named = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        if !ports.is_empty() {
            made.extend(["--nodes", &named]);
        }
        succeed(&made).await?;
        let access = NatsAccess::of_folder(&common, &folder.join("seeds"), rights::roles())?;
        let databases = kept.databases().await?;
        let config = Config { access, databases, ..Config::new("", dir.path().join("views")) };
        let provisioning = Access { provisions: true, ..config.access.of(PROVISIONING).clone() };
        let guard = Some(Guard { folder, access: provisioning.clone() });
        let server = server::Config::new(Binary::locate(None).await?, dir.path().join("nats"));
        let server = server::Config { guard, ..server };
        let replicas = ports.len().max(1);
        let mut nodes = if ports.is_empty() {
            vec![Server::start(server).await?]
        } else {
            try_join_all(nodes(dir.path(), &ports, &server)).await?
        };
        let urls: Vec<_> = nodes.iter().map(Server::url).collect();
        let config = Config { nats_url: urls.join(",").into(), replicas, ..config };
        let connection = Connection::connect_as(&config.nats_url, "provisioning", &provisioning).await?;
        let provision = Provision { replicas, ..Provision::new(config.master_key.clone()) };
        eventually("everything is there", READY_WITHIN, async || {
            provision.run(&connection, &config.clock).await.ok()
        })
        .await;
        let (system, api) = start(&config, services).await?;
        let nats = nodes.remove(0);
        Ok(Self { system: Some(system), api, config, nats, others: nodes, kept, dir })
    }

    /// Where the certificates are.
    pub fn certificates(&self) -> PathBuf {
        self.dir.path().join("tls")
    }

    /// Where the files of a secured NATS are.
    pub fn guarded(&self) -> PathBuf {
        self.dir.path().join("access")
    }

    /// Every service against a cluster of three nodes, each with a copy of everything. A node that is killed stays dead.
    /// They are called `nats-1` and so on.
    ///
    /// # Panics
    /// When the nodes do not find each other in time.
    pub async fn cluster(read_models: ReadModels) -> Result<Self, Failure> {
        let mut world = Self::empty_cluster(read_models).await?;
        let connection = Connection::connect(&world.config.nats_url, "test").await?;
        eventually("three nodes keep the streams", READY_WITHIN, async || {
            topology::ensure(&connection, &Context::ALL, 3).await.ok()
        })
        .await;
        world.resume().await?;
        Ok(world)
    }

    /// The nodes alone, with nothing on them: services are there from [`resume`](Self::resume) on.
    pub async fn empty_cluster(read_models: ReadModels) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let kept = read_models.kept();
        let databases = kept.databases().await?;
        let base = server::Config::new(Binary::locate(None).await?, dir.path());
        let ports = free_ports(3).await?;
        let mut nodes = try_join_all(nodes(dir.path(), &ports, &base)).await?;
        let urls: Vec<_> = nodes.iter().map(Server::url).collect();
        let config =
            Config { replicas: 3, databases, ..Config::new(urls.join(","), dir.path().join("views")) };
        let nats = nodes.remove(0);
        let api = Api::at(BTreeMap::new());
        Ok(Self { system: None, api, config, nats, others: nodes, kept, dir })
    }

    /// The node of this name.
    ///
    /// # Panics
    /// Where there is none.
    pub fn node(&self, name: &str) -> &Server {
        let number: usize = name.strip_prefix("nats-").and_then(|number| number.parse().ok()).unwrap_or(0);
        let mut nodes = [&self.nats].into_iter().chain(&self.others);
        nodes.nth(number.wrapping_sub(1)).unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Starts some services once more against the same NATS, as another process would: on SQLite with read models of their
    /// own in `views`, on PostgreSQL with those that are there.
    pub async fn another(&self, views: &str, services: &[Service]) -> Result<(System, Api), Failure> {
        let data = self.config.data.with_file_name(views);
        start(&Config { data, ..self.config.clone() }, services).await
    }

    /// Stops the services, as Ctrl-C does. NATS goes on.
    pub async fn stop(&mut self) -> bool {
        match self.system.take() {
            Some(system) => system.stop().await,
            None => true,
        }
    }

    /// Starts the services again, on what they left behind.
    pub async fn resume(&mut self) -> Result<(), Failure> {
        let (system, api) = start(&self.config, &Service::ALL).await?;
        (self.system, self.api) = (Some(system), api);
        Ok(())
    }

    /// Where the read model of a service is.
    pub fn storage(&self, service: Service) -> Storage {
        self.config.databases.storage(service, &self.config.data)
    }

    /// Flags that say to a command where the read models are.
    pub fn read_models(&self) -> Vec<String> {
        let of = |service: Service| match self.storage(service) {
            Storage::Postgres(url) => Some(format!("{service}={}", url.reveal())),
            Storage::Sqlite(_) => None,
        };
        let urls: Vec<_> = Service::ALL.into_iter().filter_map(of).collect();
        let data = format!("--data={}", self.config.data.display());
        [data]
            .into_iter()
            .chain((!urls.is_empty()).then(|| format!("--database-urls={}", urls.join(","))))
            .collect()
    }

    /// Loses every read model, while no service runs.
    pub async fn lose_read_models(&mut self) -> Result<(), Failure> {
        for service in Service::ALL {
            self.kept.lose(service.name(), &self.config.data).await?;
        }
        // Who has a new database has a new password.
        self.config.databases = self.kept.databases().await?;
        Ok(())
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let access = self.config.access.of(OPERATOR);
        Ok(Connection::connect_as(&self.config.nats_url, "test", access).await?)
    }

    /// How many events each stream holds.
    pub async fn lengths(&self) -> Result<BTreeMap<Context, u64>, Failure> {
        let connection = self.connect().await?;
        let mut lengths = BTreeMap::new();
        for context in Context::ALL {
            let reader = Reader::open(&connection, context, From::Now, Until::End, Filter::default()).await?;
            lengths.insert(context, reader.end().unwrap_or_default());
        }
        Ok(lengths)
    }

    /// Waits until customers, and whoever else is to be, are told of everything on these channels.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn told(&self, channels: &[&str]) {
        told(&self.nats.url(), channels).await;
    }

    /// Waits until everything that must hold does: every order has ended once, is done or undone as a whole, stock and
    /// money are conserved, and the read models say what the log says.
    ///
    /// # Panics
    /// When it does not hold in time; the message says what does not.
    pub async fn settled(&self) -> Result<Audit, Failure> {
        settled(&self.connect().await?, &self.api).await
    }
}

/// Waits until customers, and whoever else is to be, are told of everything on these channels, for services that run
/// elsewhere.
///
/// # Panics
/// When they are not in time.
pub async fn told(nats_url: &str, channels: &[&str]) {
    for channel in channels {
        for (context, _) in commands::notifications::INTERESTS {
            let stream = context.stream();
            let info = format!("$JS.API.CONSUMER.INFO.{stream}.notifications-{channel}-{context}");
            eventually(&format!("all of {stream} is told by {channel}"), SETTLED_WITHIN, async || {
                let info = request(nats_url, &info, "").await.ok()?;
                (info["num_pending"] == 0 && info["num_ack_pending"] == 0).then_some(())
            })
            .await;
        }
    }
}

/// Waits until everything that must hold does, for services that run elsewhere.
///
/// # Panics
/// When it does not hold in time; the message says what does not.
pub async fn settled(connection: &Connection, api: &Api) -> Result<Audit, Failure> {
    let deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
    loop {
        // A log that cannot be read yet, because its node has just died, has not settled: the others take a while to
        // agree on who leads it.
        let faults = match Audit::of_log(connection, From::Start).await {
            Ok(audit) => match faults(&audit, api).await? {
                none if none.is_empty() => return Ok(audit),
                faults => faults,
            },
            Err(error) => match error.downcast_ref::<ReplayError>() {
                Some(ReplayError::Unavailable { .. }) => vec![error.to_string()],
                _ => return Err(error),
            },
        };
        assert!(tokio::time::Instant::now() < deadline, "does not settle:\n{}", faults.join("\n"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What does not hold of the log, or of what the services say of it.
async fn faults(audit: &Audit, api: &Api) -> Result<Vec<String>, Failure> {
    let faults = audit.faults();
    if faults.is_empty() { audit.differences(api).await } else { Ok(faults) }
}

/// Runs a command that has to succeed.
async fn succeed(command: &[&str]) -> Result<(), Failure> {
    let (code, said) = run(command).await?;
    if code == Some(0) { Ok(()) } else { Err(said.into()) }
}

/// Ports that nobody uses.
async fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let mut free = Vec::new();
    for _ in 0..count {
        free.push(TcpListener::bind(("127.0.0.1", 0)).await?);
    }
    let ports = free.iter().map(|listener| Ok(listener.local_addr()?.port()));
    Ok(ports.collect::<std::io::Result<Vec<_>>>()?)
}

/// Starts the nodes of a cluster, one for each port of its routes.
fn nodes(
    dir: &Path,
    ports: &[u16],
    base: &server::Config,
) -> impl Iterator<Item = impl Future<Output = Result<Server, server::StartError>> + use<>> {
    let (dir, ports, base) = (dir.to_owned(), ports.to_vec(), base.clone());
    ports.clone().into_iter().zip(1..).map(move |(cluster_port, number)| {
        let name = format!("nats-{number}");
        let data_dir = dir.join(&name);
        let node = Some(Node { name, cluster_port, all_cluster_ports: ports.clone() });
        Server::start(server::Config { data_dir, node, restart: false, ..base.clone() })
    })
}

/// Tokens for whoever a test speaks as.
pub(crate) async fn tokens(config: &Config) -> Result<Tokens, Failure> {
    let access = config.access.of(OPERATOR);
    Tokens::open_as(&config.nats_url, access, &config.master_key, &config.clock).await
}

async fn start(config: &Config, services: &[Service]) -> Result<(System, Api), Failure> {
    let mut listeners = Vec::new();
    for service in services {
        listeners.push((*service, TcpListener::bind(("127.0.0.1", 0)).await?));
    }
    let system = Box::pin(System::start(config, listeners)).await?;
    let tokens = tokens(config).await?;
    let api = match &config.tls {
        Tls { listen: Some(_), call: Some(tls) } => {
            let url = |(service, address): (&Service, &_)| {
                (service.name().to_owned(), format!("https://{address}"))
            };
            Api::at(system.addresses().iter().map(url).collect()).with_tls(tls)?
        }
        _ => Api::new(system.addresses()),
    };
    let api = api.with_tokens(tokens);
    api.wait_ready(READY_WITHIN).await?;
    Ok((system, api))
}
