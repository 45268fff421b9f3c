//! Tells failures apart by what went wrong, not by whom it happened to.

use sha2::{Digest, Sha256};

/// Bytes of the digest that are shown.
const BYTES: usize = 6;

/// The same for failures that look alike: of the same consumer, at the same type of event, with the same error once
/// ids and numbers are left out of it.
pub(super) fn fingerprint(consumer: &str, kind: Option<&str>, error: &str) -> String {
    let text = [consumer, kind.unwrap_or_default(), &shape(error)].join("\n");
    let digest = Sha256::digest(text);
    digest.iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// An error without what differs from one case to the next: every word with a digit in it is a `#`.
fn shape(error: &str) -> String {
    let word = |part: &str| {
        if part.contains(|c: char| c.is_ascii_digit()) { "#".to_owned() } else { part.to_owned() }
    };
    let mut shape = String::with_capacity(error.len());
    let mut rest = error;
    while let Some(at) = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
        let (part, tail) = rest.split_at(at);
        let separator = tail.chars().next().map_or(0, char::len_utf8);
        shape.push_str(&word(part));
        shape.push_str(&tail[..separator]);
        rest = &tail[separator..];
    }
    shape + &word(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_numbers_do_not_matter_and_everything_else_does() {
        let one = fingerprint("a-b", Some("x.y"), "account 018f3f5e-0000-7000-8000-000000000001 has 12 EUR");
        let two = fingerprint("a-b", Some("x.y"), "account 99999999-0000-7000-8000-000000000002 has 7 EUR");
        assert_eq!(one, two);
        assert_eq!(one.len(), 2 * BYTES);
        for other in [
            fingerprint("a-c", Some("x.y"), "account 1 has 1 EUR"),
            fingerprint("a-b", Some("x.z"), "account 1 has 1 EUR"),
            fingerprint("a-b", None, "account 1 has 1 EUR"),
            fingerprint("a-b", Some("x.y"), "account 1 lacks 1 EUR"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_shape_keeps_everything_between_the_words() {
        assert_eq!(shape("évt.a.1: gone, 2×"), "évt.a.#: gone, #×");
        assert_eq!(shape(""), "");
    }
}
