//! The database of each service, and how far the read model in it is.

use super::{
    Plan,
    finding::{Area, Report},
    log,
};
use crate::{failure, system::Service};
use events::{Context, Position};
use nats::{Connection, StreamState, examine::Skew, raw};
use projections::{
    View,
    database::{DatabaseLook, TablesLook},
};
use std::{collections::BTreeMap, path::Path};

/// How far a stream is: its last event, and its last message.
type Ends = BTreeMap<Context, (u64, u64)>;

/// Every database of the services that are looked at. Without NATS it is not known how far they are behind.
pub(super) async fn check(connection: Option<&Connection>, plan: &Plan, folder: &Path, report: &mut Report) {
    let ends = match connection {
        Some(connection) => ends(connection).await,
        None => Ends::new(),
    };
    let mut clocks = Vec::new();
    for service in &plan.services {
        let Some(view) = View::of(service.name()) else { continue };
        let storage = plan.databases.storage(*service, folder);
        let asked = plan.clock.now();
        match storage.examine(view).await {
            Ok(look) => {
                clocks.extend(look.now.map(|now| Skew::between(asked, now, plan.clock.now())));
                database(*service, &look, &ends, plan, report);
            }
            Err(error) => {
                let what = failure::report(&error).replacen("error: ", "", 1);
                let todo =
                    "see that the server is there and the role may connect; commands go on, queries do not";
                report.find(Area::Databases, service.name(), what, todo);
            }
        }
    }
    if !clocks.is_empty() {
        log::skew("databases", &clocks, plan, report);
    }
}

async fn ends(connection: &Connection) -> Ends {
    let mut ends = Ends::new();
    for context in Context::ALL {
        let state = raw::state(connection, context).await.ok().flatten();
        let events = StreamState::of(connection, context).await.ok();
        if let Some((state, events)) = state.zip(events) {
            let event = events.last.map_or(0, |(sequence, _)| sequence);
            ends.insert(context, (event, state.last));
        }
    }
    ends
}

fn database(service: Service, look: &DatabaseLook, ends: &Ends, plan: &Plan, report: &mut Report) {
    let of = service.name();
    if let Some((used, most)) = look.connections
        && let Some(percent) = used.saturating_mul(100).checked_div(most)
        && percent >= plan.full
    {
        let what = format!("{used} of {most} connections are taken");
        report.find(Area::Databases, of, what, "raise max_connections: a service has five for an instance");
    }
    let Some(tables) = &look.tables else {
        let what = format!("{}: nothing was projected here yet", look.server);
        let todo = "start the service, or say where its read model is: --data, or its database";
        return report.leave_open(Area::Databases, of, what, todo);
    };
    let TablesLook { generation, version, own, is_own, is_building, parked, checkpoints } = tables;
    if version > own {
        let what = format!("generation {generation} is of version {version}, this program knows {own}");
        let todo = "run the newer program; the older one does not serve it";
        report.find(Area::Databases, of, what, todo);
    } else if !is_own && !is_building {
        let what = format!(
            "generation {generation} is of another declaration (version {version}), and none is built"
        );
        let todo = "start the service of this version: it builds its own beside it";
        report.find(Area::Databases, of, what, todo);
    } else if *is_building {
        let what = format!("generation {generation} serves while another is built");
        report.leave_open(Area::Databases, of, what, "waybill rebuild --status");
    }
    if *parked > 0 {
        let what = format!("events of {parked} aggregates wait, because one cannot be read");
        report.find(Area::Projections, of, what, "waybill dead-letters list: docs/dead-letters.md");
    }
    for position in checkpoints {
        lag(of, *position, ends, plan, report);
    }
    report.praise(Area::Databases, of, format!("{}, generation {generation}", look.server));
}

fn lag(of: &str, at: Position, ends: &Ends, plan: &Plan, report: &mut Report) {
    let Some((event, last)) = ends.get(&at.context) else { return };
    let stream = at.context.stream();
    let behind = event.saturating_sub(at.sequence);
    if at.sequence > *last {
        let what = format!("it contains {at}, and {stream} ends at {last}: it was made from another log");
        let todo = "stop the service and delete the read model, which is then built from this log; after a power cut \
                    with sync_interval, or after a restore, that is to be expected";
        report.find(Area::Projections, of, what, todo);
    } else if behind > plan.lag {
        let what = format!("it is {behind} events behind {stream}");
        let todo =
            "see /ready of the service and waybill_projection_failures_total; if it is catching up, wait";
        report.find(Area::Projections, of, what, todo);
    }
}
