//! What the headers of an event must say.

use events::{Aggregate, Envelope, envelope::header};
use nats::{Message, Raw};

/// Everything that is wrong with the headers of an event; and its envelope, where that can be read.
pub(super) fn check(repeated: Option<String>, event: &Message) -> (Vec<String>, Option<Envelope>) {
    let mut faults: Vec<String> = repeated.map(|name| format!("{name} is there twice")).into_iter().collect();
    // The server would take what a timer becomes for a repetition of the timer.
    let without_id = event.subject.aggregate() == Aggregate::Timer;
    for name in header::ALWAYS {
        if event.header(name).is_none() && !(without_id && name == header::MSG_ID) {
            faults.push(format!("{name} is missing"));
        }
    }
    if let Some(trace) = event.header(header::TRACEPARENT).filter(|trace| !is_traceparent(trace)) {
        faults.push(format!("{} is malformed: {} bytes", header::TRACEPARENT, trace.len()));
    }
    let envelope = match event.envelope() {
        Ok(envelope) => envelope,
        Err(error) => {
            if faults.is_empty() {
                faults.push(error.to_string());
            }
            return (faults, None);
        }
    };
    // What the code would write for the same envelope, of the aggregate that the subject names.
    let expected = Envelope { subject: event.subject.id().into(), ..envelope.clone() };
    expected.write_headers(event.position.context, |name, value| {
        if let Some(found) = event.header(name).filter(|found| name != header::TIME && *found != value) {
            faults.push(format!("{name} is {found}, not {value}"));
        }
    });
    (faults, Some(envelope))
}

/// The first header that is there twice.
pub(super) fn repeated(raw: &Raw) -> Option<String> {
    let headers = raw.headers();
    headers.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| pair[0].0.to_owned())
}

/// `00-<32 hex>-<16 hex>-<2 hex>`.
fn is_traceparent(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let hex = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    hex && lengths.eq([2, 32, 16, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_four_groups_of_hex() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in ["", "00-1-2-3", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
