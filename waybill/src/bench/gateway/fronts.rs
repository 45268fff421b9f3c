//! What stands in front of the service: nothing, the gateway, nginx.

use crate::{
    bench::stage::resident_mib,
    failure::{Failure, because},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    env, fs,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

/// How long a process may take until it answers.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(30);

/// Where the paths of the service begin.
#[derive(Clone, Debug)]
pub(super) struct Base(String);

impl Base {
    /// The service itself.
    pub(super) fn of_service(address: SocketAddr) -> Self {
        Self(format!("http://{address}"))
    }

    /// Where a path of the service is.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

/// A proxy: a process that is asked to end when this is dropped.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) base: Base,
    process: Child,
}

impl Front {
    fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Memory that its process has resident, where the system tells.
    pub(super) fn resident_mib(&self) -> Option<f64> {
        resident_mib(self.pid()?)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Asked and not killed: nginx has workers that would be left.
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            eprintln!("cannot stop a proxy: {error}");
        }
    }
}

/// Everything on: tokens are verified, requests counted and written down. Only the quota is out of reach.
const ROUTES: &str = r#"
[clients]
trusted-proxies = ["127.0.0.1/32"]

[limits.plenty]
quota = 4000000000
window = "15m"

[limits.default]
quota = 100
window = "15m"

[[routes]]
path = "/api/orders"
service = "orders"
methods = ["GET", "POST"]
auth = "required"
role = "customer"
limit = "plenty"
timeout = "3s"
body = "1MiB"
retry = true
streaming = false

# Answered by the service with 404: who is counted by address needs no token.
[[routes]]
path = "/api/nobody"
service = "orders"
methods = ["GET"]
auth = "public"
limit = "default"
timeout = "3s"
body = "0B"
retry = false
streaming = false
"#;

/// The gateway as it runs everywhere: this executable, a process of its own.
pub(super) async fn gateway(nats_url: &str, folder: &Path) -> Result<Front, Failure> {
    let port = free_port().await?;
    let config = folder.join("gateway.toml");
    fs::write(&config, ROUTES)?;
    let mut command = Command::new(env::current_exe()?);
    command.args([
        "serve",
        "gateway",
        "--nats-url",
        nats_url,
        "--port",
        &port.to_string(),
        "--gateway-config",
    ]);
    command.arg(config);
    start(command, port, &folder.join(format!("gateway-{port}.log"))).await
}

/// nginx as a plain reverse proxy with a log; none where it is not installed.
pub(super) async fn nginx(service: SocketAddr, folder: &Path) -> Result<Option<Front>, Failure> {
    let places = env::var_os("PATH").unwrap_or_default();
    // Debian keeps it where only root looks.
    let places = env::split_paths(&places).chain([PathBuf::from("/usr/sbin")]);
    let Some(binary) = places.map(|place| place.join("nginx")).find(|path| path.is_file()) else {
        eprintln!("nginx is not on PATH: without it there is nothing to compare with (Debian: nginx-light)");
        return Ok(None);
    };
    let port = free_port().await?;
    let config = folder.join("nginx.conf");
    fs::write(&config, nginx_config(service, port))?;
    let mut command = Command::new(binary);
    command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-e", "nginx-error.log"]);
    start(command, port, &folder.join("nginx.log")).await.map(Some)
}

fn nginx_config(service: SocketAddr, port: u16) -> String {
    format!(
        r#"
daemon off;
worker_processes auto;
pid nginx.pid;
error_log nginx-error.log;
events {{ worker_connections 1024; }}
http {{
  access_log nginx-access.log combined;
  client_body_temp_path nginx-body;
  proxy_temp_path nginx-proxy;
  fastcgi_temp_path nginx-fastcgi;
  uwsgi_temp_path nginx-uwsgi;
  scgi_temp_path nginx-scgi;
  keepalive_requests 1000000000;
  upstream service {{ server {service}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location /api/ {{
      proxy_pass http://service/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"#
    )
}

/// Starts a process that writes what it has to say into a file, and waits until it listens.
async fn start(mut command: Command, port: u16, log: &Path) -> Result<Front, Failure> {
    let file = File::create(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let shown = command.as_std().get_program().display().to_string();
    let process = command.spawn().map_err(because(format!("cannot start {shown}")))?;
    let mut front = Front { base: Base(format!("http://127.0.0.1:{port}/api")), process };
    let listening = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        listening = tokio::time::timeout(READY_WITHIN, listening) => {
            listening.map_err(|_| format!("{shown} does not listen; see {}", log.display()))?;
        }
        ended = front.process.wait() => {
            let said = fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{shown} ended with {}: {said}", ended?).into());
        }
    }
    Ok(front)
}

/// A port that is free at this moment, for a process that must be told one.
async fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}
