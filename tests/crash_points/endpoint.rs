//! The endpoint of somebody else that is told by webhook in every cell.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use waybill_tests::Receiver;

/// What it is called.
const NAME: &str = "erp";
/// The channel on which it is told.
pub(crate) const CHANNEL: &str = "webhook-erp";
/// Everybody who is told.
pub(crate) const CHANNELS: [&str; 2] = ["email", CHANNEL];
const SECRET: &str = "a secret of sixteen bytes";

pub(crate) struct Endpoint {
    receiver: Receiver,
    file: String,
}

impl Endpoint {
    /// Starts it, and registers it in a file in this folder.
    pub(crate) async fn start(folder: &Path) -> Self {
        let receiver = Receiver::start([]).await.unwrap();
        let file = receiver.register(NAME, SECRET, folder).unwrap();
        Self { receiver, file: file.to_str().unwrap().to_owned() }
    }

    /// These flags, and that it is told.
    pub(crate) fn with<'a>(&'a self, flags: &[&'a str]) -> Vec<&'a str> {
        [flags, &["--webhooks", &self.file]].concat()
    }

    /// Does not take the next order that it is told of, whatever of other streams it is told before.
    pub(crate) fn refuses_an_order(&self) {
        self.receiver.refuses_next("order.created");
    }

    /// What must hold of what came: of each fact it has heard, under one name however often, so that whoever knows the name
    /// hears it once.
    pub(crate) fn faults(&self, orders: usize) -> Vec<String> {
        let mut heard: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for request in self.receiver.requests() {
            let event = request.json();
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            let names = heard.entry((text("type"), text("subject"))).or_default();
            names.insert(request.header("Waybill-Notification-Id").to_owned());
        }
        let twice = heard.iter().filter(|(_, names)| names.len() != 1);
        let mut faults: Vec<_> =
            twice.map(|(what, names)| format!("{what:?} was told as {names:?}")).collect();
        let created = heard.keys().filter(|(kind, _)| kind == "order.created").count();
        if created != orders {
            faults.push(format!("{created} orders were told by webhook, not {orders}"));
        }
        faults
    }
}
