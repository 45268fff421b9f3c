//! Every service's write side in this process, and what the stories do with it.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, header::AUTHORIZATION},
};
use commands::{
    Decision, Environment, Executor, Key, Stop, WriteSide,
    fraud::Fraud,
    fulfilment::Times,
    notifications::Channels,
    orders::UsersService,
    shipping::SimulatedCarrier,
    users::{
        User, UserCommand, UserState,
        tokens::{ACCESS, Issuer, Keys},
    },
};
use events::{
    Actor, CommandId, Context, Metadata, Position, UserId,
    orders::Workflow,
    users::{self, Preferences, UserCreated},
};
use nats::{
    Connection, Durability, Filter, From, KeyRing, MasterKey, Policies, Reader, StoreOptions, Until,
    server::{Binary, Config, Server},
};
use serde_json::{Value, json};
use service::{
    Clock, Metrics, Shutdown,
    auth::{self, Jwks, Role, Verifier},
    breaker::{Breakers, Policy},
    client::Client,
    origin::TrustedProxies,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tempfile::TempDir;
use tower::ServiceExt;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

/// Far more than anything here takes: only a hang gets there.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Who asks, where nobody else is said to.
pub(crate) const OPERATOR: Uuid = Uuid::from_u128(0xA);

/// A nats-server, and a folder that outlives it.
pub(crate) struct Nats {
    pub(crate) server: Server,
    pub(crate) config: Config,
    pub(crate) master_key: MasterKey,
    pub(crate) folder: TempDir,
}

impl Nats {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            durability: Durability::Interval,
            restart: false,
            ..Config::new(Binary::locate(None).await.unwrap(), folder.path())
        };
        let server = Server::start(config.clone()).await.unwrap();
        let port = server.url().rsplit_once(':').unwrap().1.parse().unwrap();
        let master_key = MasterKey::generate();
        Self { server, config: Config { port: Some(port), ..config }, master_key, folder }
    }
}

/// The write sides of all services behind one router. Nothing reacts: a story says itself what happens.
pub(crate) struct Shop {
    pub(crate) connection: Connection,
    pub(crate) clock: Clock,
    pub(crate) keys: KeyRing,
    pub(crate) executors: HashMap<Context, Executor>,
    pub(crate) documentation: OpenApi,
    /// Issues tokens as the users service does.
    pub(crate) issuer: Issuer,
    /// Of [`OPERATOR`].
    token: String,
    router: Router,
    users: Option<WriteSide>,
}

/// The users service that orders ask, at this address. Where there is none they rely on their own copy.
fn users_service(url: Option<String>, metrics: &Metrics) -> UsersService {
    let breaker = Breakers::new(Policy::default(), metrics).of("users");
    let client = Client::new("users", Arc::new(move || url.clone()), breaker, None).unwrap();
    UsersService { client, fresh_for: Duration::from_secs(30) }
}

/// Checks tokens with the keys as they are now.
pub(crate) fn verifier(issuer: &Issuer, clock: &Clock) -> Verifier {
    let (keys, now) = (issuer.keys().clone(), clock.clone());
    let jwks = Jwks::start(move || {
        let (keys, now) = (keys.clone(), now.now());
        async move { Ok(keys.jwks(now).await?) }
    });
    Verifier::new(jwks, clock.clone())
}

/// What was answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Shop {
    pub(crate) async fn open(nats: &Nats) -> Self {
        Self::open_at(nats, Clock::system()).await
    }

    /// With a time that the story sets.
    pub(crate) async fn open_at(nats: &Nats, clock: Clock) -> Self {
        Self::open_with(nats, clock, None).await
    }

    /// With a users service that orders ask.
    pub(crate) async fn open_asking(nats: &Nats, users: String) -> Self {
        Self::open_with(nats, Clock::system(), Some(users)).await
    }

    async fn open_with(nats: &Nats, clock: Clock, users: Option<String>) -> Self {
        let connect = async || Connection::connect(&nats.server.url(), "test").await.unwrap();
        let (connection, metrics) = (connect().await, Metrics::new());
        nats::topology::ensure(&connection, &Context::ALL, 1).await.unwrap();
        let environment = Environment {
            connection: connection.clone(),
            reactions: connect().await,
            policies: Policies::default(),
            store: StoreOptions { timeout: Duration::from_secs(1), ..StoreOptions::default() },
            clock: clock.clone(),
            master_key: nats.master_key.clone(),
            keys: KeyRing::open(&connection, &nats.master_key, 1).await.unwrap(),
            users: users_service(users, &metrics),
            proxies: TrustedProxies::loopback(),
            carrier: Arc::new(SimulatedCarrier::default()),
            fraud: Arc::new(Fraud::default()),
            channels: Channels::outbox(nats.folder.path().join("outbox")),
            workflow: Workflow::default(),
            times: Times::default(),
        };
        let keys = environment.keys.clone();
        let (mut executors, mut all) = (HashMap::new(), OpenApiRouter::new());
        let contexts = [
            Context::Orders,
            Context::Inventory,
            Context::Payments,
            Context::Shipping,
            Context::Notifications,
            Context::Ops,
            Context::Fulfilment,
            // The last one: the only one that reacts.
            Context::Users,
        ];
        let mut sides = Vec::new();
        for context in contexts {
            let side = Box::pin(WriteSide::build(context, &environment, &metrics)).await.unwrap();
            executors.insert(context, side.executor.clone());
            all = all.merge(side.http.clone());
            sides.push(side);
        }
        let (router, documentation) = all.split_for_parts();
        let signing = Keys::open(&connection, &nats.master_key, 1, &clock).await.unwrap();
        let issuer = Issuer::new(signing, clock.clone());
        let token = issuer.issue(OPERATOR, vec![Role::Operator], clock.uuid(), ACCESS).await.unwrap().token;
        let router = auth::layer(router, verifier(&issuer, &clock));
        let router = service::http::layers("shop", router, clock.clone(), &Metrics::new());
        Self { connection, clock, keys, issuer, token, executors, documentation, router, users: sides.pop() }
    }

    /// The users service answers facts from now on, until the shutdown.
    pub(crate) fn react(&mut self, shutdown: &Shutdown) {
        self.users.as_mut().unwrap().react(shutdown);
    }

    /// A token of a customer, as a header.
    pub(crate) async fn customer(&self, user: Uuid) -> String {
        let issued = self.issuer.issue(user, vec![Role::Customer], self.clock.uuid(), ACCESS).await;
        format!("Bearer {}", issued.unwrap().token)
    }

    /// Sends a request, as the operator unless it says otherwise. The stories of users say it always.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        if !["/users", "/sessions"].iter().any(|own| request.uri().path().starts_with(own)) {
            let token = format!("Bearer {}", self.token).parse().unwrap();
            request.headers_mut().entry(AUTHORIZATION).or_insert(token);
        }
        let sent = tokio::time::timeout(DEADLINE, self.router.clone().oneshot(request));
        let (parts, body) = sent.await.expect("an answer").unwrap().into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends JSON with these headers.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, &[], body).await
    }

    /// `POST` under an idempotency key.
    pub(crate) async fn post_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, &[("Idempotency-Key", key)], body).await
    }

    /// `POST` without a body.
    pub(crate) async fn post_nothing(&self, path: &str) -> Answer {
        self.send(Request::post(path).body(Body::empty()).unwrap()).await
    }

    /// Carries out a command as another service would.
    pub(crate) async fn execute(
        &self,
        context: Context,
        command: CommandId,
        run: impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Position {
        let metadata = Metadata {
            command,
            correlation: Uuid::nil().into(),
            causation: Uuid::nil(),
            actor: Actor::CLIENT,
            traceparent: None,
        };
        self.executors[&context].execute(vec![], metadata, run).await.unwrap().position
    }

    pub(crate) fn new_command(&self) -> CommandId {
        CommandId::new(self.clock.uuid())
    }

    /// Where every stream ends.
    pub(crate) async fn ends(&self) -> Vec<u64> {
        let mut ends = Vec::new();
        for context in Context::ALL {
            let filter = Filter::default();
            let reader = Reader::open(&self.connection, context, From::Start, Until::End, filter).await;
            ends.push(reader.unwrap().end().unwrap());
        }
        ends
    }

    /// A product of the catalogue, priced in EUR.
    pub(crate) async fn product(&self, sku: &str, amount: i64) {
        self.post("/products", &product(sku, amount)).await.expect(201);
    }

    /// A user, as far as others need one. No e-mail address is claimed.
    async fn user(&self, user: Uuid) {
        let (user_id, key) = (UserId::new(user), Key::<User>::new(user));
        if self.executors[&Context::Users].state(&key).await.unwrap() != UserState::Unknown {
            return;
        }
        let created = UserCreated {
            user_id,
            name: self.keys.seal(user_id, &"Ada Lovelace".to_owned()).await.unwrap(),
            email: self.keys.seal(user_id, &"ada@example.com".to_owned()).await.unwrap(),
            email_hash: format!("{:064x}", user.as_u128()).parse().unwrap(),
            preferences: Preferences::default(),
            roles: vec![users::Role::Customer],
        };
        let register = UserCommand::Register(Box::new(created));
        let run = move |decision: &mut Decision| {
            decision.need([key.load()])?;
            decision.apply(&key, register.clone())
        };
        self.execute(Context::Users, self.new_command(), run).await;
    }

    /// An account of `user`, who is one from then on, empty.
    pub(crate) async fn account(&self, user: Uuid, currency: &str) -> Uuid {
        self.user(user).await;
        let body = json!({ "userId": user, "currency": currency });
        self.post("/accounts", &body).await.expect(201).id()
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Expects a problem with this status and slug; gives its field.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, slug: &str) -> Option<&str> {
        let kind = self.body["type"].as_str().unwrap_or_default();
        assert_eq!((self.status, kind), (status, &*format!("/problems/{slug}")), "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        self.body["field"].as_str()
    }

    pub(crate) fn id(&self) -> Uuid {
        self.body["id"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Its position, which header and body agree on.
    pub(crate) fn position(&self) -> Position {
        let position: Position = self.header("waybill-position").unwrap().parse().unwrap();
        assert_eq!(serde_json::from_value::<Position>(self.body["position"].clone()).unwrap(), position);
        position
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }
}

pub(crate) fn product(sku: &str, amount: i64) -> Value {
    json!({ "sku": sku, "name": "Tea", "price": { "amount": amount, "currency": "EUR" } })
}

/// An order of `items` for `user`.
pub(crate) fn order(user: Uuid, account: Uuid, items: &[(&str, u32)]) -> Value {
    let items: Vec<_> =
        items.iter().map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity })).collect();
    json!({
        "userId": user,
        "accountId": account,
        "items": items,
        "shippingAddress": {
            "name": "Ada Lovelace",
            "line1": "12 St James's Square",
            "city": "London",
            "postalCode": "SW1Y 4JH",
            "country": "GB",
        },
    })
}
