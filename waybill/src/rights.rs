//! Who may do what on NATS: out of the tables by which services react, read and keep, so that the two cannot part.

use crate::{
    access::{OPERATOR, PROVISIONING},
    databases::has_view,
    edge::GATEWAY,
    system::Service,
};
use commands::{reactions, users};
use events::Context;
use nats::{
    Layout, PERSONAL_KEYS,
    rights::{Holder, PARKED, Right, kv, streams},
    topology,
};
use projections::View;
use std::collections::BTreeMap;

/// Everybody who comes to NATS, and everything that is there. `channels` are those on which customers and others are told.
pub fn layout(channels: &[String]) -> Layout {
    let views: Vec<_> = View::ALL.iter().map(|view| view.name).collect();
    let buckets = users::buckets(1).map(|bucket| bucket.name);
    let streams = streams(&views, &buckets);
    let mut holders: Vec<_> = Service::ALL.iter().map(|service| of_service(*service, channels)).collect();
    holders.extend([gateway(), operator(&streams), provisioning(&streams)]);
    let reacting =
        Service::ALL.into_iter().flat_map(|service| reactions::durables(service.context(), channels));
    let durables = reacting.flat_map(|durable| {
        let asked = durable.for_operators();
        [durable, asked].map(|durable| (durable.context.stream().to_owned(), durable.name))
    });
    Layout { holders, durables: durables.collect(), streams }
}

/// Every role by its name.
pub fn roles() -> impl Iterator<Item = &'static str> {
    Service::ALL.map(Service::name).into_iter().chain([GATEWAY, OPERATOR, PROVISIONING])
}

/// The contexts that a service owns. Payments record what the fraud rules say.
pub(crate) fn owned(service: Service) -> Vec<Context> {
    let fraud = (service == Service::Payments).then_some(Context::Fraud);
    [service.context()].into_iter().chain(fraud).collect()
}

/// The contexts whose facts a service reads, its own among them.
pub(crate) fn read(service: Service) -> Vec<Context> {
    // Operations show the log.
    if service == Service::Operations {
        return Context::ALL.to_vec();
    }
    let context = service.context();
    let mut read = owned(service);
    read.extend(reactions::interests(context).iter().map(|(context, _)| *context));
    read.extend(reactions::looked_up(context).iter().map(|aggregate| aggregate.context()));
    read.extend(View::of(service.name()).into_iter().flat_map(View::contexts));
    // What operators ask of its consumers.
    read.push(Context::Ops);
    read.sort_unstable();
    read.dedup();
    read
}

fn of_service(service: Service, channels: &[String]) -> Holder {
    let mut holder = Holder::new(service.name());
    for context in owned(service) {
        holder.owns(context);
    }
    for context in read(service) {
        holder.reads(context);
    }
    for durable in reactions::durables(service.context(), channels) {
        holder.reacts(&durable);
    }
    if has_view(service) {
        holder.projects(service.name());
    }
    holder.is_an_instance(service.name());
    holder.may(Right::Look, kv(users::tokens::SIGNING_KEYS));
    match service {
        Service::Users => {
            holder.erases();
            for bucket in users::buckets(1) {
                holder.owns_bucket(bucket.name);
            }
        }
        Service::Orders => holder.seals(),
        Service::Operations => {
            holder.opens();
            holder.watches(PARKED);
            holder.may(Right::Look, kv(nats::rights::READ_MODELS));
        }
        _ => holder.opens(),
    }
    holder
}

/// Somebody of another house who follows the feeds of these read models.
pub(crate) fn follower(name: &str, views: &[&View]) -> Holder {
    let mut holder = Holder::new(name);
    for view in views {
        holder.follows(view.name);
    }
    holder
}

fn gateway() -> Holder {
    let mut holder = Holder::new(GATEWAY);
    holder.watches(nats::rights::INSTANCES);
    holder.counts();
    holder
}

/// Looks at everything and changes nothing: checks, copies, replays, and signs tokens where it has the master key.
fn operator(streams: &BTreeMap<String, Vec<String>>) -> Holder {
    let mut holder = Holder::new(OPERATOR);
    for context in Context::ALL {
        holder.reads(context);
        holder.may(Right::Survey, context.stream());
        // What became of idempotency keys is backed up.
        holder.may(Right::Look, kv(&topology::ledger(context)));
    }
    // Whether buckets are as declared is seen of all of them; what is in sessions, for one, is none of its business.
    for bucket in streams.keys().filter(|name| name.starts_with("KV_")) {
        holder.may(Right::Inspect, bucket.clone());
    }
    for bucket in [PERSONAL_KEYS, PARKED] {
        holder.watches(bucket);
    }
    for bucket in ["CREDENTIALS", users::tokens::SIGNING_KEYS] {
        holder.may(Right::Look, kv(bucket));
    }
    holder
}

/// Makes what is there, and puts copies back.
fn provisioning(streams: &BTreeMap<String, Vec<String>>) -> Holder {
    let mut holder = Holder::new(PROVISIONING);
    for (stream, subjects) in streams {
        holder.may(Right::Provide, stream.clone());
        holder.may(Right::Write(subjects.clone()), stream.clone());
    }
    holder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, path::Path};

    /// The table in the documentation, or the whole of it with another table.
    fn documented(table: &str) -> (String, String) {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
        let text = fs::read_to_string(&page).unwrap();
        let (before, rest) = text.split_once("writes this table -->\n").unwrap();
        let (now, after) = rest.split_once("<!-- end of rights -->").unwrap();
        if env::var_os("UPDATE_GOLDEN").is_some() {
            let text = format!("{before}writes this table -->\n{table}<!-- end of rights -->{after}");
            fs::write(page, text).unwrap();
            return (table.to_owned(), table.to_owned());
        }
        (now.to_owned(), table.to_owned())
    }

    #[test]
    fn the_documentation_says_who_may_do_what() {
        let (now, table) = documented(&layout(&["email".to_owned()]).table());
        assert!(now == table, "docs/security.md is old: run UPDATE_GOLDEN=1 cargo test -p waybill");
    }

    #[test]
    fn only_the_owner_of_a_context_records_its_facts() {
        let layout = layout(&["email".to_owned()]);
        for context in Context::ALL {
            let writes = Right::Write(vec![context.filter()]);
            let timed = Right::Write(vec![context.filter(), context.timers()]);
            let owners = layout.holders.iter().filter(|holder| {
                holder.has(&writes, context.stream()) || holder.has(&timed, context.stream())
            });
            let names: Vec<_> =
                owners.map(|holder| &*holder.name).filter(|name| *name != PROVISIONING).collect();
            let owner = Service::ALL.into_iter().find(|service| owned(*service).contains(&context)).unwrap();
            assert_eq!(names, [owner.name()], "{context}");
        }
        // Everything that somebody may use is there.
        for holder in &layout.holders {
            for stream in holder.rights.keys() {
                assert!(layout.streams.contains_key(stream), "{}: {stream}", holder.name);
            }
        }
        // Nobody but those who provide may make, change, delete or empty what is kept on disk.
        for holder in layout.holders.iter().filter(|holder| holder.name != PROVISIONING) {
            for (stream, rights) in &holder.rights {
                assert!(!rights.contains(&Right::Provide), "{}: {stream}", holder.name);
                let remade = stream.starts_with("VIEWS_") || stream == "KV_QUOTAS";
                assert!(remade || !rights.contains(&Right::Remake), "{}: {stream}", holder.name);
            }
        }
    }
}
