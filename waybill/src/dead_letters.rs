//! `waybill dead-letters`: what consumers could not handle, and what is to become of it.

use crate::{
    failure::Failure,
    operations::{Operations, OperationsArgs},
};
use clap::Subcommand;
use serde_json::{Value, json};
use std::fmt::Write;
use uuid::Uuid;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill dead-letters list                      what waits, grouped by what went wrong
  waybill dead-letters show 0d6f5c0e-5a43-5f0b-9f6e-0f6a2f1f7a11
  waybill dead-letters retry 9b2f1c04d1e7        a whole group, by its fingerprint
  waybill dead-letters retry --all
  waybill dead-letters discard 0d6f5c0e-5a43-5f0b-9f6e-0f6a2f1f7a11 --reason 'shipped by hand'
  waybill dead-letters list --url https://shop.example/api --token \"$TOKEN\"";

/// Flags of `waybill dead-letters`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    operations: OperationsArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What waits, grouped by what went wrong
    #[command(after_help = EXAMPLES)]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// One of them, with what waits behind it, as JSON
    #[command(after_help = EXAMPLES)]
    Show {
        /// Which
        id: Uuid,
    },
    /// Have it handled again, then what waits behind it, in order
    #[command(after_help = EXAMPLES)]
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Give it up, and go on with what waits behind it
    #[command(after_help = EXAMPLES)]
    Discard {
        #[command(flatten)]
        which: Which,
        /// Why: kept for ever
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// A dead letter by its id, or a group by its fingerprint
    #[arg(value_name = "ID|FINGERPRINT")]
    id: Option<String>,
    /// Everything that waits
    #[arg(long)]
    all: bool,
}

/// Does what is asked for, and prints what came of it.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let operations = Operations::find(&args.operations).await?;
    match args.action {
        Action::List { json } => operations.list(json).await,
        Action::Show { id } => {
            let shown = operations.get(&format!("/ops/dead-letters/{id}")).await?;
            println!("{}", serde_json::to_string_pretty(&shown)?);
            Ok(())
        }
        Action::Retry { which } => operations.ask(&which, "retry", &json!({})).await,
        Action::Discard { which, reason } => {
            operations.ask(&which, "discard", &json!({ "reason": reason })).await
        }
    }
}

impl Operations {
    async fn list(&self, json: bool) -> Result<(), Failure> {
        let all = self.get("/ops/dead-letters").await?;
        if json {
            println!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            print!("{}", table(&all));
        }
        Ok(())
    }

    async fn ask(&self, which: &Which, what: &str, body: &Value) -> Result<(), Failure> {
        let paths = match &which.id {
            Some(id) if id.parse::<Uuid>().is_ok() => vec![id.clone()],
            Some(fingerprint) => vec![format!("groups/{fingerprint}")],
            None => {
                let all = self.get("/ops/dead-letters").await?;
                let groups = all["groups"].as_array().into_iter().flatten();
                groups.map(|group| format!("groups/{}", text(&group["fingerprint"]))).collect()
            }
        };
        let mut asked = 0;
        for path in paths {
            let answer = self.post(&format!("/ops/dead-letters/{path}/{what}"), body).await?;
            asked += answer["count"].as_u64().unwrap_or(1);
        }
        println!("{what}: {asked}");
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What waits, for people.
fn table(all: &Value) -> String {
    let mut out = String::new();
    for group in all["groups"].as_array().into_iter().flatten() {
        let kind = group["eventType"].as_str().unwrap_or("no event");
        let (fingerprint, consumer, error) =
            (text(&group["fingerprint"]), text(&group["consumer"]), text(&group["error"]));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{fingerprint}  {}  {consumer}  {kind}: {error}", group["count"]);
        for letter in group["letters"].as_array().into_iter().flatten() {
            let (id, stream, at) = (text(&letter["id"]), text(&letter["stream"]), text(&letter["parkedAt"]));
            let (sequence, attempts) = (&letter["sequence"], &letter["attempts"]);
            let _ = writeln!(out, "  {id}  {stream}:{sequence}  {attempts} attempts  since {at}");
        }
    }
    if out.is_empty() { "nothing waits\n".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_names_its_fingerprint_and_its_letters() {
        let letter =
            json!({ "id": "1d", "stream": "PAYMENTS", "sequence": 42, "attempts": 12, "parkedAt": "now" });
        let group = json!({
            "fingerprint": "9b2f", "consumer": "shipping-payments", "eventType": "payment.charged",
            "error": "no carrier", "count": 1, "letters": [letter],
        });
        let expected = "9b2f  1  shipping-payments  payment.charged: no carrier\n  \
                        1d  PAYMENTS:42  12 attempts  since now\n";
        assert_eq!(table(&json!({ "groups": [group] })), expected);
        assert_eq!(table(&json!({ "groups": [] })), "nothing waits\n");
    }
}
