//! HTTP: (c) a handler that only publishes, (d) `POST /orders` with everything it does. Both over the same client.

use super::{
    Scale,
    commands::none_failed,
    load::{self, Sample},
    report::{Case, Report, ratio},
    stage::{Stage, address, ask, metadata, placement},
};
use crate::{failure::Failure, system};
use axum::{
    Router,
    body::Bytes,
    http::StatusCode,
    routing::{get, post},
};
use commands::{
    Decision, Environment, Key, WriteSide,
    fraud::Fraud,
    inventory::{Product, ProductCommand},
    orders::{OrderCommand, UsersService},
    payments::{Account, AccountCommand},
    shipping::SimulatedCarrier,
    users::{User, UserCommand},
};
use events::{
    AccountId, Aggregate, Context, Money, Sku, UserId,
    users::{Preferences, Role, UserCreated},
};
use nats::{Durability, KeyRing, Policies, StoreOptions, baseline::Template};
use serde_json::json;
use service::{
    Metrics, Shutdown, auth,
    breaker::{Breakers, Policy},
    client::Client,
    origin::TrustedProxies,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;
use uuid::Uuid;

const CALLERS: [usize; 2] = [64, 256];

pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let shutdown = Shutdown::new();
    let Load { account, user, body } = prepare(&stage).await?;
    let token = stage.token(user).await?;
    let floor = serve(floor(&stage).await?, &shutdown).await?;
    // Whoever is asked for is a user.
    let users = serve(Router::new().route("/users/{id}", get(async || "{}")), &shutdown).await?;
    let orders = serve(orders(&stage, users).await?, &shutdown).await?;
    let operations = scale.of(if durability == Durability::Always { 4_000 } else { 30_000 });
    tracing::debug!(%account, "paying account");
    for callers in CALLERS {
        let (mut only, mut placed) = (vec![], vec![]);
        for _ in 0..scale.rounds {
            only.push(post_all(&floor, &token, callers, operations, &body).await?);
            placed.push(post_all(&orders, &token, callers, operations, &body).await?);
        }
        let case = Case { bench: "commands", durability, callers };
        report.add(case, "(c) axum, publish only", &only, None);
        report.add(case, "(d) POST /orders", &placed, Some(ratio(&placed, &only, "(c)", Some(0.75))));
    }
    shutdown.drain(Duration::from_secs(5)).await;
    stage.close().await;
    Ok(())
}

/// An order to place, and who pays for it.
pub(super) struct Load {
    pub(super) account: Uuid,
    pub(super) user: Uuid,
    pub(super) body: Bytes,
}

/// A product and an account, and an order for them.
pub(super) async fn prepare(stage: &Stage) -> Result<Load, Failure> {
    let (clock, sku): (_, Sku) = (&stage.clock, "TEA-1".parse()?);
    let price = Money::new(1999, "EUR".parse()?);
    let product = Key::<Product>::new(&sku);
    let add = ProductCommand::Add { sku, name: "Green tea".to_owned(), price };
    let run = move |decision: &mut Decision| {
        decision.need([product.load()])?;
        decision.apply(&product, add.clone())
    };
    stage.executor(Context::Inventory).execute(vec![], metadata(clock), run).await?;
    let id = clock.uuid();
    let (user_id, account_id) = (UserId::new(clock.uuid()), AccountId::new(id));
    register(stage, user_id).await?;
    let account = Key::<Account>::new(id);
    let open = AccountCommand::Open { account_id, user_id, currency: price.currency };
    let run = move |decision: &mut Decision| {
        decision.need([account.load()])?;
        decision.apply(&account, open.clone())
    };
    stage.executor(Context::Payments).execute(vec![], metadata(clock), run).await?;
    let body = json!({
        "userId": user_id,
        "accountId": account_id,
        "items": [{ "sku": "TEA-1", "quantity": 2 }],
        "shippingAddress": address(),
    });
    Ok(Load { account: id, user: user_id.uuid(), body: serde_json::to_vec(&body)?.into() })
}

/// A user, as far as orders need one.
async fn register(stage: &Stage, user_id: UserId) -> Result<(), Failure> {
    let keys = KeyRing::open(&stage.connection, &stage.master_key, 1).await?;
    let key = Key::<User>::new(user_id);
    let created = UserCreated {
        user_id,
        name: keys.seal(user_id, &"Ada Lovelace".to_owned()).await?,
        email: keys.seal(user_id, &"ada@example.com".to_owned()).await?,
        email_hash: format!("{:064x}", user_id.uuid().as_u128()).parse()?,
        preferences: Preferences::default(),
        roles: vec![Role::Customer],
    };
    let register = UserCommand::Register(Box::new(created));
    let run = move |decision: &mut Decision| {
        decision.need([key.load()])?;
        decision.apply(&key, register.clone())
    };
    stage.executor(Context::Users).execute(vec![], metadata(&stage.clock), run).await?;
    Ok(())
}

/// The floor: reads the body, publishes an event of the same size, answers.
async fn floor(stage: &Stage) -> Result<Router, Failure> {
    let id = stage.clock.uuid();
    let executor = stage.executor(Context::Orders);
    ask(&executor, &stage.clock, id, true, OrderCommand::Place(Box::new(placement(id)))).await;
    let template = Arc::new(Template::of(&stage.connection, &Aggregate::Order.subject(id)).await?);
    let (connection, clock) = (stage.connection.clone(), stage.clock.clone());
    let publish = move |_body: Bytes| {
        let (template, connection, clock) = (Arc::clone(&template), connection.clone(), clock.clone());
        async move {
            let id = clock.uuid();
            let (subject, id) = (format!("evt.orders.order.{id}"), id.to_string());
            match template.publish(&connection, &subject, &id, 0).await {
                Ok(_) => StatusCode::ACCEPTED,
                Err(_) => StatusCode::SERVICE_UNAVAILABLE,
            }
        }
    };
    Ok(Router::new().route("/orders", post(publish)))
}

/// The write side of orders as it runs everywhere: layers, access tokens, validation, copies, executor.
async fn orders(stage: &Stage, users: String) -> Result<Router, Failure> {
    let env = Environment {
        connection: stage.connection.clone(),
        reactions: stage.connection.clone(),
        policies: Policies::default(),
        store: StoreOptions { durability: stage.durability, ..StoreOptions::default() },
        clock: stage.clock.clone(),
        master_key: stage.master_key.clone(),
        keys: KeyRing::open(&stage.connection, &stage.master_key, 1).await?,
        users: users_service(users)?,
        proxies: TrustedProxies::default(),
        carrier: Arc::new(SimulatedCarrier::default()),
        fraud: Arc::new(Fraud::default()),
        channels: stage.config().channels,
        workflow: events::orders::Workflow::default(),
        times: commands::fulfilment::Times::default(),
    };
    let metrics = Metrics::new();
    let side = Box::pin(WriteSide::build(Context::Orders, &env, &metrics)).await?;
    let (router, _) = side.http.split_for_parts();
    let router = auth::layer(router, system::verifier(&stage.config(), &stage.connection).await?);
    Ok(service::http::layers("orders", router, stage.clock.clone(), &metrics))
}

/// The users service at `url`; its answer is good as long as it is everywhere.
fn users_service(url: String) -> Result<UsersService, Failure> {
    let breaker = Breakers::new(Policy::default(), &Metrics::new()).of("users");
    let client = Client::new("users", Arc::new(move || Some(url.clone())), breaker, None)?;
    Ok(UsersService { client, fresh_for: Duration::from_secs(30) })
}

async fn serve(router: Router, shutdown: &Shutdown) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    shutdown.spawn(service::http::serve(listener, router, shutdown.token(), Duration::from_secs(5)));
    Ok(url)
}

async fn post_all(
    url: &str,
    token: &str,
    callers: usize,
    operations: u64,
    body: &Bytes,
) -> Result<Sample, Failure> {
    let client = reqwest::Client::builder().pool_max_idle_per_host(callers).build()?;
    let failures = Arc::new(AtomicU64::new(0));
    let (url, body, failed) = (format!("{url}/orders"), body.clone(), Arc::clone(&failures));
    let bearer = format!("Bearer {token}");
    let sample = load::run(callers, operations, move |_| {
        let request = client.post(&url).header("content-type", "application/json");
        let request = request.header("authorization", &bearer).body(body.clone());
        let failed = Arc::clone(&failed);
        async move {
            let accepted = match request.send().await {
                Ok(response) => response.status() == StatusCode::ACCEPTED && response.bytes().await.is_ok(),
                Err(_) => false,
            };
            if !accepted {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    none_failed(&failures)?;
    Ok(sample)
}
