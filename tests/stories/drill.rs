//! The log is copied, everything is lost, and the copy is put back: it goes on as if nothing had been.

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use uuid::Uuid;
use waybill::{
    api::{Answer, Api, Cart},
    system::Service,
};
use waybill_tests::{Process, eventually, run, settled};

const FLAGS: &[&str] = &["--log", "warn"];
const SOON: Duration = Duration::from_mins(1);

struct Shop {
    _folder: TempDir,
    data: PathBuf,
    copy: PathBuf,
    process: Option<Process>,
    cart: Cart,
    after: String,
}

async fn place(api: &Api, key: &str, cart: &Cart, workflow: &str, after: &str) -> Answer {
    let mut body = cart.body();
    body["workflow"] = workflow.into();
    let request = api.http().post(api.url(Service::Orders, "/orders")).header("Idempotency-Key", key);
    let request = request.header("Waybill-Position", after).json(&body);
    api.send_as(cart.user_id, request).await.unwrap().expect(202, "an order").unwrap()
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
        let process = Process::dev(&data, FLAGS).await.unwrap();
        let user_id = process.api.register("u").await.unwrap();
        let stocked = process.api.stock_product("p", ("PEN", "Pen", 10), 1000).await.unwrap();
        let (account_id, _) = process.api.open_account("a", user_id, 100_000).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };
        let after = stocked.position().unwrap().to_owned();
        Self { _folder: folder, data, copy, process: Some(process), cart, after }
    }

    fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Starts it again, on what is in the folder.
    async fn start(&mut self, flags: &[&str]) {
        self.process = Some(Process::dev(&self.data, flags).await.unwrap());
    }

    async fn stop(&mut self) {
        assert!(self.process.take().unwrap().stop().await.unwrap().success());
    }

    async fn place(&self, key: &str, workflow: &str) -> Uuid {
        place(&self.process().api, key, &self.cart, workflow, &self.after).await.id().unwrap()
    }

    async fn is(&self, order: Uuid, status: &str) {
        eventually(&format!("the order is {status}"), SOON, async || {
            let answer = self.process().api.order(order).await.ok()?;
            (answer.body["status"] == status).then_some(())
        })
        .await;
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let data = self.data.to_str().unwrap();
        run(&[arguments, &["--data", data]].concat()).await.unwrap()
    }

    fn copy(&self) -> &str {
        self.copy.to_str().unwrap()
    }

    /// Runs it, which must go well.
    async fn done(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn manifest(copy: &Path) -> Value {
    serde_json::from_slice(&fs::read(copy.join("manifest.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_comes_back_from_a_copy() {
    let mut shop = Shop::open().await;
    let mut orders = Vec::new();
    for number in 0..6 {
        let workflow = if number % 2 == 0 { "choreography" } else { "orchestration" };
        let order = shop.place(&format!("first-{number}"), workflow).await;
        shop.is(order, "completed").await;
        orders.push(order);
    }
    shop.done(&["export", shop.copy(), "--keys"]).await;
    let first = manifest(&shop.copy);

    // A carrier that is slow leaves orders, and timers, on their way.
    shop.stop().await;
    shop.start(&["--log", "warn", "--carrier", "slow:4s"]).await;
    let erased = shop.process().api.register("erased").await.unwrap();
    let on_the_way =
        [shop.place("second-1", "choreography").await, shop.place("second-2", "orchestration").await];
    for order in on_the_way {
        eventually("the order is paid", SOON, async || {
            let answer = shop.process().api.order(order).await.ok()?;
            (answer.body["stage"] == "charged").then_some(())
        })
        .await;
    }
    shop.done(&["export", shop.copy(), "--keys"]).await;
    let second = manifest(&shop.copy);
    assert_eq!((&second["complete"], &second["round"]), (&true.into(), &2.into()));
    for (stream, of_first) in first["streams"].as_object().unwrap() {
        let (kept, all) = (&of_first["segments"], &second["streams"][stream]["segments"]);
        assert!(
            kept.as_array().unwrap().iter().eq(all
                .as_array()
                .unwrap()
                .iter()
                .take(kept.as_array().unwrap().len()))
        );
    }
    assert!(second["streams"]["FULFILMENT"]["timers"]["lines"].as_u64().unwrap() > 0, "{second:#}");
    for file in files(&shop.copy) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let (apart, keys) = (shop.copy.with_file_name("apart"), shop.copy.with_file_name("keys"));
    let keys = keys.to_str().unwrap();
    shop.done(&["backup", apart.to_str().unwrap(), "--keys-to", keys]).await;
    // This user goes after the keys were copied, and before the log was.
    let url = shop.process().api.url(Service::Users, &format!("/users/{erased}"));
    let request = shop.process().api.http().delete(url);
    let gone = shop.process().api.send_as_operator(request).await.unwrap();
    assert!(gone.status < 300, "{gone:?}");
    shop.done(&["export", shop.copy()]).await;
    let master_key = fs::read(shop.data.join("master.key")).unwrap();

    // Everything is lost but the copy and the master key.
    shop.stop().await;
    fs::remove_dir_all(&shop.data).unwrap();
    shop.done(&["import", shop.copy(), "--check"]).await;
    let said = shop.done(&["restore", shop.copy(), "--keys-from", keys]).await;
    assert!(said.contains("PERSONAL_KEYS: 1 of erased users"), "{said}");
    assert!(said.contains("put the master key"), "{said}");
    fs::write(shop.data.join("master.key"), master_key).unwrap();

    shop.start(FLAGS).await;
    for order in on_the_way {
        shop.is(order, "completed").await;
    }
    let order = shop.place("third", "orchestration").await;
    shop.is(order, "completed").await;
    // Asked again under its key, nothing is ordered a second time.
    assert_eq!(shop.place("first-0", "choreography").await, orders[0]);
    let connection = nats::Connection::connect(&shop.process().nats_url, "test").await.unwrap();
    let audit = settled(&connection, &shop.process().api).await.unwrap();
    assert_eq!(audit.ends(), [("completed", 9)].into());
    let said = shop.done(&["verify"]).await;
    assert!(said.contains("everything agrees"), "{said}");

    // A copy of what was put back is the same copy, as far as it goes.
    let again = shop.copy.with_file_name("again");
    shop.done(&["export", again.to_str().unwrap(), "--keys"]).await;
    let users = |of: &Path| manifest(of)["streams"]["USERS"]["hash"].clone();
    assert_eq!(users(&again), users(&shop.copy), "nothing happened to users since");
    // And the old copy is brought up to date from the new place.
    shop.done(&["export", shop.copy()]).await;
    shop.stop().await;

    // The other way, as docs/verify.md has it: a copy with its keys, into a folder of its own.
    let drill = shop.data.with_file_name("drill");
    let master_key = fs::read(shop.data.join("master.key")).unwrap();
    shop.data = drill;
    shop.done(&["import", again.to_str().unwrap(), "--keys"]).await;
    fs::write(shop.data.join("master.key"), master_key).unwrap();
    shop.start(FLAGS).await;
    shop.is(order, "completed").await;
    let said = shop.done(&["verify"]).await;
    assert!(said.contains("everything agrees"), "{said}");
    let parcel = format!("/shipments/{order}");
    let parcel = shop.process().api.get(Service::Shipping, &parcel).await.unwrap().body;
    assert_eq!(parcel["address"]["city"], "Berlin", "its keys came too: {parcel}");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_tampered_with_is_refused_and_so_is_a_log_that_is_there() {
    let mut shop = Shop::open().await;
    let order = shop.place("one", "choreography").await;
    shop.is(order, "completed").await;
    shop.done(&["export", shop.copy()]).await;
    let (code, said) = shop.run(&["import", shop.copy()]).await;
    assert_eq!(code, Some(1), "a dev is running there: {said}");
    assert!(said.contains("already running"), "{said}");
    let nats = ["import", shop.copy(), "--nats-url", &shop.process().nats_url];
    let (code, said) = shop.run(&nats).await;
    assert!(code == Some(1) && said.contains("ORDERS is not empty"), "{said}");
    let (code, said) = shop.run(&["import", shop.copy(), "--keys", "--check"]).await;
    assert!(code == Some(64) && said.contains("--keys"), "it was exported without: {said}");

    // The copy of one log is not brought up to date from another.
    let mut other = Shop::open().await;
    let (code, said) = other.run(&["export", shop.copy()]).await;
    assert!(code == Some(1) && said.contains("the copy of another log"), "{said}");

    let segment =
        files(&shop.copy).into_iter().find(|path| path.ends_with("000000000001.jsonl.zst")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (code, said) = shop.run(&["import", shop.copy(), "--check"]).await;
    assert!(code == Some(1) && said.contains("is not the file that was written"), "{said}");
    let (code, _) = shop.run(&["import", "/nowhere"]).await;
    assert_eq!(code, Some(64));
    shop.stop().await;
    other.stop().await;
}
