//! The change feed of read models: its streams, subjects and headers. `view.<service>.<model>.<key>` holds one row as it
//! is after its last change, one token per column of the key; `view.<service>` says how far the feed is.

/// Header of every message: up to where each stream of facts was in the tables when the row was read, as in
/// `ORDERS:42, PAYMENTS:7`. A row may already contain a little more.
pub const POSITION: &str = "Waybill-Position";

/// Header of a row that is gone.
pub const GONE: &str = "Waybill-Gone";

/// Header of a mark behind which the feed begins anew: rows changed before it were not told.
pub const BEGINS: &str = "Waybill-Begins";

/// The stream of a service.
pub fn stream(service: &str) -> String {
    format!("VIEWS_{}", service.to_ascii_uppercase())
}

/// The subject of the mark.
pub fn mark(service: &str) -> String {
    format!("view.{service}")
}

/// The subjects of every row.
pub fn filter(service: &str) -> String {
    format!("view.{service}.>")
}

/// The subject of one row. Each part of its key becomes one token, whatever it holds.
pub fn subject(service: &str, model: &str, key: impl IntoIterator<Item = String>) -> String {
    let key = key.into_iter().map(|part| token(&part)).collect::<Vec<_>>().join(".");
    format!("view.{service}.{model}.{key}")
}

/// Model and key out of the subject of a row; `None` for other subjects.
pub fn parse<'a>(service: &str, subject: &'a str) -> Option<(&'a str, Vec<String>)> {
    let rest = subject.strip_prefix("view.")?.strip_prefix(service)?.strip_prefix('.')?;
    let (model, key) = rest.split_once('.')?;
    let key = key.split('.').map(text).collect::<Option<Vec<_>>>()?;
    (!model.is_empty()).then_some((model, key))
}

/// A text as one token: `A-Z a-z 0-9 _ -` as they are, every other byte as `=` and two hexadecimal digits, nothing as `=`.
pub fn token(text: &str) -> String {
    if text.is_empty() {
        return "=".to_owned();
    }
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
            token.extend(['=', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    token
}

/// The text that a token stands for.
pub fn text(token: &str) -> Option<String> {
    if token == "=" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'=' {
            let (digits, behind) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok().filter(|text| !text.is_empty());
    text.filter(|_| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_has_one_subject_and_the_mark_another() {
        let key = ["TEA.1 *>".to_owned(), String::new()];
        let subject = subject("orders", "things", key.clone());
        assert_eq!(subject, "view.orders.things.TEA=2E1=20=2A=3E.=");
        assert_eq!(parse("orders", &subject), Some(("things", key.to_vec())));
        for other in ["view.orders", "view.orders.things", "view.payments.things.1", "view.orders..x", "x"] {
            assert_eq!(parse("orders", other), None, "{other}");
        }
        assert!(mark("orders") < filter("orders") && stream("orders") == "VIEWS_ORDERS");
    }

    proptest! {
        #[test]
        fn whatever_a_key_holds_is_one_token(content in ".*") {
            let token = token(&content);
            prop_assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b)));
            prop_assert_eq!(text(&token), Some(content));
        }

        #[test]
        fn whatever_a_token_holds_can_be_read(content in "[ -~]*") {
            if let Some(read) = text(&content) {
                prop_assert_eq!(text(&token(&read)), Some(read));
            }
        }
    }
}
