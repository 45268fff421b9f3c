//! The places that orders need not pass: mail that cannot be sent now, the key of a customer who is erased, the state of an
//! aggregate with a long history, and a read model that takes the place of another. Killed there, too, what was under way
//! is done in the end.

use crate::{
    cell::Shop,
    end,
    endpoint::{self, Endpoint},
    killed, steps,
    table::Table,
};
use nats::Connection;
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;
use waybill::{api::Api, failure::Failure, system::Service};
use waybill_tests::{Process, Trap, eventually, request, settled, told};

/// What is under way when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Mail,
    Webhook,
    Erasure,
    History,
    Rebuild,
}

const CELLS: &[(About, &str)] = &[
    (About::Mail, "hand.back.before@notifications-email-orders"),
    (About::Mail, "hand.back.after@notifications-email-orders"),
    (About::Webhook, "hand.back.before@notifications-webhook-erp-orders"),
    (About::Webhook, "hand.back.after@notifications-webhook-erp-orders"),
    (About::Erasure, "overwrite.before@PERSONAL_KEYS"),
    (About::Erasure, "overwrite.after@PERSONAL_KEYS"),
    (About::History, "snapshot.before@INVENTORY"),
    (About::History, "snapshot.after@INVENTORY"),
    (About::Rebuild, "rebuild.closing@orders"),
    (About::Rebuild, "rebuild.closed@orders"),
    (About::Rebuild, "rebuild.switched@orders"),
];

const UP: &[&str] = &["--log", "off"];
/// Nobody takes mail.
const NO_MAIL: &[&str] =
    &["--log", "off", "--smtp", "127.0.0.1:1", "--smtp-tls", "none", "--notify-retry", "1s"];

/// A request whose process was killed can be tried again under its key only after a while.
const SOON: Duration = Duration::from_mins(5);
/// More than an aggregate has events before its state is kept.
const RECEIPTS: u32 = 40;

/// Whether somebody is killed here at a point.
pub(crate) fn has(point: &str) -> bool {
    CELLS.iter().any(|(_, at)| at.split('@').next() == Some(point))
}

/// What is asked for, under the same keys whenever it is asked.
struct Wish {
    about: About,
    number: usize,
    user: Uuid,
}

impl Wish {
    async fn ask(&self, api: &Api) -> Result<(), Failure> {
        let key = format!("elsewhere-{}", self.number);
        let answer = match self.about {
            // The customer of the cell orders something.
            About::Mail | About::Webhook => return Ok(()),
            About::Erasure => {
                let user = api.url(Service::Users, &format!("/users/{}", self.user));
                api.send_as(self.user, api.http().delete(user).header("Idempotency-Key", &key)).await?
            }
            About::History => {
                for receipt in 1..RECEIPTS {
                    let (path, key) = ("/inventory/PEN/receipts", format!("{key}-{receipt}"));
                    let received =
                        api.post(Service::Inventory, path, &key, &json!({ "quantity": 1 })).await?;
                    received.expect(202, "a receipt of goods")?;
                }
                let body = json!({ "quantity": 1 });
                api.post(Service::Inventory, "/inventory/PEN/receipts", &key, &body).await?
            }
            About::Rebuild => {
                api.post(Service::Operations, "/ops/projections/orders/rebuild", &key, &json!({})).await?
            }
        };
        if answer.body["type"] == "/problems/rebuild-under-way" {
            // That of an earlier cell, which has to come to its end as well. The same key has the same answer for ever.
            return Ok(());
        }
        answer.expect(202, "what is asked for").map(|_| ())
    }

    /// Asks until it is heard.
    async fn insist(&self, api: &Api) {
        eventually(&format!("{:?} is heard", self.about), SOON, async || self.ask(api).await.ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_where_no_order_passes_what_was_under_way_is_done_in_the_end() {
    // The last place of each kind.
    let last = |(_, at): &&(About, &str)| at.contains(".after@") || at.contains(".switched@");
    Box::pin(matrix(CELLS.iter().filter(last))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: every place, of which the ordinary suite has one of every kind"]
async fn wherever_it_is_killed_what_was_under_way_is_done_in_the_end() {
    Box::pin(matrix(CELLS.iter())).await;
}

async fn matrix(cells: impl Iterator<Item = &'static (About, &'static str)>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let endpoint = Endpoint::start(folder.path()).await;
    let (up, no_mail) = (endpoint.with(UP), endpoint.with(NO_MAIL));
    let mut process = Process::dev(&data, &up).await.unwrap();
    let shop = Shop::open(&process).await;
    let (mut table, mut wishes, mut customers) = (Table::new("elsewhere: killed at"), Vec::new(), Vec::new());
    for (number, (about, at)) in cells.enumerate() {
        let user = process.api.register(&format!("elsewhere-{number}")).await.unwrap();
        let wish = Wish { about: *about, number, user };
        end(&mut process).await;
        let flags = if *about == About::Mail { &no_mail } else { &up };
        if *about == About::Webhook {
            endpoint.refuses_an_order();
        }
        let trap = Trap::at(&format!("{at}:1")).unwrap();
        if process.again_with(flags, &trap.env()).await.unwrap() {
            shop.moved(&process);
        }
        customers.push(shop.orders(at, 1));
        let api = process.api.clone();
        let asking = async { drop(wish.ask(&api).await) };
        table.note(*at, killed(&mut process, &trap, asking).await);
        wishes.push(wish);
        end(&mut process).await;
        process.again(&up).await.unwrap();
        shop.moved(&process);
    }
    let mut orders = 0;
    for customer in customers {
        orders += customer.await.unwrap();
    }
    for wish in &wishes {
        wish.insist(&process.api).await;
    }
    let connection = Connection::connect(&process.nats_url, "test").await.unwrap();
    assert_eq!(settled(&connection, &process.api).await.unwrap().ends(), [("completed", orders)].into());
    told(&process.nats_url, &endpoint::CHANNELS).await;
    assert_eq!(steps::faults(&connection).await, [""; 0]);
    assert_eq!(endpoint.faults(orders), [""; 0]);
    for wish in wishes.iter().filter(|wish| wish.about == About::Erasure) {
        // Of the key that was destroyed the mark is left, and nothing else.
        let subject = format!("$KV.PERSONAL_KEYS.{}", wish.user);
        let filter = json!({ "subjects_filter": subject }).to_string();
        eventually("the key is overwritten", SOON, async || {
            let asked = "$JS.API.STREAM.INFO.KV_PERSONAL_KEYS";
            let info = request(&process.nats_url, asked, &filter).await.ok()?;
            (info["state"]["subjects"][&subject] == 1).then_some(())
        })
        .await;
        let user = process.api.url(Service::Users, &format!("/users/{}", wish.user));
        let shown = process.api.send_as_operator(process.api.http().get(user)).await.unwrap();
        assert_eq!(shown.body["erased"], true, "{shown:?}");
    }
    eventually("nothing is being built", SOON, async || {
        let stands = process.api.get(Service::Operations, "/ops/projections/orders").await.ok()?.body;
        let building = stands["generations"].as_array()?.iter().any(|one| one["state"] == "building");
        (!building && stands["live"].as_u64()? > 1).then_some(())
    })
    .await;
    steps::verify(&process.api, &connection, &data.join("views"), &folder.path().join("scratch")).await;
    table.demand();
    process.stop().await.unwrap();
}
