//! NATS as a client sees it: its version, its nodes, what it keeps, who reads it.

use super::{
    Plan,
    finding::{Area, Report},
};
use crate::rights;
use events::Context;
use nats::{
    Connection,
    examine::{self, Member, Skew, StreamLook, Usage},
};

/// So many live aggregates of one stream, and its subjects take gigabytes of the server's memory.
const MANY: u64 = 800_000;

/// Everything that can be asked of the server. False where it is none that can be asked for more.
pub(super) async fn check(connection: &Connection, plan: &Plan, report: &mut Report) -> bool {
    let server = examine::server(connection);
    let of = if server.name.is_empty() { "nats-server".to_owned() } else { server.name };
    if server.is_too_old {
        let what =
            format!("version {} is too old: atomic batches are not right before 2.14.4", server.version);
        report.find(Area::Nats, of, what, "replace it with 2.14.4 or newer, node by node");
        return false;
    }
    if !server.has_jetstream {
        let todo = "start it with one of the files in nats/conf, or with -js";
        report.find(Area::Nats, of, "runs without JetStream", todo);
        return false;
    }
    match (&server.cluster, plan.replicas) {
        (None, replicas) if replicas > 1 => {
            let what = format!("is no node of a cluster, and each stream has to have {replicas} copies");
            let todo = "connect to the cluster, or ask for --replicas 1";
            report.find(Area::Cluster, of.clone(), what, todo);
        }
        (Some(cluster), 1) => {
            let what = format!("is a node of the cluster {cluster}, and streams need only one copy");
            report.leave_open(
                Area::Cluster,
                of.clone(),
                what,
                "say --replicas 3 where they have to have three",
            );
        }
        _ => {}
    }
    report.praise(Area::Nats, of, format!("version {}", server.version));
    usage(connection, plan, report).await;
    parked(connection, report).await;
    let mut clocks = Vec::new();
    for context in Context::ALL {
        stream(connection, context, plan, &mut clocks, report).await;
    }
    buckets(connection, plan, &mut clocks, report).await;
    skew("NATS", &clocks, plan, report);
    true
}

async fn usage(connection: &Connection, plan: &Plan, report: &mut Report) {
    let Usage { storage, storage_limit, streams, streams_limit } = match examine::usage(connection).await {
        Ok(Some(usage)) => usage,
        Ok(None) => {
            let what = "every stream has an account of its own: how full they are no client can see";
            let todo = "name the monitoring ports with --monitor";
            return report.leave_open(Area::Disk, "the account", what, todo);
        }
        Err(error) => return unreadable(report, Area::Disk, "the account", &error),
    };
    let limits = [("bytes", storage, storage_limit), ("streams", streams, streams_limit)];
    for (what, used, limit) in limits {
        let Some(limit) = limit else { continue };
        let percent = used.saturating_mul(100) / limit;
        if percent >= plan.full {
            let what = format!("{used} of {limit} {what} are used: {percent} %");
            let todo = "raise the limit of the account, or of the server, before publishing is refused";
            report.find(Area::Disk, "the account", what, todo);
        }
    }
    report.praise(Area::Disk, "the account", format!("{storage} bytes in {streams} streams"));
}

async fn stream(
    connection: &Connection,
    context: Context,
    plan: &Plan,
    clocks: &mut Vec<Skew>,
    report: &mut Report,
) {
    let name = context.stream();
    let look = match examine::stream(connection, context, plan.replicas, &plan.clock).await {
        Ok(Some(look)) => look,
        Ok(None) => {
            let todo = format!("start the service {context}, which makes it; or put a backup back");
            return report.find(Area::Streams, name, "does not exist", todo);
        }
        Err(error) => {
            // Without a leader nobody answers for a stream.
            let todo = "see which nodes are away: two of three have to be there";
            return report.find(
                Area::Streams,
                name,
                format!("{error}: it has no leader, or nobody may ask"),
                todo,
            );
        }
    };
    clocks.extend(look.skew);
    standing(&look, plan, report);
    if look.subjects >= MANY {
        let what = format!("{} aggregates; the server keeps each in memory", look.subjects);
        let todo = "shard the context before it has a million: docs/operations.md, scaling out";
        report.find(Area::Streams, name, what, todo);
    }
    report.praise(Area::Streams, name, format!("{} messages, {} bytes", look.messages, look.bytes));
    consumers(connection, context, plan, report).await;
}

/// What holds of a stream and of a bucket alike.
fn standing(look: &StreamLook, plan: &Plan, report: &mut Report) {
    let name = look.name.as_str();
    for weakness in &look.weaknesses {
        let todo = if weakness.starts_with("replicas") {
            format!("nats stream edit {name} --replicas N, on a cluster of so many nodes; or ask for fewer")
        } else if weakness.starts_with("an import") {
            "finish it: the same waybill restore, or import, goes on where it was".to_owned()
        } else {
            format!(
                "nats stream edit {name}, or make it anew: export, delete, import. Services do not start on it"
            )
        };
        report.find(Area::Streams, name, weakness.clone(), todo);
    }
    let Some((leader, members)) = &look.cluster else { return };
    if leader.is_none() {
        report.find(
            Area::Cluster,
            name,
            "has no leader: nothing can be written",
            "bring the nodes back that are away",
        );
    }
    // A stream with one copy has no others.
    let there = 1 + members.iter().filter(|member| !member.is_offline).count();
    if look.replicas > 1 && there * 2 <= look.replicas {
        let what = format!("{there} of {} copies are there: no quorum", look.replicas);
        report.find(Area::Cluster, name, what, "bring the nodes back that are away");
    }
    for member in members {
        let Some(what) = misses(member, plan.lag) else { continue };
        let todo = "look at the node and its log; until it is back one more loss stops writing";
        report.find(Area::Cluster, format!("{name} on {}", member.name), what, todo);
    }
}

/// What a copy is missing. One that follows is always a little behind a log that grows.
fn misses(member: &Member, most: u64) -> Option<String> {
    match member {
        Member { is_offline: true, .. } => Some("is away".to_owned()),
        Member { is_current, lag, .. } if !is_current || *lag > most => {
            Some(format!("is {lag} operations behind"))
        }
        _ => None,
    }
}

async fn consumers(connection: &Connection, context: Context, plan: &Plan, report: &mut Report) {
    let stream = context.stream();
    let looks = match examine::consumers(connection, context).await {
        Ok(looks) => looks,
        Err(error) => return unreadable(report, Area::Consumers, stream, &error),
    };
    for look in looks {
        let of = format!("{} of {stream}", look.name);
        for weakness in &look.weaknesses {
            let todo = if weakness.contains("paused") {
                format!("nats consumer resume {stream} {}", look.name)
            } else {
                format!("nats consumer edit {stream} {}: see docs/operations.md", look.name)
            };
            report.find(Area::Consumers, of.clone(), weakness.clone(), todo);
        }
        if look.pending > plan.lag {
            let what = format!("{} messages wait", look.pending);
            let todo = if look.is_taken {
                "start more instances of the service, or wait: it is being worked on"
            } else {
                "start the service: nobody takes them"
            };
            report.find(Area::Consumers, of.clone(), what, todo);
        } else if look.pending > 0 && !look.is_taken && look.unacknowledged == 0 {
            let what = format!("{} messages wait, and nobody takes them", look.pending);
            report.find(Area::Consumers, of.clone(), what, "start the service");
        }
        if look.unacknowledged >= look.unacknowledged_limit {
            let what = format!("{} messages are being handled, and no more are given", look.unacknowledged);
            let todo =
                "see waybill_reaction_failures_total and the log of the service: something it calls is away";
            report.find(Area::Consumers, of, what, todo);
        }
    }
}

async fn buckets(connection: &Connection, plan: &Plan, clocks: &mut Vec<Skew>, report: &mut Report) {
    let streams = rights::layout(&[]).streams.into_keys();
    let mut seen = 0;
    for name in streams.filter(|name| name.starts_with("KV_")) {
        match examine::bucket(connection, &name, plan.replicas, &plan.clock).await {
            Ok(Some(look)) => {
                seen += 1;
                clocks.extend(look.skew);
                standing(&look, plan, report);
            }
            // It is made by who needs it.
            Ok(None) => {}
            Err(error) => unreadable(report, Area::Streams, &name, &error),
        }
    }
    report.praise(Area::Streams, "buckets", format!("{seen} of them"));
}

async fn parked(connection: &Connection, report: &mut Report) {
    let waiting = match nats::restore::copy_bucket(connection, "PARKED").await {
        Ok(bucket) => bucket.map_or(0, |bucket| bucket.entries.len()),
        Err(error) => return unreadable(report, Area::Consumers, "parked", &error),
    };
    if waiting > 0 {
        let what = format!("{waiting} messages could not be handled, and their aggregates wait");
        let todo = "waybill dead-letters list, then retry or discard: docs/dead-letters.md";
        report.find(Area::Consumers, "parked", what, todo);
    }
}

/// Clocks that certainly differ too much.
pub(super) fn skew(of: &str, clocks: &[Skew], plan: &Plan, report: &mut Report) {
    let worst = clocks.iter().max_by_key(|skew| skew.ahead.abs() - skew.within);
    let Some(worst) = worst else {
        return report.leave_open(
            Area::Clocks,
            of,
            "it has told no time",
            "compare it by hand: date -u on both",
        );
    };
    let seconds = worst.ahead.as_secs_f64();
    if worst.exceeds(plan.skew) {
        let side = if worst.ahead.is_negative() { "behind" } else { "ahead of" };
        let what = format!("its clock is {:.1} s {side} that of this machine", seconds.abs());
        let todo = "let every machine follow the same NTP: deadlines, tokens and timers rest on it";
        report.find(Area::Clocks, of, what, todo);
    } else {
        report.praise(Area::Clocks, of, format!("{:.0} ms from ours", seconds * 1000.0));
    }
}

/// What to do where something may not be read, or does not answer.
pub(super) const UNREAD: &str = "see whether its nodes are there; on a NATS that trusts nobody come as the operator, and make its accounts \
     again with the waybill nats-config of this version";

fn unreadable(report: &mut Report, area: Area, of: &str, error: &dyn std::fmt::Display) {
    report.leave_open(area, of, error.to_string(), UNREAD);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_follows_may_be_a_little_behind() {
        let member =
            |is_current, is_offline, lag| Member { name: "n".to_owned(), is_current, is_offline, lag };
        assert_eq!(misses(&member(true, false, 10), 10), None);
        assert_eq!(misses(&member(true, false, 11), 10).as_deref(), Some("is 11 operations behind"));
        assert_eq!(misses(&member(false, false, 3), 10).as_deref(), Some("is 3 operations behind"));
        assert_eq!(misses(&member(false, true, 3), 10).as_deref(), Some("is away"));
    }
}
