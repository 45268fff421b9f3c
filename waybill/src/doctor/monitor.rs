//! What only the servers themselves know, and tell at their monitoring port: whether they write to disk before they
//! acknowledge, how full they are, when their certificates end, and whether they agree on a leader.

use super::{
    Plan,
    finding::{Area, Report},
    log,
};
use jiff::{SignedDuration, Timestamp};
use nats::{Durability, examine::Skew};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeSet, path::Path, time::Duration};

const ANSWER: Duration = Duration::from_secs(5);
/// A certificate that ends sooner is a finding.
pub(super) const SOON: SignedDuration = SignedDuration::from_hours(21 * 24);

/// What `/varz` says, as far as it matters.
#[derive(Debug, Deserialize)]
struct Varz {
    server_name: String,
    version: String,
    now: Timestamp,
    #[serde(default)]
    tls_required: bool,
    tls_cert_not_after: Option<Timestamp>,
    #[serde(default)]
    jetstream: JetStream,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JetStream {
    config: Option<JetStreamConfig>,
    stats: Stats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JetStreamConfig {
    max_storage: u64,
    store_dir: String,
    /// In nanoseconds.
    sync_interval: u64,
    sync_always: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    storage: u64,
}

/// What `/jsz` says of those who agree on everything.
#[derive(Debug, Deserialize)]
struct Jsz {
    meta_cluster: Option<Meta>,
}

#[derive(Debug, Deserialize)]
struct Meta {
    #[serde(default)]
    leader: String,
    #[serde(default)]
    cluster_size: usize,
    #[serde(default)]
    replicas: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    name: String,
    #[serde(default)]
    offline: bool,
}

/// What `/healthz` says.
#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    #[serde(default)]
    error: String,
}

/// A `dev` has written the configuration of its server, and says what stands there.
pub(super) fn of_dev(plan: &mut Plan, data: &Path, durability: &str, report: &mut Report) {
    let configured = durability.parse::<Durability>().ok();
    if plan.durability == Some(Durability::Always) && configured == Some(Durability::Interval) {
        lazy(report, "the server of dev", "two minutes");
    } else {
        report.praise(Area::Durability, "the server of dev", format!("sync_interval: {durability}"));
    }
    plan.durability = plan.durability.or(configured);
    disk_of(&data.join("nats"), "the log", plan, report);
}

fn disk_of(folder: &Path, what: &str, plan: &Plan, report: &mut Report) {
    super::machine::folder(folder, what, plan, report);
}

/// Asks every node that is named.
pub(super) async fn check(plan: &Plan, is_dev: bool, report: &mut Report) {
    if plan.monitors.is_empty() {
        if !is_dev {
            let what = "no client can see whether it writes to disk before it acknowledges";
            let todo = "name the monitoring ports with --monitor, or look for sync_interval: always in the jetstream \
                        block of each node's configuration";
            report.leave_open(Area::Durability, "sync_interval", what, todo);
        }
        return;
    }
    let client = match reqwest::Client::builder().no_proxy().timeout(ANSWER).build() {
        Ok(client) => client,
        Err(error) => return report.leave_open(Area::Nats, "monitoring", error.to_string(), "report it"),
    };
    let (mut versions, mut clocks, mut always) = (Vec::new(), Vec::new(), Vec::new());
    for url in &plan.monitors {
        let asked = plan.clock.now();
        let varz: Varz = match get(&client, url, "varz").await {
            Ok(varz) => varz,
            Err(why) => {
                let todo = "see whether the node is there, and whether http_port is in its configuration";
                report.find(Area::Cluster, url.to_string(), format!("does not say how it is: {why}"), todo);
                continue;
            }
        };
        clocks.push(Skew::between(asked, varz.now, plan.clock.now()));
        always.extend(durability(&varz, plan, report));
        node(&varz, url, plan, report);
        health(&client, url, &varz.server_name, report).await;
        versions.push((varz.server_name, varz.version));
    }
    log::skew("monitored nodes", &clocks, plan, report);
    same(&versions, report);
    let Some(url) = plan.monitors.first() else { return };
    let names: BTreeSet<_> = versions.iter().map(|(name, _)| name).collect();
    let asked = names.len() + plan.monitors.len() - versions.len();
    match meta(&client, url, plan, report).await {
        Some(nodes) if nodes <= asked => {
            for (of, what) in always {
                report.praise(Area::Durability, of, what);
            }
        }
        nodes => {
            let nodes = nodes.map_or_else(|| "nobody says how many".to_owned(), |nodes| nodes.to_string());
            let what = format!(
                "{asked} of {nodes} nodes were asked whether they write to disk before they acknowledge"
            );
            report.leave_open(Area::Durability, "sync_interval", what, "name every node with --monitor");
        }
    }
}

/// Whether a node writes to disk as often as it has to: what it says where it does.
fn durability(varz: &Varz, plan: &Plan, report: &mut Report) -> Option<(String, &'static str)> {
    let (of, config) = (varz.server_name.clone(), varz.jetstream.config.as_ref()?);
    match (config.sync_always, plan.durability) {
        (false, Some(Durability::Interval)) => Some((of, "writes to disk at an interval, as asked for")),
        (false, _) => {
            lazy(report, &of, &format!("{:?}", Duration::from_nanos(config.sync_interval)));
            None
        }
        (true, _) => Some((of, "sync_interval: always")),
    }
}

async fn get<T: DeserializeOwned>(
    client: &reqwest::Client,
    url: &reqwest::Url,
    path: &str,
) -> Result<T, String> {
    let url = url.join(path).map_err(|error| error.to_string())?;
    // Its URL is in the message already.
    let said = |error: reqwest::Error| error.without_url().to_string();
    client.get(url).send().await.map_err(said)?.json().await.map_err(said)
}

fn lazy(report: &mut Report, of: &str, interval: &str) {
    let what = format!(
        "acknowledges before it writes to disk, which it does every {interval}: a power cut loses what was \
         acknowledged since"
    );
    let todo = "sync_interval: always in the jetstream block of its configuration, then restart it; or say \
                --durability interval where that loss is meant";
    report.find(Area::Durability, of, what, todo);
}

fn node(varz: &Varz, url: &reqwest::Url, plan: &Plan, report: &mut Report) {
    let of = varz.server_name.as_str();
    let Some(config) = &varz.jetstream.config else {
        return report.find(
            Area::Nats,
            of,
            "runs without JetStream",
            "give it a jetstream block, as in nats/conf",
        );
    };
    let (used, most) = (varz.jetstream.stats.storage, config.max_storage);
    if let Some(percent) = used.saturating_mul(100).checked_div(most) {
        if percent >= plan.full {
            let what = format!("{used} of {most} bytes are used: {percent} %");
            let todo = "a larger disk and max_file_store, before it refuses what is published";
            report.find(Area::Disk, of, what, todo);
        } else {
            report.praise(Area::Disk, of, format!("{used} of {most} bytes"));
        }
    }
    let is_here = url.host_str().is_some_and(|host| ["127.0.0.1", "localhost", "[::1]"].contains(&host));
    let store = Path::new(&config.store_dir);
    if is_here && store.is_dir() {
        disk_of(store, &format!("the data of {of}"), plan, report);
    }
    if let Some(ends) = varz.tls_cert_not_after {
        let todo = "make a new one, and nats-server --signal reload: docs/security.md";
        certificate(of, ends, todo, plan, report);
    } else if varz.tls_required {
        report.leave_open(
            Area::Credentials,
            of,
            "does not say when its certificate ends",
            "openssl x509 -enddate",
        );
    }
}

/// When a certificate ends.
pub(super) fn certificate(of: &str, ends: Timestamp, todo: &str, plan: &Plan, report: &mut Report) {
    let left = ends.duration_since(plan.clock.now());
    if left.is_negative() {
        report.find(Area::Credentials, of, format!("its certificate ended at {ends}"), todo);
    } else if left < SOON {
        report.find(
            Area::Credentials,
            of,
            format!("its certificate ends at {ends}, in {} days", left.as_hours() / 24),
            todo,
        );
    } else {
        report.praise(Area::Credentials, of, format!("its certificate ends at {ends}"));
    }
}

async fn health(client: &reqwest::Client, url: &reqwest::Url, of: &str, report: &mut Report) {
    // Where it is not well, the status says so, and so does the document.
    let health: Health = match get(client, url, "healthz").await {
        Ok(health) => health,
        Err(why) => return report.leave_open(Area::Nats, of, why, "ask /healthz by hand"),
    };
    if health.status != "ok" {
        let what = format!("is not well: {} {}", health.status, health.error);
        let todo =
            "see its log; a node that reads its disk at the start, or catches up, is well after a while";
        report.find(Area::Nats, of, what.trim_end(), todo);
    }
}

/// Whether all nodes are of one version.
fn same(versions: &[(String, String)], report: &mut Report) {
    let Some((_, first)) = versions.first() else { return };
    if versions.iter().any(|(_, version)| version != first) {
        let each: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let todo = "end the upgrade: nodes of different versions are for a moment only";
        report.find(Area::Cluster, "versions", format!("nodes differ: {}", each.join(", ")), todo);
    }
}

/// Whether the nodes agree on who decides; and how many there are, as far as one says.
async fn meta(
    client: &reqwest::Client,
    url: &reqwest::Url,
    plan: &Plan,
    report: &mut Report,
) -> Option<usize> {
    let meta = match get::<Jsz>(client, url, "jsz").await {
        Ok(Jsz { meta_cluster }) => meta_cluster,
        Err(why) => {
            report.leave_open(Area::Cluster, "the cluster", why, "ask /jsz by hand");
            return None;
        }
    };
    let Some(Meta { leader, cluster_size, replicas }) = meta else {
        if plan.replicas > 1 {
            let what = "the node belongs to no cluster, and streams have to have copies";
            report.find(
                Area::Cluster,
                url.to_string(),
                what,
                "give it a cluster block: nats/conf/cluster.conf",
            );
        }
        return Some(1);
    };
    if leader.is_empty() {
        let todo = "bring the nodes back that are away: two of three have to be there";
        report.find(Area::Cluster, "the cluster", "has no leader: no stream can be made or changed", todo);
    }
    for peer in replicas.iter().filter(|peer| peer.offline) {
        let todo = "start it again; where it is gone for good: docs/operations.md, one node is lost";
        report.find(Area::Cluster, peer.name.clone(), "is away", todo);
    }
    if cluster_size < plan.replicas {
        let what = format!("has {cluster_size} nodes, and streams need {} copies", plan.replicas);
        report.find(Area::Cluster, "the cluster", what, "add nodes");
    }
    report.praise(Area::Cluster, "the cluster", format!("{cluster_size} nodes, led by {leader}"));
    Some(cluster_size)
}
