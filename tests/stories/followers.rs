//! Somebody of another house follows change feeds on a NATS that trusts nobody, and can do nothing else there.

use crate::READ_MODELS;
use nats::Seed;
use serde_json::json;
use std::{fs, time::Duration};
use waybill_tests::{Intruder, World, eventually, run};

const SOON: Duration = Duration::from_secs(30);

/// Gives him a key that the server knows, and enters with it.
async fn followed(world: &World, follower: &str) -> Intruder {
    let folder = world.guarded();
    let made = ["nats-config", "--out", folder.to_str().unwrap(), "--follow", follower];
    let (code, said) = run(&made).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let accounts = "accounts.conf";
    fs::copy(folder.join(accounts), world.config.data.with_file_name("nats").join(accounts)).unwrap();
    let pid =
        world.nats.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().unwrap())).unwrap();
    let reload = || rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    reload();
    let (name, _) = follower.split_once('=').unwrap();
    let seed: Seed = fs::read_to_string(folder.join(format!("seeds/{name}.nk"))).unwrap().parse().unwrap();
    let enter = async || Intruder::enter(&world.nats.url(), name, Some(&seed), json!({})).await.ok()?.ok();
    eventually("he is known", SOON, async || enter().await).await;
    // A server makes an account with the first one, and opens what leads from it into others with the next.
    reload();
    eventually("his doors are open", SOON, async || {
        let mut other = enter().await?;
        let asked =
            tokio::time::timeout(Duration::from_secs(2), other.request("JS.API.STREAM.INFO.VIEWS_USERS", ""));
        asked.await.ok()?.ok()?.ok().map(|_| other)
    })
    .await
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_another_house_follows_the_feeds_that_he_was_given_and_does_nothing_else() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let mut other = followed(&world, "crm=users,inventory").await;
    world.api.stock_product("p", ("TEA", "Tea", 450), 30).await.unwrap();
    world.api.register("u").await.unwrap();
    // One consumer on each, which is called as he is.
    let inbox = format!("{}.told", nats::inbox("crm"));
    assert_eq!(other.subscribe(&inbox).await.unwrap(), None);
    for (stream, filter) in
        [("VIEWS_USERS", "view.users.>"), ("VIEWS_INVENTORY", "view.inventory.products.*")]
    {
        let config =
            json!({ "name": "crm", "deliver_policy": "all", "ack_policy": "none", "filter_subject": filter });
        let body = json!({ "stream_name": stream, "config": config }).to_string();
        let create = format!("JS.API.CONSUMER.CREATE.{stream}.crm.{filter}");
        let made = soon("made", other.request(&create, &body)).await.unwrap().unwrap();
        assert_eq!(made["name"], "crm", "{made}");
        let next = json!({ "batch": 10, "expires": 30_000_000_000_u64 }).to_string();
        let next = other.publish(&format!("JS.API.CONSUMER.MSG.NEXT.{stream}.crm"), &inbox, &next).await;
        assert_eq!(next.unwrap(), None, "{stream}");
    }
    eventually("he is told", SOON, async || {
        // What came before an answer is heard with it.
        let info = other.request("JS.API.STREAM.INFO.VIEWS_USERS", "").await.unwrap().unwrap();
        assert_eq!(info["config"]["name"], "VIEWS_USERS");
        let told = ["view.users.users.", "view.inventory.products.TEA"].map(|of| other.heard(of));
        told.iter().all(|count| *count > 0).then_some(())
    })
    .await;
    // What he missed is still there, as long as the feed keeps it.
    let row = other.request("JS.API.DIRECT.GET.VIEWS_INVENTORY.view.inventory.products.TEA", "");
    assert_eq!(soon("a row", row).await.unwrap().unwrap()["sku"], "TEA");
    for subject in [
        "view.users.users.1",
        "view.users",
        "evt.users.user.1",
        "JS.API.STREAM.INFO.USERS",
        "JS.API.STREAM.INFO.VIEWS_ORDERS",
        "JS.API.STREAM.PURGE.VIEWS_USERS",
        "JS.API.STREAM.MSG.DELETE.VIEWS_USERS",
        "JS.API.CONSUMER.CREATE.VIEWS_USERS.mine",
        "JS.API.CONSUMER.DELETE.VIEWS_USERS.mine",
        "JS.API.CONSUMER.MSG.NEXT.VIEWS_USERS.mine",
        "JS.API.CONSUMER.CREATE.VIEWS_USERS",
        "JS.API.CONSUMER.CREATE.VIEWS_ORDERS.crm",
        "JS.API.CONSUMER.CREATE.USERS.crm",
        "JS.API.STREAM.INFO.KV_SIGNING_KEYS",
        "JS.API.DIRECT.GET.KV_PERSONAL_KEYS.x",
        "$JS.API.STREAM.INFO.VIEWS_USERS",
        "$SYS.REQ.SERVER.PING",
        "_INBOX_users.x",
        "anything",
    ] {
        let said = other.publish(subject, "", "{}").await.unwrap();
        assert!(
            said.is_some_and(|said| said.contains("Permissions Violation")),
            "he may publish on {subject}"
        );
    }
    for subject in [
        "view.>",
        "view.*",
        "view.orders.>",
        "view.orders",
        "evt.>",
        ">",
        "$KV.>",
        "_INBOX.>",
        "_INBOX_users.>",
    ] {
        let said = other.subscribe(subject).await.unwrap();
        assert!(
            said.is_some_and(|said| said.contains("Permissions Violation")),
            "he may listen on {subject}"
        );
    }
    // The services notice nothing of him, and who is not named any more is not let in.
    world.api.register("v").await.unwrap();
    assert!(world.stop().await);
}
