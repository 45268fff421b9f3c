//! What a machine has to have: CPU, memory and disk at rates that it bears, with every service in this process.

use super::{
    Scale,
    flow::{Shop, provide},
    http,
    report::{Case, Report},
    stage::{Stage, resident_mib, times},
};
use crate::{failure::Failure, system::Service};
use nats::Durability;
use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};
use tokio::time::Instant;

/// Orders per second.
const RATES: [u64; 4] = [25, 50, 100, 200];
/// How long each is kept up.
const SECONDS: u64 = 30;
const CALLERS: usize = 128;
/// Between two looks at whether anything is still being done.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Places orders at each rate, and says what that took.
pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let load = http::prepare(&stage).await?;
    provide(&stage, load.account).await?;
    let (system, orders) = stage.start(Service::ALL).await?;
    let shop = Shop::open(&stage, format!("http://{orders}/orders"), &load, None).await?;
    shop.place(scale.of(1000), CALLERS, None).await?;
    let before = disk(&stage, &shop).await?;
    let mut placed = 0;
    for rate in RATES {
        let count = scale.of(rate * SECONDS);
        let (began, used) = (Instant::now(), cpu(&stage));
        let flow = shop.place(count, CALLERS, Some(rate)).await?;
        let elapsed = began.elapsed().as_secs_f64();
        placed += count;
        let case = Case { bench: "sizing", durability, callers: CALLERS };
        report.add(case, format!("{rate} orders/s, to their end"), &[flow.orders], None);
        for (whose, before, after) in
            [("services and load", used.0, cpu(&stage).0), ("nats-server", used.1, cpu(&stage).1)]
        {
            let cores = before.zip(after).map(|(before, after)| (after - before) / elapsed);
            if let Some(cores) = cores {
                report.figure(
                    "sizing",
                    format!("CPU of {whose} at {rate}/s, {durability}"),
                    cores,
                    "cores",
                    "",
                );
            }
        }
        let server = stage.server.pid().and_then(resident_mib);
        for (whose, memory) in [("services", resident_mib(std::process::id())), ("nats-server", server)] {
            if let Some(memory) = memory {
                report.figure(
                    "sizing",
                    format!("memory of {whose} at {rate}/s, {durability}"),
                    memory,
                    "MiB",
                    "",
                );
            }
        }
    }
    let after = disk(&stage, &shop).await?;
    for (what, before, after) in [("log", before.0, after.0), ("read models", before.1, after.1)] {
        #[expect(clippy::cast_precision_loss, reason = "bytes on a disk are far below 2^52")]
        let each = after.saturating_sub(before) as f64 / placed as f64;
        report.figure(
            "sizing",
            format!("disk of the {what}, each of {placed} orders, {durability}"),
            each,
            "bytes",
            "",
        );
    }
    system.stop().await;
    stage.close().await;
    Ok(())
}

/// CPU time of this process, and of nats-server, in seconds.
fn cpu(stage: &Stage) -> (Option<f64>, Option<f64>) {
    let server = stage.server.pid().and_then(|pid| times(&pid.to_string()));
    (times("self").map(|times| times.own), server.map(|times| times.own))
}

/// Bytes that the log and the read models take on the disk, once nothing is being done any more.
async fn disk(stage: &Stage, shop: &Shop) -> Result<(u64, u64), Failure> {
    let mut events = 0;
    loop {
        let now = shop.events().await?;
        if now == events {
            break;
        }
        events = now;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let folder = stage.folder.path();
    Ok((size(&folder.join("nats"))?, size(&folder.join("views"))?))
}

fn size(folder: &Path) -> std::io::Result<u64> {
    /// In which the system counts what a file takes.
    const BLOCK: u64 = 512;
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Gone meanwhile: the server writes files anew.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.blocks() * BLOCK };
    }
    Ok(sum)
}
