//! eventsourcing, in Python: `python/orders.py` has the application and its projection, with the package installed beside
//! the compiled crate when it is first needed.

use crate::Result;
use projections::database::Cluster;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::process::Command;

/// The package with its driver, compiled.
const PACKAGES: [&str; 2] = ["eventsourcing[postgres]==9.5.6", "psycopg[binary]>=3.2"];

/// The recorded events.
pub(super) struct Fold {
    packages: PathBuf,
    url: String,
}

impl Fold {
    /// Installs the package, and records two events of each order.
    pub(super) async fn record(cluster: &Cluster, orders: u64) -> Result<Self> {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
        if !packages.join("eventsourcing").is_dir() {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&packages).args(PACKAGES);
            if !pip.status().await?.success() {
                return Err("eventsourcing cannot be installed: python3 with pip is needed".into());
            }
        }
        cluster.database("eventsourcing")?;
        let fold = Self { packages, url: cluster.url("eventsourcing") };
        fold.run("record", orders).await?;
        Ok(fold)
    }

    /// Lets the projection begin at the first event.
    pub(super) async fn fold(&self, events: u64) -> Result<Duration> {
        let seconds = self.run("fold", events / 2).await?;
        Ok(Duration::try_from_secs_f64(seconds.trim().parse()?)?)
    }

    async fn run(&self, what: &str, orders: u64) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/orders.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(what).arg(orders.to_string()).arg(&self.url);
        let output = python.env("PYTHONPATH", &self.packages).kill_on_drop(true).output().await?;
        if !output.status.success() {
            return Err(format!("orders.py: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
