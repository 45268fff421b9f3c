//! The customer of one cell: registers, and places an order of every kind, however often the system dies meanwhile.

use std::time::Duration;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;
use waybill::{
    api::{Api, Cart},
    failure::Failure,
};
use waybill_tests::Process;

/// Orders of a customer: one that is completed, one that the carrier refuses, one that is out of stock, one cancelled.
pub(crate) const ORDERS: usize = 4;

/// Whoever has no luck is killed in every cell up to the last one: only a hang gets there.
const WITHIN: Duration = Duration::from_mins(30);
const PAUSE: Duration = Duration::from_millis(25);

/// Where the services are at this moment, and what they sell.
pub(crate) struct Shop {
    api: watch::Sender<Api>,
}

impl Shop {
    pub(crate) async fn open(process: &Process) -> Self {
        process.api.stock_product("pen", ("PEN", "Pen", 10), 1_000_000).await.unwrap();
        process.api.stock_product("rare", ("RARE", "Rare", 10), 1).await.unwrap();
        Self { api: watch::Sender::new(process.api.clone()) }
    }

    /// The services are elsewhere by now.
    pub(crate) fn moved(&self, process: &Process) {
        self.api.send_replace(process.api.clone());
    }

    /// A new customer with so many orders that can be completed; gives how many were accepted.
    pub(crate) fn orders(&self, name: &str, count: usize) -> JoinHandle<usize> {
        let customer = self.named(name);
        run(async move || {
            let (user_id, account_id) = customer.arrive().await;
            let items = vec![("PEN".to_owned(), 1)];
            for number in 0..count {
                let cart = Cart { user_id, account_id, items: items.clone(), country: "DE".to_owned() };
                customer.place(&number.to_string(), cart).await;
            }
            count
        })
    }

    fn named(&self, name: &str) -> Customer {
        Customer { api: self.api.subscribe(), name: name.replace(['@', '.', ':'], "-") }
    }

    /// A new customer with orders of every kind; gives how many were accepted.
    pub(crate) fn customer(&self, name: &str) -> JoinHandle<usize> {
        let customer = self.named(name);
        run(|| customer.shop())
    }
}

/// Futures that borrow from their callers are not known to be movable: a thread of its own runs them.
fn run<F: Future<Output = usize>>(customer: impl FnOnce() -> F + Send + 'static) -> JoinHandle<usize> {
    tokio::task::spawn_blocking(move || tokio::runtime::Handle::current().block_on(customer()))
}

struct Customer {
    api: watch::Receiver<Api>,
    name: String,
}

impl Customer {
    fn key(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// Registers and opens an account.
    async fn arrive(&self) -> (Uuid, Uuid) {
        let key = self.key("user");
        let user_id = self.insist(async move |api: &Api| api.register(&key).await).await;
        let key = self.key("account");
        let open = async move |api: &Api| Ok(api.open_account(&key, user_id, 10_000).await?.0);
        (user_id, self.insist(open).await)
    }

    async fn place(&self, kind: &str, cart: Cart) -> Uuid {
        let key = self.key(kind);
        self.insist(async move |api: &Api| api.place(&key, &cart, &[]).await?.expect(202, "an order")?.id())
            .await
    }

    async fn shop(self) -> usize {
        let (user_id, account_id) = self.arrive().await;
        let cart = |sku: &str, quantity, country: &str| Cart {
            user_id,
            account_id,
            items: vec![(sku.to_owned(), quantity)],
            country: country.to_owned(),
        };
        let carts = [
            ("completed", cart("PEN", 1, "DE")),
            ("refused", cart("PEN", 2, "AQ")),
            ("short", cart("RARE", 2, "DE")),
            ("cancelled", cart("PEN", 3, "DE")),
        ];
        let mut placed = 0;
        for (kind, cart) in carts {
            let order = self.place(kind, cart).await;
            placed += 1;
            if kind == "cancelled" {
                let key = self.key("cancel");
                self.insist(async move |api: &Api| cancel(api, &key, order).await).await;
            }
        }
        placed
    }

    /// Asks until it is done: the same request under the same key.
    async fn insist<T>(&self, ask: impl AsyncFn(&Api) -> Result<T, Failure>) -> T {
        let deadline = Instant::now() + WITHIN;
        loop {
            // The services may be elsewhere by now.
            let here = self.api.borrow().clone();
            match ask(&here).await {
                Ok(done) => return done,
                Err(failure) => assert!(Instant::now() < deadline, "{}: {failure}", self.name),
            }
            sleep(PAUSE).await;
        }
    }
}

/// It may have ended before.
async fn cancel(api: &Api, key: &str, order: Uuid) -> Result<(), Failure> {
    let answer = api.cancel(key, order).await?;
    if answer.body["type"] == "/problems/order-not-pending" {
        return Ok(());
    }
    answer.expect(202, "a cancellation").map(|_| ())
}
