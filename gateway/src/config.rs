//! What the gateway is told, in one TOML file: its routes, its limits, and how it treats connections.
//!
//! The file is read as a whole and everything wrong with it is said at once. Each number that it may leave out has the
//! default that stands here.

use crate::{
    client_address::ClientAddress,
    cors,
    guard::HeadLimits,
    limit::LimitPolicy,
    proxy::Budget,
    section::{Section, Size},
    table::{Auth, Pattern, Route, Routes},
    upstream::{UpstreamPolicy, policy},
};
use axum::http::Method;
use serde::Deserialize;
use service::{
    auth::Role,
    config::{Faults, Span},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tower_http::cors::CorsLayer;

/// A whole configuration, valid and ready to be used.
#[derive(Debug)]
pub struct Config {
    /// Where requests go.
    pub routes: Routes,
    /// How connections are treated.
    pub(crate) connections: Connections,
    /// How instances of services are chosen, checked and left out. Read at the start only.
    pub upstreams: UpstreamPolicy,
    /// Whom to believe on whose behalf a request comes.
    pub(crate) clients: ClientAddress,
    /// How many wrong tokens may come from one address.
    pub(crate) guesses: LimitPolicy,
    pub(crate) cors: Option<CorsLayer>,
}

/// How connections are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connections {
    /// How many connections there may be at once; more wait to be accepted.
    pub(crate) most: usize,
    /// How long a connection may be idle between requests.
    pub(crate) idle: Duration,
    /// How long the head of a request may take to arrive, from its first byte.
    pub(crate) head: Duration,
    /// The largest head of a request, in bytes.
    pub(crate) head_size: usize,
    /// How long connecting to an instance may take.
    pub(crate) connect: Duration,
    /// After a stop was asked for: how long connections are still accepted, while `/ready` already says no.
    pub(crate) leave: Duration,
    /// How long requests in flight may take after that.
    pub(crate) drain: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            most: 10_000,
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            head_size: 16 * 1024,
            connect: Duration::from_secs(1),
            leave: Duration::from_millis(300),
            drain: Duration::from_secs(10),
        }
    }
}

impl Connections {
    pub(crate) fn head_limits(&self) -> HeadLimits {
        HeadLimits { size: self.head_size, time: self.head }
    }
}

impl Config {
    /// The file that comes with Waybill: its routes, and the article's numbers.
    pub const STANDARD: &str = include_str!("../routes.toml");

    /// The one that comes with Waybill.
    ///
    /// # Panics
    /// Never: it is a part of the program, and a test reads the same text.
    #[expect(clippy::expect_used, reason = "a test reads the same text")]
    pub fn standard() -> Self {
        Self::parse(Self::STANDARD).expect("gateway/routes.toml is valid")
    }

    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let config = match text.parse::<toml::Table>() {
            Ok(table) => read(Section::new("", table, &mut faults)),
            Err(error) => {
                faults.add("the file", error.to_string().trim_end());
                None
            }
        };
        config.filter(|_| faults == Faults::default()).ok_or(faults)
    }
}

/// `None` only where something is wrong.
fn read(mut file: Section<'_>) -> Option<Config> {
    let connections = file.optional::<toml::Table>("connections").unwrap_or_default();
    let connections = read_connections(Section::new("connections", connections, file.faults()));
    let upstreams = policy::read(&mut file);
    let clients = file.optional("clients").unwrap_or_default();
    let cors = file.optional::<toml::Table>("cors");
    let cors = cors.map(|table| cors::read(Section::new("cors", table, file.faults())));

    let limits = file.required::<BTreeMap<String, toml::Table>>("limits").unwrap_or_default();
    let mut policies = HashMap::new();
    for (name, table) in limits {
        let policy = read_limit(&name, Section::new(format!("limits.{name}"), table, file.faults()));
        policies.insert(name, policy);
    }
    let guesses = policies.get(AUTHENTICATION).cloned();
    let guesses = guesses.unwrap_or_else(|| LimitPolicy::new(AUTHENTICATION, 100, QUARTER).ok());
    let routes = read_routes(&mut file, &policies);
    file.finish();
    Some(Config { routes, connections, upstreams, clients, guesses: guesses?, cors })
}

/// The limit of wrong tokens from one address: counted whether it is named or not.
const AUTHENTICATION: &str = "authentication";

/// The usual window.
const QUARTER: Duration = Duration::from_mins(15);

fn read_routes(file: &mut Section<'_>, policies: &HashMap<String, Option<LimitPolicy>>) -> Routes {
    let tables = file.required::<Vec<toml::Table>>("routes").unwrap_or_default();
    if tables.is_empty() {
        file.fault("routes", "there is none");
    }
    let mut budgets = HashMap::new();
    let mut routes: Vec<Arc<Route>> = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let mut section = Section::new(format!("routes[{index}]"), table, file.faults());
        let Some(route) = read_route(&mut section, policies, &mut budgets) else {
            section.finish();
            continue;
        };
        let same = |other: &&Arc<Route>| {
            other.pattern == route.pattern
                && other.methods.iter().any(|method| route.methods.contains(method))
        };
        if routes.iter().any(|other| same(&other)) {
            section.fault("path", format!("another route has {} and one of these methods", route.pattern));
        }
        section.finish();
        routes.push(Arc::new(route));
    }
    Routes::new(routes)
}

fn read_connections(mut section: Section<'_>) -> Connections {
    let default = Connections::default();
    let mut span = |key: &str, default| section.optional(key).map_or(default, |Span(span)| span);
    let idle = span("idle", default.idle);
    let head = span("head", default.head);
    let connect = span("connect", default.connect);
    let leave = span("leave", default.leave);
    let drain = span("drain", default.drain);
    let size = section.optional("head-size").map(|Size(size)| usize::try_from(size).unwrap_or(usize::MAX));
    let head_size = size.unwrap_or(default.head_size);
    let most = section.optional("most").unwrap_or(default.most);
    if most == 0 {
        section.fault("most", "no connection would ever be accepted");
    }
    for (key, span) in [("idle", idle), ("head", head), ("connect", connect)] {
        if span.is_zero() {
            section.fault(key, "no time at all");
        }
    }
    section.finish();
    Connections { most, idle, head, head_size, connect, leave, drain }
}

fn read_limit(name: &str, mut section: Section<'_>) -> Option<LimitPolicy> {
    let quota = section.required::<u32>("quota");
    let window = section.required::<Span>("window");
    if name == UNLIMITED {
        section.fault("name", "is what routes say that have no limit");
    }
    let policy = quota.zip(window).and_then(|(quota, Span(window))| {
        LimitPolicy::new(name, quota, window).map_err(|why| section.fault("quota", why)).ok()
    });
    section.finish();
    policy
}

/// What a route says that is not limited.
const UNLIMITED: &str = "none";

fn read_route(
    section: &mut Section<'_>,
    limits: &HashMap<String, Option<LimitPolicy>>,
    budgets: &mut HashMap<String, Arc<Budget>>,
) -> Option<Route> {
    let pattern = section.required::<String>("path");
    let pattern =
        pattern.and_then(|text| Pattern::parse(&text).map_err(|why| section.fault("path", why)).ok());
    let service = section.required::<String>("service");
    let methods = section
        .required::<Methods>("methods")
        .and_then(|methods| methods.list().map_err(|why| section.fault("methods", why)).ok());
    let (auth, role) = read_access(section);
    let limit = section.required::<String>("limit").and_then(|name| match limits.get(&name) {
        _ if name == UNLIMITED => Some(None),
        // A limit that is itself wrong was noted where it stands.
        Some(policy) => Some(policy.clone()),
        None => {
            section.fault("limit", format!("there is no limit called {name}"));
            None
        }
    });
    let timeout = section.required("timeout").map(|Span(timeout)| timeout);
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        section.fault("timeout", "no time at all");
    }
    let body = section.required("body").map(|Size(body)| body);
    let wait = section.optional("wait").map_or(Duration::ZERO, |Span(wait)| wait);
    let retry = section.required("retry");
    let streaming = section.required("streaming");
    let rewrite = section.optional("rewrite").unwrap_or(true);
    let service = service?;
    Some(Route {
        pattern: pattern?,
        budget: Arc::clone(budgets.entry(service.clone()).or_default()),
        service: service.into(),
        methods: methods?,
        auth: auth?,
        role,
        limit: limit?,
        timeout: timeout?,
        wait,
        body: body?,
        retry: retry?,
        streaming: streaming?,
        rewrite,
    })
}

/// Who may come in.
fn read_access(section: &mut Section<'_>) -> (Option<Auth>, Option<Role>) {
    let auth = section.required::<String>("auth").and_then(|auth| match auth.as_str() {
        "public" => Some(Auth::Public),
        "required" => Some(Auth::Required),
        _ => {
            section.fault("auth", "is public or required");
            None
        }
    });
    let role: Option<Role> = match auth {
        Some(Auth::Required) => section.required("role"),
        _ => section.optional("role"),
    };
    if auth == Some(Auth::Public) && role.is_some() {
        section.fault("role", "a public route asks nobody for a role");
    }
    (auth, role)
}

/// Methods by name, or all that read or write.
#[derive(Deserialize)]
#[serde(untagged, expecting = "is read, write, or a list of methods")]
enum Methods {
    Kind(String),
    List(Vec<String>),
}

impl Methods {
    fn list(self) -> Result<Vec<Method>, String> {
        match self {
            Self::Kind(kind) if kind == "read" => Ok(vec![Method::GET, Method::HEAD]),
            Self::Kind(kind) if kind == "write" => {
                Ok(vec![Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            }
            Self::Kind(kind) => Err(format!("'{kind}' is neither read nor write")),
            Self::List(names) if names.is_empty() => Err("there is none".to_owned()),
            Self::List(names) => names.iter().map(|name| method(name)).collect(),
        }
    }
}

fn method(name: &str) -> Result<Method, String> {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    known.into_iter().find(|method| method == name).ok_or_else(|| format!("there is no method {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_standard_configuration_is_valid_and_has_the_numbers_of_the_article() {
        let config = Config::standard();
        assert_eq!(config.connections, Connections::default());
        assert!(config.cors.is_none());
        assert_eq!(config.connections.leave, Duration::from_millis(300), "somebody can see that it leaves");
        let guesses = &config.guesses;
        assert_eq!(
            (guesses.name(), guesses.quota(), guesses.window().as_secs()),
            ("authentication", 100, 900)
        );
        for route in config.routes.iter() {
            // Operators may ask for many dead letters at once, tables are made, and the log is searched for a while.
            let long = ["/api/ops/dead-letters", "/api/ops/projections", "/api/ops/streams"];
            let many = long.iter().any(|path| route.pattern.to_string().starts_with(path));
            let timeout = Duration::from_secs(if many { 10 } else { 3 });
            assert_eq!(route.timeout, timeout, "{}", route.pattern);
            let limit = route.limit.as_ref().map(|limit| (limit.quota(), limit.window().as_secs()));
            // What never changes between two deployments and costs nothing to answer.
            let open = ["/.well-known/jwks.json", "/schemas", "/asyncapi.json"];
            let open = open.contains(&&*route.pattern.to_string());
            assert_eq!(limit, (!open).then_some((100, 900)), "{}", route.pattern);
        }
    }

    #[test]
    fn everything_wrong_is_said_at_once_and_by_its_key() {
        let said = faults(
            r#"
            colour = "blue"
            [connections]
            idle = "soon"
            most = 0
            [clients]
            trusted-proxies = ["10.0.0.0/99"]
            [cors]
            origins = ["shop.example"]
            [limits.default]
            quota = 0
            window = "15m"
            [limits.none]
            quota = 1
            window = "1s"
            [[routes]]
            path = "api"
            methods = "some"
            auth = "maybe"
            limit = "wide"
            timeout = "0s"
            body = "large"
            retry = "yes"
            roles = ["operator"]
            [[routes]]
            path = "/api/orders"
            service = "orders"
            methods = ["GET", "FETCH"]
            auth = "required"
            limit = "default"
            timeout = "3s"
            body = "1MiB"
            retry = true
            streaming = true
            [[routes]]
            path = "/api/users"
            service = "users"
            methods = []
            auth = "public"
            role = "customer"
            limit = "none"
            timeout = "3s"
            body = "1MiB"
            retry = true
            streaming = true
            "#,
        );
        for line in [
            "  colour: is not known",
            "  connections.idle: expected a time, such as 3s",
            "  connections.most: ",
            "  clients: ",
            "  cors.origins: 'shop.example' is no origin",
            "  limits.default.quota: a quota is at least 1",
            "  limits.none.name: ",
            "  routes[0].path: begins with a slash",
            "  routes[0].service: is missing",
            "  routes[0].methods: 'some' is neither read nor write",
            "  routes[0].auth: is public or required",
            "  routes[0].limit: there is no limit called wide",
            "  routes[0].timeout: no time at all",
            "  routes[0].body: 'large' is no size",
            "  routes[0].retry: invalid type",
            "  routes[0].streaming: is missing",
            "  routes[0].roles: is not known",
            "  routes[1].methods: there is no method FETCH",
            "  routes[1].role: is missing",
            "  routes[2].methods: there is none",
            "  routes[2].role: a public route asks nobody for a role",
        ] {
            assert!(said.contains(line), "{line} is missing in {said}");
        }
        assert!(faults("routes = 7").contains("limits: is missing"));
        assert!(faults("a = ").contains("the file: "));
    }

    #[test]
    fn two_routes_cannot_have_the_same_path_and_method() {
        let route = |methods: &str| {
            format!(
                "[[routes]]\npath = '/api/a'\nservice = 'a'\nmethods = {methods}\nauth = 'public'\nlimit = 'none'\n\
                 timeout = '1s'\nbody = '0B'\nretry = false\nstreaming = false\n"
            )
        };
        let two = |one: &str, other: &str| format!("[limits]\n{}{}", route(one), route(other));
        assert!(Config::parse(&two("'read'", "'write'")).is_ok());
        assert!(faults(&two("'read'", "['GET']")).contains("routes[1].path: another route has /api/a"));
    }

    #[test]
    fn the_most_specific_route_answers() {
        let config = Config::standard();
        let role = |method, path| match config.routes.find(&method, path) {
            crate::Match::Route(route) => (route.service.to_string(), route.role),
            other => panic!("{path}: {other:?}"),
        };
        for (method, path, service, least) in [
            (Method::GET, "/api/products/TEA", "inventory", None),
            (Method::PUT, "/api/products/TEA/price", "inventory", Some(Role::Operator)),
            (Method::POST, "/api/payments/1/refunds", "payments", Some(Role::Operator)),
            (Method::POST, "/api/accounts/1/credits", "payments", Some(Role::Operator)),
            (Method::POST, "/api/accounts", "payments", Some(Role::Customer)),
            (Method::GET, "/api/accounts/1/entries", "payments", Some(Role::Customer)),
            (Method::POST, "/api/shipments/1/dispatch", "shipping", Some(Role::Operator)),
            (Method::GET, "/api/notifications", "notifications", Some(Role::Customer)),
            (Method::POST, "/api/notifications/1_email/redeliver", "notifications", Some(Role::Operator)),
            (Method::POST, "/api/users", "users", None),
            (Method::DELETE, "/api/users/1", "users", Some(Role::Customer)),
            (Method::GET, "/.well-known/jwks.json", "users", None),
            (Method::GET, "/schemas/order.created/2", "operations", None),
            (Method::GET, "/asyncapi.json", "operations", None),
            (Method::GET, "/api/ops/dead-letters", "operations", Some(Role::Operator)),
            (Method::GET, "/api/ops/streams/ORDERS/events/1", "operations", Some(Role::Operator)),
            (Method::POST, "/api/ops/dead-letters/1/retry", "operations", Some(Role::Operator)),
            (Method::GET, "/api/ops/instances", "gateway", Some(Role::Operator)),
        ] {
            assert_eq!(role(method, path), (service.to_owned(), least), "{path}");
        }
        for (method, path) in [(Method::POST, "/api/payments/1"), (Method::PUT, "/api/accounts/1")] {
            assert!(matches!(config.routes.find(&method, path), crate::Match::OtherMethods(_)), "{path}");
        }
    }
}
