//! Everything is backed up while orders run, wiped, and put back: sealed, with the keys apart.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};
use tempfile::TempDir;
use uuid::Uuid;
use waybill::api::{Api, Cart};
use waybill_tests::{Process, eventually, run, settled};

const FLAGS: &[&str] = &["--log", "warn"];
const SOON: Duration = Duration::from_mins(1);

struct Shop {
    folder: TempDir,
    data: PathBuf,
    process: Option<Process>,
    cart: Cart,
    after: String,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let process = Process::dev(&data, FLAGS).await.unwrap();
        let user_id = process.api.register("u").await.unwrap();
        let stocked = process.api.stock_product("p", ("PEN", "Pen", 10), 1000).await.unwrap();
        let (account_id, _) = process.api.open_account("a", user_id, 100_000).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };
        let after = stocked.position().unwrap().to_owned();
        fs::write(folder.path().join("key"), &*nats::MasterKey::generate().to_base64()).unwrap();
        fs::write(folder.path().join("words"), "correct horse battery staple\n").unwrap();
        Self { folder, data, process: Some(process), cart, after }
    }

    fn api(&self) -> &Api {
        &self.process.as_ref().unwrap().api
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Places an order as a client does that knows of bad days: again under the same key, until it is accepted.
    async fn place(&self, key: &str) -> Uuid {
        eventually("the order is accepted", SOON, async || {
            let answer = self.api().place(key, &self.cart, &[&self.after]).await.unwrap();
            match answer.status {
                202 => Some(answer.id().unwrap()),
                409 | 503 => None,
                _ => panic!("{answer:?}"),
            }
        })
        .await
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        run(&[arguments, &["--data", self.data.to_str().unwrap()]].concat()).await.unwrap()
    }

    /// Runs it, which must go well.
    async fn done(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }

    /// Runs it, which must be refused with these words.
    async fn refused(&self, arguments: &[&str], code: i32, words: &str) {
        let (found, said) = self.run(arguments).await;
        assert!(found == Some(code) && said.contains(words), "{arguments:?}: {found:?} {said}");
    }

    async fn stop(&mut self) {
        assert!(self.process.take().unwrap().stop().await.unwrap().success());
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn holds(path: &Path, text: &str) -> bool {
    fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_on_after_everything_was_wiped_and_put_back() {
    let mut shop = Shop::open().await;
    let (backup, key, keys) = (shop.path("backup"), shop.path("key"), shop.path("keys"));
    let seal = ["--key-file", key.as_str()];
    shop.place("before").await;

    // Backed up twice while orders are placed, the second time what is new.
    let (going, placed) = (AtomicBool::new(true), AtomicUsize::new(0));
    let orders = async {
        let mut orders = Vec::new();
        while going.load(Ordering::Relaxed) {
            orders.push(shop.place(&format!("while-{}", orders.len())).await);
            placed.store(orders.len(), Ordering::Relaxed);
        }
        orders
    };
    let backing_up = async {
        let more_than = async |count| {
            eventually("orders are placed", SOON, async || {
                (placed.load(Ordering::Relaxed) > count).then_some(())
            })
            .await;
        };
        more_than(3).await;
        let first = shop.done(&[&["backup", &backup, "--keys-to", &keys][..], &seal].concat()).await;
        assert!(first.contains("sealed"), "{first}");
        more_than(placed.load(Ordering::Relaxed) + 3).await;
        shop.done(&[&["backup", &backup, "--keys-to", &keys, "--read-models"][..], &seal].concat()).await;
        going.store(false, Ordering::Relaxed);
    };
    let (orders, ()) = tokio::join!(orders, backing_up);
    for file in files(Path::new(&backup)).into_iter().chain([PathBuf::from(&keys)]) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        for secret in ["order.created", "evt.orders", "PERSONAL_KEYS", &shop.cart.user_id.to_string()] {
            assert!(!holds(&file, secret), "{secret} is readable in {}", file.display());
        }
    }
    let names: Vec<_> = files(Path::new(&backup)).iter().map(|file| file.display().to_string()).collect();
    assert!(names.iter().all(|name| !name.contains("KEYS") && !name.contains("CREDENTIALS")), "{names:?}");

    // Everything is lost but the backup, the keys and the master key.
    let master_key = fs::read(shop.data.join("master.key")).unwrap();
    shop.stop().await;
    fs::remove_dir_all(&shop.data).unwrap();
    shop.refused(&["restore", &backup, "--check"], 1, "is sealed").await;
    shop.refused(&["import", &backup, "--check"], 1, "is sealed").await;
    shop.done(&[&["restore", &backup, "--check"][..], &seal].concat()).await;
    let said =
        shop.done(&[&["restore", &backup, "--keys-from", &keys, "--read-models"][..], &seal].concat()).await;
    assert!(said.contains("files of read models are back"), "{said}");
    fs::write(shop.data.join("master.key"), master_key).unwrap();

    shop.process = Some(Process::dev(&shop.data, FLAGS).await.unwrap());
    let connection =
        nats::Connection::connect(&shop.process.as_ref().unwrap().nats_url, "test").await.unwrap();
    settled(&connection, shop.api()).await.unwrap();
    let mut kept = 0;
    for (number, order) in orders.iter().enumerate() {
        // What was placed after the moment of the backup is lost, and nothing but that.
        let found = shop.api().order(*order).await.unwrap();
        match found.status {
            200 => {
                assert_eq!(number, kept, "an order is missing that was placed before one that is there");
                assert_eq!(found.body["status"], "completed");
                kept += 1;
            }
            404 => {}
            status => panic!("{status}"),
        }
    }
    assert!(kept > 6, "{kept} of {}", orders.len());
    // Asked again under its key, what is there is not done again, and what was lost is done now.
    for (number, order) in orders.iter().enumerate() {
        assert_eq!(shop.place(&format!("while-{number}")).await, *order);
    }
    let audit = settled(&connection, shop.api()).await.unwrap();
    assert_eq!(audit.ends(), [("completed", orders.len() + 1)].into());
    let said = shop.done(&["verify"]).await;
    assert!(said.contains("everything agrees"), "{said}");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_interrupted_leaves_the_one_before_as_it_was() {
    let mut shop = Shop::open().await;
    let (backup, keys, key) = (shop.path("backup"), shop.path("keys"), shop.path("key"));
    let folder = Path::new(&backup);
    let seal = ["--key-file", key.as_str()];
    let make = [&["backup", &backup, "--keys-to", &keys][..], &seal].concat();
    let check = [&["restore", &backup, "--check"][..], &seal].concat();
    // The first one is none until it is whole. Timers are written when all segments are.
    let in_the_way = |round: u32| folder.join(format!("FULFILMENT/timers-{round}.jsonl.zst"));
    shop.place("one").await;
    fs::create_dir_all(in_the_way(1)).unwrap();
    shop.refused(&make, 1, "cannot write messages").await;
    shop.refused(&check, 1, "is not whole").await;
    fs::remove_dir(in_the_way(1)).unwrap();
    fs::create_dir(in_the_way(2)).unwrap();
    shop.refused(&make, 1, "cannot write messages").await;
    fs::remove_dir(in_the_way(2)).unwrap();
    shop.done(&make).await;
    let said = shop.done(&check).await;
    let manifest = fs::read(folder.join("manifest.json")).unwrap();

    shop.place("two").await;
    for round in [4, 5] {
        fs::create_dir(in_the_way(round)).unwrap();
        shop.refused(&make, 1, "cannot write messages").await;
        assert_eq!(fs::read(folder.join("manifest.json")).unwrap(), manifest);
        assert_eq!(shop.done(&check).await, said);
        fs::remove_dir(in_the_way(round)).unwrap();
    }
    shop.done(&make).await;
    assert_ne!(shop.done(&check).await, said);
    // Nothing is left of the rounds before but events.
    let left: Vec<_> = files(folder).into_iter().map(|path| path.display().to_string()).collect();
    assert!(left.iter().all(|name| !name.contains("manifest.next")), "{left:?}");
    for name in ["timers-", "PARKED-", "LEDGER_ORDERS-"] {
        assert_eq!(left.iter().filter(|file| file.contains(name)).count(), 1, "{name}: {left:?}");
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_in_a_copy_only_as_long_as_they_are_asked_for() {
    let mut shop = Shop::open().await;
    let copy = shop.path("copy");
    let has_keys = || {
        let mut names = files(Path::new(&copy)).into_iter().map(|path| path.display().to_string());
        names.any(|name| name.contains("PERSONAL_KEYS") || name.contains("CREDENTIALS"))
    };
    shop.done(&["export", &copy, "--keys"]).await;
    assert!(has_keys());
    let elsewhere = shop.path("elsewhere");
    let (code, said) = run(&["import", &copy, "--keys", "--data", &elsewhere]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    shop.done(&["export", &copy]).await;
    assert!(!has_keys());
    shop.refused(&["import", &copy, "--keys"], 64, "the copy has no keys").await;
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_of_one_moment_or_of_none() {
    let mut shop = Shop::open().await;
    let copy = shop.path("copy");
    let manifest = || fs::read(Path::new(&copy).join("manifest.json")).unwrap();
    shop.place("one").await;
    // It may get more streams, and never fewer: those that are left out would stay where they were.
    shop.done(&["export", &copy, "--stream", "ORDERS"]).await;
    shop.done(&["export", &copy, "--stream", "ORDERS"]).await;
    shop.done(&["export", &copy]).await;
    let (before, left) = (manifest(), files(Path::new(&copy)));
    shop.place("two").await;
    for streams in ["ORDERS", "ORDERS,PAYMENTS"] {
        let said = "--stream: the folder holds a copy with";
        shop.refused(&["export", &copy, "--stream", streams], 64, said).await;
        assert!(manifest() == before && files(Path::new(&copy)) == left, "it was touched");
    }
    shop.done(&["import", &copy, "--check"]).await;
    shop.done(&["export", &copy]).await;
    assert_ne!(manifest(), before);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_whole_or_not_ours_is_refused() {
    let mut shop = Shop::open().await;
    let (backup, plain, key, words) = (shop.path("b"), shop.path("p"), shop.path("key"), shop.path("words"));
    shop.place("one").await;
    let sealed = ["--passphrase-file", words.as_str()];
    let other = ["--key-file", key.as_str()];
    shop.done(&[&["backup", &backup][..], &sealed].concat()).await;
    shop.done(&["backup", &plain]).await;
    shop.done(&[&["restore", &backup, "--check"][..], &sealed].concat()).await;
    shop.done(&["restore", &plain, "--check"]).await;
    // What is not sealed could be anybody's; what is sealed stays sealed.
    shop.refused(&[&["restore", &plain, "--check"][..], &sealed].concat(), 1, "is not sealed").await;
    shop.refused(&[&["backup", &plain][..], &sealed].concat(), 1, "is not sealed").await;
    shop.refused(&["backup", &backup], 1, "is sealed").await;
    shop.refused(&[&["restore", &backup, "--check"][..], &other].concat(), 1, "cannot open").await;
    shop.refused(&[&["backup", &backup][..], &other].concat(), 1, "cannot open").await;
    fs::write(&words, "correct horse battery stable\n").unwrap();
    shop.refused(&[&["restore", &backup, "--check"][..], &sealed].concat(), 1, "cannot open").await;
    fs::write(&words, "correct horse battery staple\n").unwrap();
    // Keys are kept apart, and only where they are asked for.
    let inside = format!("{backup}/keys");
    shop.refused(&["backup", &backup, "--keys-to", &inside], 64, "--keys-to").await;
    shop.refused(&[&["restore", &plain, "--read-models"][..], &[]].concat(), 64, "--read-models").await;
    shop.refused(&["backup", &plain, "--key-file", "/nowhere"], 64, "--key-file").await;
    let (url, elsewhere) = (shop.process.as_ref().unwrap().nats_url.clone(), shop.path("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let (code, said) =
        run(&["backup", &plain, "--read-models", "--nats-url", &url, "--data", &elsewhere]).await.unwrap();
    assert!(code == Some(64) && said.contains("no file of a read model"), "{said}");
    let database = ["--database-url", "postgres://a:b@127.0.0.1:1/c"];
    shop.refused(&[&["backup", &plain, "--read-models"][..], &database].concat(), 64, "pg_dump").await;
    let url = shop.process.as_ref().unwrap().nats_url.clone();
    let into = [&["restore", &backup, "--nats-url", &url][..], &sealed].concat();
    shop.refused(&into, 1, "is not empty").await;

    // Cut short at any place, changed, or left out.
    let segment =
        files(Path::new(&backup)).into_iter().find(|path| path.ends_with("ORDERS/000000000001.jsonl.zst"));
    let segment = segment.unwrap();
    let whole = fs::read(&segment).unwrap();
    let check = [&["restore", &backup, "--check"][..], &sealed].concat();
    for length in [0, 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&segment, &whole[..length]).unwrap();
        shop.refused(&check, 1, "is not the file that was written").await;
    }
    fs::remove_file(&segment).unwrap();
    shop.refused(&check, 1, "cannot read").await;
    fs::write(&segment, &whole).unwrap();
    let manifest = Path::new(&backup).join("manifest.json");
    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, &text[..text.len() - 3]).unwrap();
    shop.refused(&check, 1, "cannot open").await;
    fs::write(&manifest, text).unwrap();
    shop.done(&check).await;
    shop.stop().await;
}
