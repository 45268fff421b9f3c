//! The head of a request, read as strictly as RFC 9112 allows.
//!
//! Request smuggling lives on heads that two readers frame differently. Every form that is known for it is refused here,
//! before the HTTP library sees a byte of it: what it would repair silently, such as two lengths or a bare line feed, is
//! an attack or a broken client.

use service::Problem;
use std::time::Duration;

/// More header lines than this are refused.
const MAX_HEADERS: usize = 100;

/// What follows a head that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// The next request.
    Nothing,
    /// A body of so many bytes.
    Length(u64),
    /// A body in chunks.
    Chunks,
    /// Another protocol, if the upgrade is granted.
    Upgrade,
}

/// Why a head was refused. The connection ends with the answer: nobody knows where the next request would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It breaks the grammar, or can be framed in two ways.
    Malformed(&'static str),
    /// It is larger than allowed, or has too many lines.
    TooLarge,
    /// It did not arrive in time.
    Slow(Duration),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        use axum::http::StatusCode;
        match refusal {
            Refusal::Malformed(what) => {
                Self::bad_request("malformed-request", format!("The request cannot be read: {what}."))
            }
            Refusal::TooLarge => Self::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "The request line and the headers are larger than allowed.",
            ),
            Refusal::Slow(limit) => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "request-timeout",
                format!("The headers did not arrive within {limit:?}."),
            ),
        }
    }
}

/// Reads a whole head, from the method to the empty line.
pub(super) fn inspect(head: &[u8]) -> Result<Follows, Refusal> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(Refusal::Malformed("the head does not end"))?;
    let mut lines = Lines(Some(text));
    let newer = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for (index, line) in lines.enumerate() {
        if index == MAX_HEADERS {
            return Err(Refusal::TooLarge);
        }
        fields.read(line)?;
    }
    fields.follows(newer)
}

/// Lines between CRLFs. That none stands alone was checked while the head arrived.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let end = rest.iter().position(|byte| *byte == b'\r');
        self.0 = end.and_then(|end| rest.get(end + 2..));
        Some(&rest[..end.unwrap_or(rest.len())])
    }
}

/// `GET /path HTTP/1.1`, with one space each. Says whether it is 1.1 and not 1.0.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next()) else {
        return Err(Refusal::Malformed("the request line has not exactly three parts"));
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::Malformed("the method is no token"));
    }
    if method == b"CONNECT" {
        return Err(Refusal::Malformed("this is not a forward proxy"));
    }
    // Only the origin form: the absolute form would bring a second host, beside the header.
    if target.first() != Some(&b'/') {
        return Err(Refusal::Malformed("the target is not a path"));
    }
    if !target.iter().all(|byte| is_target(*byte)) {
        return Err(Refusal::Malformed("the target contains a character that a URI may not"));
    }
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        _ => Err(Refusal::Malformed("the version is neither HTTP/1.1 nor HTTP/1.0")),
    }
}

/// What frames the request, gathered line by line.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    websocket: bool,
}

impl Fields {
    fn read(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Refusal::Malformed("a header is folded over two lines"));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or(Refusal::Malformed("a header line has no colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // A space before the colon is none of a token: some read it as part of the name, some do not.
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Refusal::Malformed("the name of a header is no token"));
        }
        if value.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control()) {
            return Err(Refusal::Malformed("the value of a header contains a control character"));
        }
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Refusal::Malformed("it has two lengths"));
            }
            self.length = Some(length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed("the only transfer encoding is chunked, named once"));
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.upgrade |= has_token(value, b"upgrade");
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.websocket |= has_token(value, b"websocket");
        }
        Ok(())
    }

    fn follows(&self, newer: bool) -> Result<Follows, Refusal> {
        match self.hosts {
            1 => {}
            0 if !newer => {}
            0 => return Err(Refusal::Malformed("it names no host")),
            _ => return Err(Refusal::Malformed("it names two hosts")),
        }
        if self.upgrade && self.websocket && newer {
            if self.chunked || self.length.is_some_and(|length| length > 0) {
                return Err(Refusal::Malformed("a request to upgrade has a body"));
            }
            return Ok(Follows::Upgrade);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::Malformed("it has a length and is chunked")),
            (true, None) if !newer => Err(Refusal::Malformed("HTTP/1.0 knows no chunks")),
            (true, None) => Ok(Follows::Chunks),
            (false, Some(0) | None) => Ok(Follows::Nothing),
            (false, Some(length)) => Ok(Follows::Length(length)),
        }
    }
}

/// Digits only: neither a sign nor a list. At most 18 of them, so that no reader's integer is too small.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    number.ok_or(Refusal::Malformed("the length is no number"))
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(token))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a path and a query are made of (RFC 3986).
fn is_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Follows, Refusal> {
        inspect(format!("{head}\r\n\r\n").as_bytes())
    }

    #[test]
    fn honest_heads_pass() {
        for (head, follows) in [
            ("GET / HTTP/1.1\r\nHost: x", Follows::Nothing),
            ("GET /a?b=c&d=%20 HTTP/1.0", Follows::Nothing),
            ("POST /a HTTP/1.1\r\nhost:x\r\ncontent-length:  12 ", Follows::Length(12)),
            ("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0", Follows::Nothing),
            ("PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked", Follows::Chunks),
            (
                "GET /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket",
                Follows::Upgrade,
            ),
            // Protocols that are not passed on are no upgrade, and the request is one like any other.
            (
                "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
                Follows::Nothing,
            ),
            ("GET /a HTTP/1.1\r\nHost: x\r\nX-Name: caf\u{e9}", Follows::Nothing),
        ] {
            assert_eq!(read(head), Ok(follows), "{head}");
        }
    }

    #[test]
    fn heads_that_can_be_framed_in_two_ways_do_not() {
        for head in [
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \u{b}chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:",
            "POST / HTTP/1.1\r\nHost: x\r\n Transfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nX: y\r\n z",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 4",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +4",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -4",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x4",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4 4",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: y",
            "GET / HTTP/1.1\r\nHost: x\r\nno colon",
            "GET / HTTP/1.1\r\nHost: x\r\n: empty",
            "GET / HTTP/1.1\r\nHost: x\r\na b: c",
            "GET / HTTP/1.1\r\nHost: x\0y",
            "GET http://y/ HTTP/1.1\r\nHost: x",
            "GET * HTTP/1.1\r\nHost: x",
            "CONNECT y:443 HTTP/1.1\r\nHost: x",
            "GET /a b HTTP/1.1\r\nHost: x",
            "GET  / HTTP/1.1\r\nHost: x",
            "GET /\t HTTP/1.1\r\nHost: x",
            "GET /a\\b HTTP/1.1\r\nHost: x",
            "GET /caf\u{e9} HTTP/1.1\r\nHost: x",
            "GET /#a HTTP/1.1\r\nHost: x",
            "GET /",
            "GET / HTTP/2.0\r\nHost: x",
            "GET / http/1.1\r\nHost: x",
            "G(T / HTTP/1.1\r\nHost: x",
            "",
            "GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 4",
            "GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
        ] {
            assert!(matches!(read(head), Err(Refusal::Malformed(_))), "{head:?}: {:?}", read(head));
        }
        let many = format!("GET / HTTP/1.1\r\nHost: x{}", "\r\na: b".repeat(100));
        assert_eq!(read(&many), Err(Refusal::TooLarge));
    }
}
