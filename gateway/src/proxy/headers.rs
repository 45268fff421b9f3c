//! Headers that end at the gateway, and those that say where a request came from.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use service::origin::CLIENT_ADDRESS;
use std::net::{IpAddr, SocketAddr};

/// Headers that concern one connection and not the message (RFC 9110, section 7.6.1), beside those that `Connection`
/// names.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What only a proxy in front of us may say.
const FROM_PROXIES: [HeaderName; 7] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
];

/// Whether the request asks for `WebSocket`, the only protocol that is passed on.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Takes out what concerns this connection only.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Gives a path that the service names as `Location` the prefix that its requests have lost on their way.
pub(super) fn relocate(headers: &mut HeaderMap, prefix: &str) {
    let path = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    // `//host/path` is another place, and so is a whole URL.
    let path = path.filter(|path| path.starts_with('/') && !path.starts_with("//"));
    if let Some(whole) = path.and_then(|path| HeaderValue::try_from(format!("{prefix}{path}")).ok()) {
        headers.insert(header::LOCATION, whole);
    }
}

/// Says where the request came from. What it says itself of that is believed only where the peer is one of our proxies;
/// who the client is says the gateway alone.
pub(super) fn forwarded(headers: &mut HeaderMap, peer: (SocketAddr, &str), client: IpAddr, trusted: bool) {
    let (peer, scheme) = peer;
    let host = headers.remove(header::HOST);
    if !trusted {
        for name in &FROM_PROXIES {
            headers.remove(name);
        }
    }
    headers.remove(CLIENT_ADDRESS);
    if let Ok(client) = HeaderValue::try_from(client.to_string()) {
        headers.insert(CLIENT_ADDRESS, client);
    }
    let address = peer.ip().to_canonical();
    append(headers, X_FORWARDED_FOR, &address.to_string());
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let quoted = host.replace(['"', '\\'], "");
    append(headers, header::FORWARDED, &format!("for={};host=\"{quoted}\";proto={scheme}", node(address)));
    for (name, value) in [(X_FORWARDED_HOST, host), (X_FORWARDED_PROTO, scheme)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// Adds to the end of a list.
fn append(headers: &mut HeaderMap, name: HeaderName, last: &str) {
    let before: Vec<_> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
    let whole = if before.is_empty() { last.to_owned() } else { format!("{}, {last}", before.join(", ")) };
    if let Ok(value) = HeaderValue::try_from(whole) {
        headers.insert(name, value);
    }
}

/// An address as `Forwarded` writes it (RFC 7239, section 6).
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_location_is_where_the_client_finds_it() {
        for (named, found) in [
            ("/orders/1", "/api/orders/1"),
            ("//elsewhere/1", "//elsewhere/1"),
            ("https://elsewhere/1", "https://elsewhere/1"),
        ] {
            let mut answer = headers(&[("location", named)]);
            relocate(&mut answer, "/api");
            assert_eq!(answer["location"], found);
        }
    }

    #[test]
    fn what_concerns_the_connection_ends_here() {
        let mut sent = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "close"),
            ("authorization", "Bearer x"),
            ("content-length", "3"),
        ]);
        strip(&mut sent);
        let left: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["authorization", "content-length"]);
    }

    #[test]
    fn a_client_cannot_say_where_it_came_from() {
        let invented = [
            ("host", "shop.example"),
            ("x-forwarded-for", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "1.1.1.1"),
            ("waybill-client-address", "1.1.1.1"),
        ];
        let mut sent = headers(&invented);
        forwarded(
            &mut sent,
            ("[2001:db8::7]:5000".parse().unwrap(), "http"),
            "2001:db8::7".parse().unwrap(),
            false,
        );
        assert_eq!(sent["waybill-client-address"], "2001:db8::7");
        assert_eq!(sent["x-forwarded-for"], "2001:db8::7");
        assert_eq!(sent["forwarded"], "for=\"[2001:db8::7]\";host=\"shop.example\";proto=http");
        assert_eq!(
            (&sent["x-forwarded-host"], &sent["x-forwarded-proto"]),
            (&"shop.example".parse().unwrap(), &"http".parse().unwrap())
        );
        for gone in ["host", "x-real-ip", "x-forwarded-port"] {
            assert!(!sent.contains_key(gone), "{gone}");
        }

        let mut sent = headers(&invented);
        forwarded(
            &mut sent,
            ("[::ffff:10.0.0.1]:5000".parse().unwrap(), "https"),
            "192.0.2.7".parse().unwrap(),
            true,
        );
        assert_eq!(sent["waybill-client-address"], "192.0.2.7", "also from a proxy of ours");
        assert_eq!(sent["x-forwarded-for"], "1.1.1.1, 10.0.0.1");
        assert_eq!(sent["forwarded"], "for=1.1.1.1, for=10.0.0.1;host=\"shop.example\";proto=https");
        assert_eq!(
            (&sent["x-forwarded-host"], &sent["x-forwarded-proto"]),
            (&"evil.example".parse().unwrap(), &"https".parse().unwrap())
        );
    }
}
