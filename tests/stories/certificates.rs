//! Certificates of NATS and of PostgreSQL, and who signs them, are changed while a service runs: what it shows, and whom it
//! believes, is what the files say when a connection is made.

use nats::{Access, Connection};
use projections::database::Cluster;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use waybill::{
    access::OPERATOR,
    api::{Api, Cart},
    system::Service,
};
use waybill_tests::{ReadModels, Serve, World, eventually, run, settled};

const SOON: Duration = Duration::from_secs(30);

/// A server of PostgreSQL that lets in who shows a certificate of his name, and his own.
struct Guarded(Cluster);

impl Guarded {
    fn start(tls: &Path) -> Self {
        let of = [("cert", "postgres.pem"), ("key", "postgres.key"), ("ca", "ca.pem")];
        let of = of.map(|(what, name)| format!("ssl_{what}_file={}", tls.join(name).display()));
        let cluster = Cluster::start(&["fsync=off", "ssl=on", &of[0], &of[1], &of[2]]).unwrap();
        let guarded = Self(cluster);
        let hosts =
            "hostnossl all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 cert map=roles\n";
        fs::write(guarded.ask("SHOW hba_file"), hosts).unwrap();
        fs::write(guarded.ask("SHOW ident_file"), "roles postgres postgres\nroles orders waybill_orders\n")
            .unwrap();
        guarded.ask("SELECT pg_reload_conf()");
        guarded
    }

    /// What it answers who looks after it.
    fn ask(&self, sql: &str) -> String {
        self.0.sql(&self.0.url("postgres"), sql).unwrap()
    }

    /// The database of orders, made where it is missing, for who shows the certificate of orders.
    async fn orders(&self, tls: &Path) -> String {
        let admin = Self::with(&self.0.url("postgres"), &tls.join("ca.pem"), &tls.join("postgres"));
        // What was written down a moment ago is read by and by.
        let said = eventually("the database is made", SOON, async || {
            let (code, said) = run(&["provision-databases", "orders", "--admin-url", &admin]).await.ok()?;
            (code == Some(0)).then_some(said)
        })
        .await;
        let url = said.lines().find_map(|line| line.strip_prefix("WAYBILL_DATABASE_URL_ORDERS='")).unwrap();
        url.trim_end_matches('\'').replace("postgres.pem", "orders.pem").replace("postgres.key", "orders.key")
    }

    /// A URL for who believes an authority, and shows a certificate.
    fn with(url: &str, ca: &Path, shown: &Path) -> String {
        let (server, _) = url.split_once('?').unwrap();
        let (ca, shown) = (ca.display(), shown.display());
        format!("{server}?sslmode=verify-full&sslrootcert={ca}&sslcert={shown}.pem&sslkey={shown}.key")
    }

    /// Gives it files in the place of those that it has, as `deploy/compose/postgres/start.sh` does, and lets it read them.
    fn renew(&self, tls: &Path) {
        for (setting, name) in
            [("ssl_cert_file", "postgres.pem"), ("ssl_key_file", "postgres.key"), ("ssl_ca_file", "ca.pem")]
        {
            fs::write(self.ask(&format!("SHOW {setting}")), fs::read(tls.join(name)).unwrap()).unwrap();
        }
        self.ask("SELECT pg_reload_conf()");
    }

    /// Ends the connections of services, as the end of an idle one or a restart does.
    fn cut(&self) {
        let all =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'waybill_orders'";
        assert_ne!(self.ask(all), "0");
    }

    /// By which numbers those certificates go that services show on the connections that they have.
    fn shown(&self) -> String {
        let shown = "SELECT string_agg(DISTINCT client_serial::text, ' ') FROM pg_stat_activity \
                     JOIN pg_stat_ssl USING (pid) WHERE usename = 'waybill_orders'";
        self.ask(shown)
    }
}

/// All services, of which orders are a process of their own, on a NATS and a PostgreSQL that ask for certificates.
struct Installation {
    world: World,
    database: Guarded,
    /// The database of orders.
    url: String,
    orders: Serve,
    api: Api,
    cart: Cart,
}

impl Installation {
    async fn start() -> Self {
        let others: Vec<_> = Service::ALL.into_iter().filter(|service| *service != Service::Orders).collect();
        let world = World::of_with_certificates(ReadModels::OnSqlite, &others).await.unwrap();
        let tls = world.certificates();
        let database = Guarded::start(&tls);
        let url = database.orders(&tls).await;
        let at = |path: PathBuf| path.to_str().unwrap().to_owned();
        let seed = at(world.guarded().join("seeds/orders.nk"));
        let [ca, certificate, key] = ["ca.pem", "orders.pem", "orders.key"].map(|name| at(tls.join(name)));
        let flags = ["--nats-nkey-file", &seed, "--nats-ca", &ca, "--nats-cert", &certificate];
        let flags = [&flags[..], &["--nats-key", &key, "--database-url", &url]].concat();
        let orders = Serve::with(&world, "orders", "orders", &flags).unwrap();
        let mut urls = world.api.urls();
        urls.insert("orders".to_owned(), format!("http://{}", orders.address().await));
        let api = Api::at(urls).with_tokens(world.api.tokens().unwrap().clone());
        api.wait_ready(SOON).await.unwrap();
        api.stock_product("p", ("TEA", "Tea", 450), 30).await.unwrap();
        let user_id = api.register("u").await.unwrap();
        let (account_id, _) = api.open_account("a", user_id, 10_000).await.unwrap();
        let items = vec![("TEA".to_owned(), 1)];
        let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
        Self { world, database, url, orders, api, cart }
    }

    /// Lets both servers read their files again.
    fn renew(&self) {
        let pid = self.world.nats.pid().and_then(|pid| Pid::from_raw(pid.try_into().unwrap()));
        kill_process(pid.unwrap(), Signal::HUP).unwrap();
        self.database.renew(&self.world.certificates());
    }

    /// Whether both servers let in who believes this authority and shows these certificates, or neither does.
    async fn let_in(&self, ca: &Path, shown: &Path) -> Option<bool> {
        let shown_as = |role: &str| (shown.join(format!("{role}.pem")), shown.join(format!("{role}.key")));
        let access = self.world.config.access.of(OPERATOR).clone();
        let access = Access { ca: Some(ca.to_owned()), certificate: Some(shown_as(OPERATOR)), ..access };
        let nats = Connection::connect_as(&self.world.nats.url(), "test", &access).await.is_ok();
        let url = Guarded::with(&self.url, ca, &shown.join("orders"));
        let database = self.database.0.sql(&url, "SELECT 1").is_ok();
        (nats == database).then_some(nats)
    }

    /// Every connection ends, and is made again: an order is placed, and carried out.
    async fn goes_on(&mut self, number: usize) {
        self.world.nats.kill().await;
        self.database.cut();
        assert!(self.world.nats.ready(SOON).await);
        self.carries_out(number).await;
    }

    /// One more order is placed, and carried out, by a process that was never started again.
    async fn carries_out(&mut self, number: usize) {
        let key = format!("o{number}");
        eventually("an order is accepted", SOON, async || {
            self.api.place(&key, &self.cart, &[]).await.ok().filter(|answer| answer.status == 202)
        })
        .await;
        let audit = settled(&self.world.connect().await.unwrap(), &self.api).await.unwrap();
        assert_eq!(audit.ends(), [("completed", number)].into());
        assert!(!self.orders.has_ended());
    }
}

/// Puts certificates and keys in the place of those that are there, for servers and for whoever comes to them.
fn put(from: &Path, to: &Path, whose: impl Fn(&str) -> bool) {
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name != "ca.pem" && whose(file.file_stem().unwrap().to_str().unwrap()) {
            fs::copy(&file, to.join(name)).unwrap();
        }
    }
}

/// As docs/security.md says: first everybody believes both authorities, then everybody shows a certificate of the new one, servers
/// first, then nobody believes the old one any more.
#[tokio::test(flavor = "multi_thread")]
async fn those_for_nats_and_postgresql_and_who_signs_them_are_changed_while_a_service_runs() {
    let mut all = Box::pin(Installation::start()).await;
    let used = all.world.certificates();
    let (old, new) = (used.with_file_name("old"), used.with_file_name("new"));
    let (code, said) = run(&["dev-certs", "--out", new.to_str().unwrap()]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    fs::create_dir(&old).unwrap();
    put(&used, &old, |_| true);
    fs::copy(used.join("ca.pem"), old.join("ca.pem")).unwrap();
    let authority = |of: &Path| fs::read_to_string(of.join("ca.pem")).unwrap();
    let server = |name: &str| ["node", "postgres"].contains(&name);
    let become_so = async |all: &Installation, what: &str, (ca, shown): (&Path, &Path), so: bool| {
        eventually(what, SOON, async || (all.let_in(ca, shown).await? == so).then_some(())).await;
    };
    let both = used.with_file_name("both.pem");
    fs::write(&both, authority(&old) + &authority(&new)).unwrap();
    all.carries_out(1).await;
    let shown = all.database.shown();
    assert!(!shown.is_empty() && !shown.contains(' '), "{shown}");
    assert_eq!(all.let_in(&both, &new).await, Some(false));

    // Both are believed, by whoever comes and by the servers.
    fs::copy(&both, used.join("ca.pem")).unwrap();
    all.renew();
    become_so(&all, "the new one is believed", (&both, &new), true).await;
    // The servers show what the new one has signed: they can be reached by who has read the file again.
    put(&new, &used, server);
    all.renew();
    become_so(&all, "the servers have changed", (&old.join("ca.pem"), &old), false).await;
    all.goes_on(2).await;
    assert_eq!(all.database.shown(), shown);

    // So do the others, and nobody else gets in from then on.
    put(&new, &used, |name| !server(name));
    fs::copy(new.join("ca.pem"), used.join("ca.pem")).unwrap();
    all.renew();
    become_so(&all, "the old one is not believed any more", (&both, &old), false).await;
    all.goes_on(3).await;
    let now = all.database.shown();
    assert!(!now.contains(' ') && now != shown, "{now}, and before {shown}");
    assert!(all.world.stop().await);
}
