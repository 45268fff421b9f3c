//! Which paths are let in: only those that everybody behind reads in the same way.
//!
//! A path with dots, doubled or encoded slashes means one thing to the gateway's route table and another to a service
//! that decodes it. Such a path is refused and not repaired: no honest client sends one.

use service::Problem;

/// Refuses a path that could be read in two ways.
pub(crate) fn check(path: &str) -> Result<(), Problem> {
    let refuse = |what: &str| Err(Problem::bad_request("ambiguous-path", format!("The path {what}.")));
    if !path.starts_with('/') {
        return refuse("does not begin with a slash");
    }
    if path.contains('\\') {
        return refuse("contains a backslash");
    }
    // The root has one empty segment, and a path that ends in a slash has one at its end.
    let segments = path[1..].split('/');
    let last = segments.clone().count() - 1;
    for (index, segment) in segments.enumerate() {
        if segment.is_empty() && index != last {
            return refuse("contains an empty segment");
        }
        let decoded = match decode(segment) {
            Ok(decoded) => decoded,
            Err(what) => return refuse(what),
        };
        // A matrix parameter hides dots from those who do not know it: `..;/`.
        let name = decoded.split(|byte| *byte == b';').next().unwrap_or_default();
        if name == b"." || name == b".." {
            return refuse("contains a dot segment");
        }
    }
    Ok(())
}

/// The bytes that a segment stands for; an error where it stands for something that no name contains.
fn decode(segment: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err("contains a percent sign that begins no encoded byte");
            };
            match u8::try_from(high * 16 + low) {
                Ok(b'/') => return Err("contains an encoded slash"),
                Ok(b'\\') => return Err("contains an encoded backslash"),
                // Decoded twice it would become something else.
                Ok(b'%') => return Err("contains an encoded percent sign"),
                Ok(byte) => byte,
                Err(_) => return Err("contains a percent sign that begins no encoded byte"),
            }
        } else {
            byte
        };
        if byte.is_ascii_control() {
            return Err("contains a control character");
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_paths_pass() {
        for path in
            ["/", "/api/orders", "/api/orders/", "/api/products/TEA%201/price", "/a/...", "/a/.b", "/a;v=1/b"]
        {
            assert!(check(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_refused() {
        for path in [
            "",
            "api",
            "*",
            "//",
            "//api/orders",
            "/api//orders",
            "/api/../orders",
            "/api/..",
            "/api/./orders",
            "/api/%2e%2e/orders",
            "/api/%2E./orders",
            "/api/.%2e",
            "/api/..;/orders",
            "/api/..%3b/orders",
            "/api%2forders",
            "/api%2Forders",
            "/api/a%5cb",
            "/api/a\\b",
            "/api/%00",
            "/api/%0d%0a",
            "/api/%7f",
            "/api/%252e%252e/orders",
            "/api/%",
            "/api/%2",
            "/api/%zz",
            "/api/%+1",
        ] {
            let problem = check(path).unwrap_err();
            assert_eq!(problem.kind(), "/problems/ambiguous-path", "{path}");
            assert_eq!(problem.status(), 400);
        }
    }

    proptest! {
        /// However it is written: what passes does not climb once it is decoded.
        #[test]
        fn what_passes_never_climbs(path in r"(/|\.|%2e|%2f|%5c|%25|a|;|\\|%00){0,12}") {
            let path = format!("/{path}");
            if check(&path).is_ok() {
                let decoded = path.replace("%2e", ".");
                prop_assert!(!decoded.contains("//") && !decoded.contains("%2f") && !decoded.contains('\\'));
                prop_assert!(decoded.split('/').all(|segment| segment != ".." && segment != "."));
            }
        }
    }
}
