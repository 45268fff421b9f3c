//! What orders know of products and accounts: their own copies, read from the log when first asked for and kept up to
//! date by the facts of the catalogue. Prices come from here, never from the client.

use crate::{
    Aggregate, ExecuteError, Executor, Key,
    inventory::{Product, ProductState},
    payments::Account,
};
use events::{AccountId, Context, Currency, Fact, Money, Sku, UserId, inventory::ProductEvent};
use lru::LruCache;
use nats::{Connection, Filter, From, Reader, ReplayError, Until};
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Whose facts keep the copies up to date.
pub(super) const FOLLOWED: events::Aggregate = events::Aggregate::Product;
/// Products and accounts kept in memory. (The compiler evaluates the `expect`.)
const KEPT: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");

/// How long to wait before trying again to read what is no event.
const AGAIN: Duration = Duration::from_secs(5);

/// A product as orders see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductCopy {
    /// What it is called.
    pub name: String,
    /// Price of one.
    pub price: Money,
}

/// What never changes of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountCopy {
    /// Whose it is.
    pub user_id: UserId,
    /// Its currency.
    pub currency: Currency,
}

/// The copies. Cheap to clone.
#[derive(Clone)]
pub struct Copies {
    executor: Executor,
    kept: Arc<Mutex<Kept>>,
}

struct Kept {
    /// Each with the sequence of the fact it is from, so that an older one never replaces it.
    products: LruCache<Sku, (u64, Arc<ProductCopy>)>,
    accounts: LruCache<AccountId, AccountCopy>,
}

impl Copies {
    /// Copies that read through `executor`, and what keeps them up to date: it runs for ever. The following begins
    /// before anything can be read, so that no change falls between the two.
    pub(crate) async fn start(
        executor: Executor,
        connection: &Connection,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), ReplayError> {
        let filter = Filter { subject: Some(FOLLOWED.filter()), ..Filter::default() };
        let reader = Reader::open(connection, Context::Inventory, From::Now, Until::Forever, filter).await?;
        let kept = Kept { products: LruCache::new(KEPT), accounts: LruCache::new(KEPT) };
        let copies = Self { executor, kept: Arc::new(Mutex::new(kept)) };
        Ok((copies.clone(), copies.follow(reader)))
    }

    /// A product; `fresh` reads it from the log even where it is kept.
    pub async fn product(&self, sku: &Sku, fresh: bool) -> Result<Option<Arc<ProductCopy>>, ExecuteError> {
        if !fresh && let Some((_, product)) = self.lock().products.get(sku) {
            return Ok(Some(Arc::clone(product)));
        }
        let (state, sequence) = self.executor.read(&Key::<Product>::new(sku)).await?;
        Ok(state.map(|state| self.keep(sku, sequence, state)))
    }

    /// An account; `fresh` reads it from the log even where it is kept.
    pub async fn account(&self, id: AccountId, fresh: bool) -> Result<Option<AccountCopy>, ExecuteError> {
        if !fresh && let Some(account) = self.lock().accounts.get(&id) {
            return Ok(Some(*account));
        }
        let Some(state) = self.executor.state(&Key::<Account>::new(id)).await? else { return Ok(None) };
        let account = AccountCopy { user_id: state.user_id, currency: state.balance.currency };
        self.lock().accounts.put(id, account);
        Ok(Some(account))
    }

    /// Takes every later change of the catalogue into the copies, for ever.
    async fn follow(self, mut reader: Reader) {
        loop {
            match reader.next_batch(1000).await {
                Ok(batch) => batch.iter().for_each(|message| self.take(message)),
                Err(error) => {
                    // What stands before it stays right; what comes behind it cannot be reached before it is mended.
                    tracing::error!(%error, "the catalogue cannot be followed");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn take(&self, message: &nats::Message) {
        let Ok(Fact::Product(event)) = message.fact() else { return };
        let (ProductEvent::Added(_) | ProductEvent::Repriced(_)) = &event;
        // Each fact of a product holds the whole product.
        if let Some(state) = Product::evolve(None, &event) {
            self.keep(&state.sku.clone(), message.position.sequence, state);
        }
    }

    fn keep(&self, sku: &Sku, sequence: u64, state: ProductState) -> Arc<ProductCopy> {
        let mut kept = self.lock();
        match kept.products.get(sku) {
            Some((newer, product)) if *newer > sequence => Arc::clone(product),
            _ => {
                let product = Arc::new(ProductCopy { name: state.name, price: state.price });
                kept.products.put(sku.clone(), (sequence, Arc::clone(&product)));
                product
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every statement leaves the copies valid.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
