//! Names that others gave: attributes of the OpenTelemetry semantic conventions, spelled once. Those of messaging and of
//! CloudEvents are still in development there: when they change, they change here.

/// Method of an HTTP request.
pub const HTTP_METHOD: &str = "http.request.method";
/// Template of the path that matched.
pub const HTTP_ROUTE: &str = "http.route";
/// Status of the answer.
pub const HTTP_STATUS: &str = "http.response.status_code";
/// How often a request was sent before.
pub const HTTP_RESEND: &str = "http.request.resend_count";
/// The host that is asked.
pub const SERVER_ADDRESS: &str = "server.address";
/// The service that is asked.
pub const PEER: &str = "service.peer.name";
/// The name of a service, in its resource.
pub const SERVICE_NAME: &str = "service.name";
/// What the services belong to, in their resources.
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// The process, in its resources.
pub const SERVICE_INSTANCE: &str = "service.instance.id";
/// The program's version, in its resources.
pub const SERVICE_VERSION: &str = "service.version";

/// Which messaging system: always [`NATS`].
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// The value of [`MESSAGING_SYSTEM`].
pub const NATS: &str = "nats";
/// The stream.
pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
/// What is done with a message, in our words.
pub const MESSAGING_OPERATION: &str = "messaging.operation.name";
/// What is done with a message, in theirs: `send` or `process`.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// Who consumes.
pub const MESSAGING_CONSUMER: &str = "messaging.consumer.group.name";
/// Id of the message.
pub const MESSAGING_ID: &str = "messaging.message.id";
/// How many messages there were.
pub const MESSAGING_COUNT: &str = "messaging.batch.message_count";
/// The type of an event, such as `order.created`.
pub const EVENT_TYPE: &str = "cloudevents.event_type";
/// The aggregate of an event.
pub const EVENT_SUBJECT: &str = "cloudevents.event_subject";

/// Who ordered.
pub const ORDER_USER: &str = "order.user_id";
/// How many lines the order has.
pub const ORDER_ITEMS: &str = "order.item_count";
/// Joins everything that one request caused; the log has it too.
pub const CORRELATION: &str = "waybill.correlation_id";
/// What became of a command or a reaction, in a word.
pub const OUTCOME: &str = "waybill.outcome";
/// The read model.
pub const PROJECTION: &str = "waybill.projection";
