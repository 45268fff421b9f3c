//! The read models: the log folded again, and compared with what serves.

use super::finding::{Findings, Kind};
use crate::{
    databases::Databases,
    failure::{Failure, because},
    progress::Progress,
    system::Service,
};
use events::{Aggregate, Context, Fact, Subject, users::UserEvent};
use nats::{Connection, Filter, From, Reader, Until};
use projections::{
    Compared, View, compare,
    database::{Difference, Disagreement},
    live,
};
use serde::Serialize;
use std::{collections::HashSet, path::PathBuf};

/// What was compared of one read model.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TablesCheck {
    /// Up to where: the position that both were at.
    pub(super) at: Vec<String>,
    /// From where on, in the streams that are not in it from their start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) since: Vec<String>,
    /// Messages that were folded again.
    pub(super) events: u64,
    /// Rows that differ.
    pub(super) rows: usize,
    /// Aggregates whose later events are not in the tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) waiting: Vec<String>,
    /// Events that nobody could read and that were left out on purpose: skipped by a policy, or discarded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<String>,
}

/// Where read models are, and the log they are made of.
pub(super) struct Tables<'a> {
    pub(super) connection: &'a Connection,
    pub(super) databases: &'a Databases,
    /// Of those on SQLite.
    pub(super) folder: PathBuf,
    /// For the log folded again.
    pub(super) scratch: PathBuf,
}

impl Tables<'_> {
    /// Compares the read model of a service; `None` where the service has none.
    pub(super) async fn check(
        &self,
        service: Service,
        findings: &mut Findings,
    ) -> Result<Option<TablesCheck>, Failure> {
        let Some(view) = View::of(service.name()) else { return Ok(None) };
        let database = match live(&self.databases.storage(service, &self.folder), view).await {
            Ok(Some(database)) => database,
            Ok(None) => {
                let why = format!(
                    "there is no read model of {service}: name its folder with --data, or its database with --database-urls"
                );
                return Err(why.into());
            }
            Err(error) => {
                findings.add(Kind::Model, service, chain(&error));
                return Ok(None);
            }
        };
        let scratch = self.scratch.join(service.name());
        let progress = Progress::new(service.name(), 0);
        let compared = compare(view, self.connection, &database, &scratch, |total, watched| {
            progress.follow(total, watched);
        })
        .await;
        let compared = compared.map_err(because(format!("cannot fold the log of {service} again")))?;
        progress.finish();
        database.close().await;
        let erased = self.erased(&compared).await?;
        for difference in &compared.differences {
            let at = format!("{service}/{}/{}", difference.table, difference.key);
            findings.add(Kind::Row, at, said(difference, &compared, &erased));
        }
        Ok(Some(TablesCheck {
            at: compared.checkpoints.iter().map(ToString::to_string).collect(),
            since: compared.since.iter().map(ToString::to_string).collect(),
            events: compared.events,
            rows: compared.differences.len(),
            waiting: compared.waiting.iter().map(ToString::to_string).collect(),
            left_out: compared.left_out.iter().map(ToString::to_string).collect(),
        }))
    }

    /// Users who were erased, where that matters.
    async fn erased(&self, compared: &Compared) -> Result<HashSet<String>, Failure> {
        let mut erased = HashSet::new();
        if compared.differences.is_empty() {
            return Ok(erased);
        }
        let filter = Filter { kinds: vec!["user.erased".to_owned()], ..Filter::default() };
        let mut reader =
            Reader::open(self.connection, Context::Users, From::Start, Until::End, filter).await?;
        loop {
            let batch = reader.next_batch(1000).await?;
            if batch.is_empty() {
                return Ok(erased);
            }
            let users = batch.iter().filter(|event| event.subject.aggregate() == Aggregate::User);
            let users = users.filter(|event| matches!(event.fact(), Ok(Fact::User(UserEvent::Erased(_)))));
            erased.extend(users.map(|event| event.subject.id().to_owned()));
        }
    }
}

/// What is wrong with a row, and why it may be.
fn said(difference: &Difference, compared: &Compared, erased: &HashSet<String>) -> String {
    let what = match &difference.kind {
        Disagreement::Missing => "is missing from the tables".to_owned(),
        Disagreement::Unexpected => "is in the tables, and the log knows nothing of it".to_owned(),
        Disagreement::Differs(columns) => format!("differs in {}", columns.join(", ")),
    };
    let of_key = |id: &str| difference.key.split(' ').any(|part| part == id);
    let waits = |subject: &&Subject| of_key(subject.id());
    let why = match compared.waiting.iter().find(waits) {
        Some(subject) => format!("its aggregate {subject} is parked: an event of it could not be read"),
        None if erased.iter().any(|user| of_key(user)) => "its user was erased".to_owned(),
        None if !compared.since.is_empty() => {
            let since: Vec<_> = compared.since.iter().map(ToString::to_string).collect();
            format!("it was built since {} only, or the table was changed by hand", since.join(", "))
        }
        None => "the table was changed by hand, or the projection was, without a new version".to_owned(),
    };
    format!("{what}; perhaps {why}")
}

/// An error with what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_differs_is_told_with_why_it_may() {
        let none = || Compared {
            checkpoints: vec![],
            since: vec![],
            events: 0,
            differences: vec![],
            waiting: vec![],
            left_out: vec![],
        };
        let row = |key: &str, kind| Difference { table: "payments", key: key.to_owned(), kind };
        let (differs, nobody) = (Disagreement::Differs(vec!["status", "amount"]), HashSet::new());
        let by_hand = "the table was changed by hand, or the projection was, without a new version";
        for (kind, what) in [
            (Disagreement::Missing, "is missing from the tables"),
            (Disagreement::Unexpected, "is in the tables, and the log knows nothing of it"),
            (differs.clone(), "differs in status, amount"),
        ] {
            assert_eq!(said(&row("o-1", kind), &none(), &nobody), format!("{what}; perhaps {by_hand}"));
        }

        // What is known of the row itself goes before what is true of all.
        let since: Vec<_> = ["ORDERS:7", "PAYMENTS:9"].map(|at| at.parse().unwrap()).into();
        let partly = || Compared { since: since.clone(), ..none() };
        let parked = Aggregate::Payment.subject("o-1");
        let waits = || Compared { waiting: vec![parked.clone()], ..partly() };
        let erased: HashSet<_> = ["u-1".to_owned()].into();
        let of_parked = format!("its aggregate {parked} is parked: an event of it could not be read");
        let of_since = "it was built since ORDERS:7, PAYMENTS:9 only, or the table was changed by hand";
        for (key, compared, why) in [
            ("o-1", waits(), &*of_parked),
            ("u-1 o-1", waits(), &of_parked),
            ("u-1", waits(), "its user was erased"),
            ("u-1 order-updates", partly(), "its user was erased"),
            ("o-2", waits(), of_since),
            ("o-11", partly(), of_since),
            ("o-1", none(), by_hand),
        ] {
            let told = said(&row(key, differs.clone()), &compared, &erased);
            assert_eq!(told, format!("differs in status, amount; perhaps {why}"), "{key}");
        }
    }
}
