//! What each service reads of the events of the others: what it answers, what it keeps copies of and what its read model
//! shows, as the code has them, and of each type what its schema requires. Examples are the recorded bodies of
//! `events/golden`.

use commands::{Aggregate as _, inventory::Product};
use events::{
    Aggregate, Context, Fact, FactType, Position, UserId, envelope::header, schema, users::UserEvent,
};
use nats::Recorded;
use pact_consumer::{
    builders::MessageInteractionBuilder,
    patterns::{EachLike, JsonPattern, Like, Term},
};
use pact_models::{
    generators::Generators,
    matchingrules::{Category, MatchingRule, MatchingRules, RuleLogic},
    path_exp::DocPath,
    v4::async_message::AsynchronousMessage,
};
use projections::{Changes, View};
use regex::Regex;
use serde_json::{Map, Value, json};
use std::{collections::HashMap, fs, path::Path};

/// The types of facts that a service answers, by the context that records them.
pub type Interests = &'static [(Context, &'static [&'static str])];

/// Every service with what it answers, as its code has it.
pub const CONSUMERS: [(&str, Interests); 7] = [
    ("users", commands::users::INTERESTS),
    ("orders", commands::orders::INTERESTS),
    ("payments", commands::payments::INTERESTS),
    ("inventory", commands::inventory::INTERESTS),
    ("shipping", commands::shipping::INTERESTS),
    ("notifications", commands::notifications::INTERESTS),
    ("fulfilment", commands::fulfilment::INTERESTS),
];

/// What orders keep copies of: products as they are, and of users whether they are there, which every fact but the last
/// one says alike.
pub const COPIES: Interests = &[
    (Context::Inventory, &["product.added", "product.repriced"]),
    (Context::Users, &["user.created", "user.erased"]),
];

/// Every consumer with what it reads of each context.
pub fn pairs() -> Vec<(&'static str, Context, Vec<Wanted>)> {
    let mut pairs: Vec<(_, _, Vec<Wanted>)> = Vec::new();
    for (consumer, interests) in CONSUMERS {
        let of = |(context, kinds): &(Context, &[&str])| {
            (consumer, *context, kinds.iter().map(|kind| Wanted::new(consumer, *context, kind)).collect())
        };
        pairs.extend(interests.iter().map(of));
    }
    let copied =
        COPIES.iter().flat_map(|(context, kinds)| kinds.iter().map(|kind| ("orders", *context, *kind)));
    let shown = View::ALL.into_iter().flat_map(|view| {
        let others = view.aggregates.iter().filter(|aggregate| aggregate.context().token() != view.name);
        others.flat_map(|aggregate| {
            FactType::of(*aggregate).iter().map(|fact| (view.name, aggregate.context(), fact.name))
        })
    });
    for (consumer, context, kind) in copied.chain(shown) {
        let wanted = Wanted::taken(consumer, context, kind);
        match pairs.iter_mut().find(|(who, of, _)| (*who, *of) == (consumer, context)) {
            Some((_, _, known)) if known.iter().any(|known| known.fact.name == kind) => {}
            Some((_, _, known)) => known.push(wanted),
            None => pairs.push((consumer, context, vec![wanted])),
        }
    }
    pairs
}

const UUID: &str = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";
const VISIBLE: &str = "^[!-~]{1,128}$";

/// A message that a consumer reads: what it is of, and which of those that there are.
#[derive(Clone, Debug)]
pub struct Wanted {
    consumer: &'static str,
    context: Context,
    fact: &'static FactType,
    /// Fields that have to hold these values for the consumer to do something about it.
    pinned: Map<String, Value>,
    /// Whether it is not answered, but taken into a copy or a read model.
    taken: bool,
}

impl Wanted {
    /// A type that a consumer is interested in.
    ///
    /// # Panics
    /// Where there is no such type.
    pub fn new(consumer: &'static str, context: Context, kind: &str) -> Self {
        let mut wanted = Self { taken: false, ..Self::taken(consumer, context, kind) };
        let body = wanted.golden();
        if body.get("workflow").is_some() {
            // The saga reads what became of what it has asked for, the others also what is no saga's.
            let saga = consumer == "fulfilment" || context == Context::Fulfilment;
            let workflow = if saga { "orchestration" } else { "choreography" };
            wanted.pin("workflow", workflow);
        }
        if body.get("step").is_some() {
            let step = if consumer == "payments" { "payment" } else { consumer };
            wanted.pin("step", step);
        }
        wanted
    }

    /// A type that a consumer takes into a copy, or into its read model, whatever it holds.
    ///
    /// # Panics
    /// Where there is no such type.
    pub fn taken(consumer: &'static str, context: Context, kind: &str) -> Self {
        let fact = FactType::all().find(|fact| fact.name == kind);
        let fact = fact.unwrap_or_else(|| panic!("{consumer} is interested in {kind}, which is no fact"));
        Self { consumer, context, fact, pinned: Map::new(), taken: true }
    }

    fn pin(&mut self, field: &str, value: &str) {
        // Notifications are told of every order.
        if self.consumer != "notifications" {
            self.pinned.insert(field.to_owned(), value.into());
        }
    }

    /// What the pact calls it.
    pub fn description(&self) -> String {
        let pinned: Vec<_> = self.pinned.values().filter_map(Value::as_str).collect();
        if pinned.is_empty() {
            self.fact.name.to_owned()
        } else {
            format!("{} ({})", self.fact.name, pinned.join(", "))
        }
    }

    /// Finds it in the log: the parameters of the state "it is recorded".
    fn given(&self) -> Value {
        json!({ "context": self.context.token(), "type": self.fact.name, "where": self.pinned })
    }

    /// Fields that its schema does not require and this consumer does.
    fn needs(&self) -> &'static [&'static str] {
        match (self.consumer, self.fact.name) {
            // A saga begins with the payment.
            ("payments", "process.started") => &["asks"],
            _ => &[],
        }
    }

    /// The body that was recorded once, with what is pinned.
    fn golden(&self) -> Value {
        let (kind, version) = (self.fact.name, self.fact.version);
        let file = format!("../events/golden/{kind}/{version}.json");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut body: Value =
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.pinned.iter().for_each(|(field, value)| body[field] = value.clone());
        body
    }

    /// The interaction of the pact.
    ///
    /// # Panics
    /// Where the type has no schema.
    pub fn interaction(&self) -> AsynchronousMessage {
        let schema = schema::of(self.fact, self.fact.version).unwrap_or_default();
        let (body, golden) = (Body { root: &schema }, self.golden());
        let mut pattern = body.pattern(&schema, &golden);
        if let JsonPattern::Object(fields) = &mut pattern {
            // What need not be there, and this consumer cannot do without.
            let needed = self
                .needs()
                .iter()
                .map(|name| ((*name).to_owned(), body.pattern(&schema["properties"][*name], &golden[*name])));
            fields.extend(needed);
            let pinned =
                self.pinned.iter().map(|(field, value)| (field.clone(), JsonPattern::Json(value.clone())));
            fields.extend(pinned);
        }
        let mut builder = MessageInteractionBuilder::new(self.description());
        builder.given_with_params("it is recorded", &self.given()).json_body(pattern);
        let (mut message, mut rules) = (builder.build(), MatchingRules::default());
        for (name, example, pattern) in self.headers() {
            message.contents.metadata.insert(name.to_owned(), example.into());
            if let Some(pattern) = pattern {
                let mut path = DocPath::root();
                path.push_field(name);
                rules.add_category(Category::METADATA).add_rule(
                    path,
                    MatchingRule::Regex(pattern.to_owned()),
                    RuleLogic::And,
                );
            }
        }
        message
            .contents
            .matching_rules
            .add_rules("metadata", rules.rules_for_category("metadata").unwrap_or_default());
        message.contents.generators = Generators::default();
        message
    }

    /// The headers that a consumer reads, with an example each, and a pattern where others would do.
    fn headers(&self) -> Vec<(&'static str, String, Option<&'static str>)> {
        let id = "0199d3a8-0000-7000-8000-000000000001".to_owned();
        vec![
            (header::SPEC_VERSION, "1.0".to_owned(), None),
            (header::TYPE, self.fact.name.to_owned(), None),
            (header::DATA_SCHEMA, schema::path(self.fact.name, self.fact.version), None),
            (header::SOURCE, format!("/waybill/{}", self.context.token()), None),
            (header::CONTENT_TYPE, "application/json".to_owned(), None),
            (header::ID, id.clone(), Some(UUID)),
            (header::CAUSATION, id.clone(), Some(UUID)),
            (header::COMMAND, id.clone(), Some(UUID)),
            (header::SUBJECT, id, Some(VISIBLE)),
            (header::CORRELATION, "c-1".to_owned(), Some(VISIBLE)),
            (header::ACTOR, "client".to_owned(), Some(VISIBLE)),
            (
                header::TIME,
                "2026-08-01T12:00:00.000000Z".to_owned(),
                Some(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$"),
            ),
            (header::SEQUENCE, "1".to_owned(), Some("^[1-9][0-9]*$")),
        ]
    }

    /// Reads the message with the consumer's own code, and whether the consumer does something about it.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn consume(&self, message: &AsynchronousMessage) -> bool {
        let metadata: HashMap<_, _> = message
            .contents
            .metadata
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect();
        let envelope = events::Envelope::read_headers(|name| metadata.get(name).copied());
        let envelope = envelope.unwrap_or_else(|error| panic!("{}: {error}", self.fact.name));
        let aggregate = Aggregate::ALL
            .into_iter()
            .find(|aggregate| FactType::of(*aggregate).iter().any(|fact| fact.name == envelope.kind));
        let aggregate = aggregate.unwrap_or_else(|| panic!("{} is of no aggregate", self.fact.name));
        let body = message.contents.contents.value().unwrap_or_default();
        let fact = Fact::from_json(aggregate, &envelope.kind, envelope.schema, &body);
        let fact = fact.unwrap_or_else(|error| panic!("{}: {error:?}", self.fact.name));
        if !self.taken {
            return answers(self.consumer, &fact);
        }
        let subject = aggregate.subject(&envelope.subject);
        let position = Position { context: self.context, sequence: 1 };
        let recorded = Recorded { position, subject, stored: envelope.time, envelope, fact };
        takes(self.consumer, aggregate, &recorded)
    }
}

/// Whether a fact changes what a service shows or keeps.
fn takes(consumer: &str, aggregate: Aggregate, recorded: &Recorded) -> bool {
    if let Some(view) = View::of(consumer).filter(|view| view.aggregates.contains(&aggregate)) {
        let mut changes = Changes::default();
        (view.project)(recorded, &mut changes);
        return !changes.is_empty();
    }
    match &recorded.fact {
        // Each fact of a product holds the whole product.
        Fact::Product(event) => Product::evolve(None, event).is_some(),
        Fact::User(_) => recorded.subject.id().parse::<UserId>().is_ok(),
        _ => false,
    }
}

/// Whether a service does something about a fact: its `react`, where it has one.
fn answers(consumer: &str, fact: &Fact) -> bool {
    match consumer {
        "users" => matches!(fact, Fact::User(UserEvent::Erased(_))),
        "orders" => commands::orders::react(fact).is_some(),
        "payments" => commands::payments::react(fact).is_some(),
        "inventory" => commands::inventory::react(fact).is_some(),
        "shipping" => commands::shipping::react(fact).is_some(),
        // What is to be told again is found by the notification that the fact is of.
        "notifications" => {
            matches!(fact, Fact::Notification(_)) || commands::notifications::react(fact).is_some()
        }
        "fulfilment" => commands::fulfilment::react(fact, 1).is_some(),
        other => panic!("nobody knows how {other} reads"),
    }
}

/// The body of a message as a pattern: what the schema requires, each value of its type.
struct Body<'a> {
    root: &'a Value,
}

impl Body<'_> {
    fn pattern(&self, schema: &Value, example: &Value) -> JsonPattern {
        let schema = self.resolved(schema);
        let options = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
        if let Some(options) = options {
            let names: Option<Vec<_>> = options.iter().map(|option| option["const"].as_str()).collect();
            return match names {
                Some(names) => term(&format!("^({})$", names.join("|")), example),
                None => self.pattern(self.fitting(options, example), example),
            };
        }
        match example {
            Value::Object(fields) => {
                let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let field = |name: &str| {
                    let value = fields.get(name)?;
                    Some((name.to_owned(), self.pattern(&schema["properties"][name], value)))
                };
                JsonPattern::Object(required.filter_map(field).collect())
            }
            Value::Array(items) if !items.is_empty() => {
                JsonPattern::pattern(EachLike::new(self.pattern(&schema["items"], &items[0])))
            }
            Value::String(_) if schema["format"] == "uuid" => term(UUID, example),
            Value::String(_) if schema["pattern"].is_string() => {
                term(schema["pattern"].as_str().unwrap_or_default(), example)
            }
            other => JsonPattern::pattern(Like::<JsonPattern>::new(JsonPattern::Json(other.clone()))),
        }
    }

    fn resolved<'b>(&'b self, schema: &'b Value) -> &'b Value {
        let target = schema["$ref"].as_str().and_then(|name| self.root.pointer(name.trim_start_matches('#')));
        target.unwrap_or(schema)
    }

    /// The option that an example is of: the one all of whose required fields it has.
    fn fitting<'b>(&'b self, options: &'b [Value], example: &Value) -> &'b Value {
        let fits = |option: &&Value| {
            let mut required = self.resolved(option)["required"].as_array().into_iter().flatten();
            option["type"] != "null"
                && required.all(|name| name.as_str().is_some_and(|name| example.get(name).is_some()))
        };
        options.iter().find(fits).unwrap_or(&Value::Null)
    }
}

fn term(pattern: &str, example: &Value) -> JsonPattern {
    let regex = Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    JsonPattern::pattern(Term::<JsonPattern>::new(regex, example.as_str().unwrap_or_default()))
}
