//! The real system as a provider: `waybill dev` on free ports, asked as anybody would ask it.

use reqwest::{Client, Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use uuid::Uuid;

const READY_WITHIN: Duration = Duration::from_secs(90);
const ENDED_WITHIN: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

const PORTS: &str =
    "gateway=0,users=0,orders=0,payments=0,inventory=0,shipping=0,notifications=0,fulfilment=0,operations=0";

/// A running `waybill dev`. Dropped, it and its nats-server are killed.
#[derive(Debug)]
pub struct Provider {
    child: Child,
    folder: TempDir,
    found: Value,
    client: Client,
    operator: String,
}

/// An answer of a service.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The header `Waybill-Position`; empty where there is none.
    pub position: String,
    /// Its body.
    pub body: Value,
}

impl Answer {
    /// The `id` in the body.
    ///
    /// # Panics
    /// Where there is none.
    pub fn id(&self) -> Uuid {
        let id = self.body["id"].as_str().and_then(|id| id.parse().ok());
        id.unwrap_or_else(|| panic!("an id is missing: {self:?}"))
    }
}

impl Provider {
    /// The executable: what `WAYBILL_EXECUTABLE` names, else that of the workspace, beside these tests.
    ///
    /// # Panics
    /// Where there is none.
    pub fn executable() -> PathBuf {
        let beside = || env::current_exe().ok()?.ancestors().nth(2).map(|profile| profile.join("waybill"));
        let path = env::var_os("WAYBILL_EXECUTABLE").map(PathBuf::from).or_else(beside).unwrap_or_default();
        assert!(path.exists(), "{} is missing: cargo build -p waybill, in the workspace", path.display());
        path
    }

    /// Starts one, and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become ready; its log is shown.
    pub async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let child = spawn(folder.path(), flags);
        let (found, client, operator) = (Value::Null, Client::new(), String::new());
        let mut provider = Self { child, folder, found, client, operator };
        provider.ready().await;
        provider
    }

    /// Stops it and starts it again on what it has recorded, with other flags.
    ///
    /// # Panics
    /// Where it does not end, or does not become ready.
    pub async fn again(&mut self, flags: &[&str]) {
        self.end().await;
        self.child = spawn(self.folder.path(), flags);
        self.ready().await;
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// Where it does not end in time.
    pub async fn end(&mut self) -> ExitStatus {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            // It has ended already where this fails.
            kill_process(pid, Signal::TERM).ok();
        }
        let ended = tokio::time::timeout(ENDED_WITHIN, self.child.wait()).await;
        let status = ended.ok().and_then(Result::ok);
        status.unwrap_or_else(|| panic!("waybill dev does not end:\n{}", log(self.folder.path())))
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        self.found = loop {
            let file = fs::read(self.folder.path().join("dev.json")).ok();
            let file = file.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(file) = file.filter(|file| file["pid"].as_u64() == self.child.id().map(u64::from)) {
                break file;
            }
            let ended = self.child.try_wait().ok().flatten();
            let waits = ended.is_none() && Instant::now() < deadline;
            assert!(waits, "waybill dev is not ready ({ended:?}):\n{}", log(self.folder.path()));
            tokio::time::sleep(POLL).await;
        };
        self.operator = self.token(&["--role", "operator"]).await;
    }

    /// An access token, as `waybill token` issues it.
    async fn token(&self, flags: &[&str]) -> String {
        let mut command = Command::new(Self::executable());
        let output = command.arg("token").args(flags).arg("--data").arg(self.folder.path()).output().await;
        let output = output.unwrap_or_else(|error| panic!("{error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// An operator's token.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Where its NATS is.
    pub fn nats_url(&self) -> &str {
        self.found["natsUrl"].as_str().unwrap_or_default()
    }

    /// The port of a service on this machine.
    ///
    /// # Panics
    /// Where there is no such service.
    pub fn port(&self, service: &str) -> u16 {
        let port = self.url(service).rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("there is no service {service}"))
    }

    fn url(&self, service: &str) -> &str {
        self.found["services"][service].as_str().unwrap_or_default()
    }

    /// Asks a service as an operator; a body makes it a POST.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn ask(&self, service: &str, path: &str, body: Option<&Value>) -> Answer {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        self.send(method, service, path, body, &self.operator).await
    }

    /// Sends a request with a token.
    ///
    /// # Panics
    /// Where it is not answered.
    pub async fn send(
        &self,
        method: Method,
        service: &str,
        path: &str,
        body: Option<&Value>,
        token: &str,
    ) -> Answer {
        let request = self.client.request(method, format!("{}{path}", self.url(service))).bearer_auth(token);
        let request = body.into_iter().fold(request, reqwest::RequestBuilder::json);
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let position = answer.headers().get("waybill-position").and_then(|value| value.to_str().ok());
        let (status, position) = (answer.status(), position.unwrap_or_default().to_owned());
        Answer { status, position, body: answer.json().await.unwrap_or_default() }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // The process itself is killed by its own drop; it is too late then to stop its server.
        let recorded =
            fs::read_to_string(self.folder.path().join("nats/nats-server.pid")).unwrap_or_default();
        if let (Ok(None), Some(pid)) =
            (self.child.try_wait(), recorded.trim().parse().ok().and_then(Pid::from_raw))
        {
            kill_process(pid, Signal::KILL).ok();
        }
        if std::thread::panicking() {
            eprintln!("log of waybill dev:\n{}", log(self.folder.path()));
        }
    }
}

fn spawn(folder: &Path, flags: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("waybill.log"));
    let log = log.unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(Provider::executable());
    command.args(["dev", "--durability", "interval", "--ports", PORTS, "--data"]).arg(folder).args(flags);
    // What it says to whoever starts it holds a token.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("{error}"))
}

/// The end of its log.
fn log(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("waybill.log")).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
