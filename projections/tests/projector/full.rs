//! A disk that is full: nothing is skipped, nothing is applied twice, and with more room it goes on by itself.

use super::{Cluster, DEADLINE, System, get, order_id, router};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use uuid::Uuid;

/// A small disk in memory, which only root may mount.
struct Disk(PathBuf);

impl Disk {
    /// None where it may not be mounted, and why.
    fn mount(folder: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            Ok(output) => {
                eprintln!("skipped: a disk cannot be mounted: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("skipped: a disk cannot be mounted: {error}");
                None
            }
        }
    }

    fn grow(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still uses it goes with the test.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_a_full_disk_loses_and_repeats_nothing() {
    let system = System::with(None).await;
    let Some(disk) = Disk::mount(&system.folder.path().join("views"), 4) else { return };
    Box::pin(fill_and_grow(&system, &disk)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_a_full_disk_loses_and_repeats_nothing() {
    let cluster = Arc::new(Cluster::start());
    let system = System::with(Some(Arc::clone(&cluster))).await;
    // An empty database has about 8 MiB. The server has to reach its folder.
    let mut builder = tempfile::Builder::new();
    let place = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let Some(disk) = Disk::mount(&place.path().join("small"), 14) else { return };
    let data = cluster.sql("postgres", "SHOW data_directory");
    let owner = format!("--reference={data}");
    assert!(Command::new("chown").arg(owner).arg(&disk.0).status().unwrap().success());
    cluster.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display()));
    cluster.sql("postgres", &format!("CREATE DATABASE {} TABLESPACE small", system.name("orders")));
    Box::pin(fill_and_grow(&system, &disk)).await;
    assert!(system.shutdown.drain(DEADLINE).await);
    cluster.kill();
}

async fn fill_and_grow(system: &System, disk: &Disk) {
    let orders = system.projections("orders").await;
    let routes = router(system, &orders);
    let mut count = 0;
    system.order(count).await;
    system.caught_up(&orders).await;
    let full = |complaint: &str| complaint.contains("full") || complaint.contains("No space left");
    loop {
        assert!(count < 20_000, "the disk never gets full");
        for _ in 0..25 {
            count += 1;
            system.order(count).await;
        }
        if let Err(complaint) = orders.check()()
            && full(&complaint)
        {
            break;
        }
    }
    assert_eq!(get(&routes, &format!("/orders/{}", order_id(0))).await.0, 200, "what is there is answered");
    for _ in 0..25 {
        count += 1;
        system.order(count).await;
    }

    disk.grow(256);
    system.caught_up(&orders).await;
    system.verify("orders", &orders).await;
    let rows = orders.database().rows("SELECT id FROM orders", Vec::new()).await.unwrap();
    let ids: std::collections::HashSet<Uuid> = rows.iter().map(|row| row.get("id").unwrap()).collect();
    assert_eq!((rows.len() as u64, ids.len() as u64), (count + 1, count + 1));
    let ready = async {
        while orders.check()().is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.expect("it says that it is ready");
}
