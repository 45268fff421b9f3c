//! Events in the JSON format of CloudEvents 1.0, structured mode: for whatever speaks that.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>. Names of extensions are lower-case
//! letters and digits. Numbers that need more than 32 bits are texts, as the specification wants it.

use events::{DecodeError, Envelope, envelope::header};
use nats::Message;
use serde_json::{Value, json};

/// An event with its data as they are to be shown. What is no event is told with what is known of it.
pub(super) fn cloud_event(message: &Message, data: Value) -> Value {
    document(message, message.envelope(), data)
}

fn document(message: &Message, envelope: Result<Envelope, DecodeError>, data: Value) -> Value {
    let (position, context) = (message.position, message.position.context);
    let mut event = json!({
        "specversion": "1.0",
        "id": position.to_string(),
        "source": format!("/waybill/{context}"),
        "type": if message.kind().is_empty() { "unknown" } else { message.kind() },
        "stream": context.stream(),
        "streamsequence": position.sequence.to_string(),
        "storedtime": message.stored,
        "natssubject": message.subject.as_str(),
    });
    match envelope {
        Ok(envelope) => envelope.write_headers(context, |name, value| match name {
            header::MSG_ID => {}
            header::CONTENT_TYPE => event["datacontenttype"] = value.into(),
            // An absolute URI, which the schema's path alone is not.
            header::DATA_SCHEMA => event["dataschema"] = format!("waybill:{value}").into(),
            name => event[name.strip_prefix("ce-").unwrap_or(name)] = value.into(),
        }),
        Err(error) => event["error"] = error.to_string().into(),
    }
    event["data"] = data;
    event
}
