//! `waybill rebuild`: has a read model built again beside the one that serves, and shows how far it is.

mod shown;

use crate::{
    failure::Failure,
    operations::{Operations, OperationsArgs},
};
use serde_json::{Value, json};
use service::config::Faults;
use shown::Shown;
use std::time::Duration;
use tokio::time::sleep;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill rebuild orders                              all tables of orders, while the old ones serve
  waybill rebuild orders/progress                     one of them
  waybill rebuild orders --from ORDERS:1000           only what was recorded from there on
  waybill rebuild orders --from 2026-01-01T00:00:00Z
  waybill rebuild orders --detach                     without waiting for the end
  waybill rebuild --status                            how every read model stands
  waybill rebuild orders --cancel
  waybill rebuild orders --rollback                   back to the tables that served before
  waybill rebuild orders --drop                       remove the tables that served before
  waybill rebuild orders --url https://shop.example/api --token \"$TOKEN\"";

/// How often it is asked how far the build is.
const POLL: Duration = Duration::from_millis(500);

/// Flags of `waybill rebuild`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose read model, and which of its tables [default: all of them]
    #[arg(value_name = "SERVICE[/MODEL]", required_unless_present = "status")]
    what: Option<String>,
    /// Where it begins: positions, or a time; what was recorded before is not in the tables then [default: the first event]
    #[arg(long, value_name = "STREAM:SEQ,..|TIME")]
    from: Option<String>,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    verb: Verb,
    /// With --status: as JSON
    #[arg(long, requires = "status")]
    json: bool,
    #[command(flatten)]
    operations: OperationsArgs,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false, conflicts_with = "from")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag, and clap allows one of them")]
struct Verb {
    /// Show the generations, and how far a build is
    #[arg(long)]
    status: bool,
    /// Call the build off
    #[arg(long)]
    cancel: bool,
    /// Bring the generation up to date that served before, and switch back to it
    #[arg(long)]
    rollback: bool,
    /// Remove the generation that served before
    #[arg(long, visible_alias = "drop-kept")]
    drop: bool,
}

/// Asks for it, and follows it to its end.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let what = args.what.as_deref().unwrap_or_default();
    let (service, model) = match what.split_once('/') {
        Some((service, model)) => (service, Some(model)),
        None => (what, None),
    };
    if what.contains('/') && model.is_none_or(str::is_empty) {
        let mut faults = Faults::default();
        faults.add("SERVICE[/MODEL]", "expected a table behind the slash");
        return Err(faults.into());
    }
    let operations = Operations::find(&args.operations).await?;
    if args.verb.status {
        return status(&operations, service, args.json).await;
    }
    let (verb, body) = match &args.verb {
        Verb { cancel: true, .. } => ("cancel", json!({})),
        Verb { rollback: true, .. } => ("rollback", json!({})),
        Verb { drop: true, .. } => ("drop", json!({})),
        _ => ("rebuild", wanted(model, args.from.as_deref())),
    };
    let path = format!("/ops/projections/{service}");
    let asked = operations.post(&format!("{path}/{verb}"), &body).await?;
    let asked = asked["position"]["sequence"].as_u64().unwrap_or_default();
    let stands = taken_up(&operations, &path, asked).await?;
    if let Some(refused) = stands["refused"].as_object().filter(|refused| refused["asked"] == asked) {
        return Err(format!("{service} refuses it: {}", refused["why"].as_str().unwrap_or_default()).into());
    }
    match verb {
        "cancel" => println!("{service}: nothing is built any more"),
        "drop" => println!("{service}: the tables that served before are removed"),
        _ if args.detach => println!("{service}: it is being built; waybill rebuild {service} --status"),
        _ => return follow(&operations, service, asked).await,
    }
    Ok(())
}

fn wanted(model: Option<&str>, from: Option<&str>) -> Value {
    let mut body = json!({});
    for (name, value) in [("model", model), ("from", from)] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    body
}

async fn status(operations: &Operations, service: &str, json: bool) -> Result<(), Failure> {
    let shown = match service {
        "" => operations.get("/ops/projections").await?,
        service => json!({ "items": [operations.get(&format!("/ops/projections/{service}")).await?] }),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        shown["items"].as_array().into_iter().flatten().for_each(|one| print!("{}", shown::table(one)));
    }
    Ok(())
}

/// Waits until a process of the service has seen to what was asked.
async fn taken_up(operations: &Operations, path: &str, asked: u64) -> Result<Value, Failure> {
    let waiting = async {
        loop {
            let stands = operations.get(path).await?;
            if stands["asked"].as_u64().is_some_and(|seen| seen >= asked) {
                return Ok(stands);
            }
            sleep(POLL).await;
        }
    };
    tokio::select! {
        stands = waiting => stands,
        signal = service::signal() => {
            signal?;
            Err("it is recorded; no process of the service has seen to it yet".into())
        }
    }
}

/// Shows the build until it serves. Whoever stops this stops no build.
async fn follow(operations: &Operations, service: &str, asked: u64) -> Result<(), Failure> {
    let path = format!("/ops/projections/{service}");
    let mut shown = Shown::new(service);
    let following = async {
        loop {
            let stands = operations.get(&path).await?;
            let generations = stands["generations"].as_array().into_iter().flatten();
            let Some(one) = generations.into_iter().find(|one| one["asked"] == asked) else {
                return Err(Failure::from(format!("{service}: it was called off")));
            };
            shown.update(one);
            match one["state"].as_str() {
                Some("live") => return Ok(one["number"].clone()),
                Some("kept") => return Err(format!("{service}: another generation serves by now").into()),
                _ => sleep(POLL).await,
            }
        }
    };
    let outcome = tokio::select! {
        outcome = following => Some(outcome),
        signal = service::signal() => {
            signal?;
            None
        }
    };
    shown.end();
    match outcome {
        Some(number) => println!("{service}: generation {} serves", number?),
        None => println!(
            "{service}: it goes on to be built; waybill rebuild {service} --status, or --cancel to call it off"
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(["rebuild"].into_iter().chain(line.split_whitespace())).map(|line| line.args)
    }

    #[test]
    fn a_service_is_named_unless_all_are_looked_at_and_one_thing_is_asked() {
        assert!(read("--status").unwrap().verb.status);
        assert_eq!(read("orders/progress").unwrap().what.as_deref(), Some("orders/progress"));
        assert!(read("orders --drop-kept").unwrap().verb.drop);
        for bad in ["", "orders --cancel --drop", "orders --rollback --from ORDERS:1", "orders --json"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_said_is_asked() {
        assert_eq!(wanted(None, None), json!({}));
        assert_eq!(
            wanted(Some("progress"), Some("ORDERS:1")),
            json!({ "model": "progress", "from": "ORDERS:1" })
        );
    }
}
