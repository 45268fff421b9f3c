//! Whose request it is, when it may have come through proxies.
//!
//! Every proxy appends the address it was called from, so a list of addresses is true from the right end as far as the
//! proxies are ours, and anything at all to the left of that: whoever is not trusted may have written it himself. Only
//! one of the two headers is read, the one that the proxies are known to set: a proxy passes the other one on as the
//! client sent it.

use axum::http::{HeaderMap, HeaderName, header};
use serde::Deserialize;
use service::origin::TrustedProxies;
use std::net::{IpAddr, SocketAddr};

/// Finds the address of a client. The default trusts no proxy, so that the peer of the socket is the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ClientAddress {
    /// The networks of proxies that are believed, such as `10.0.0.0/8`.
    pub(crate) trusted_proxies: TrustedProxies,
    /// Where these proxies write whom they serve.
    pub(crate) forwarded_header: ForwardedHeader,
}

/// The header in which a proxy says whom it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses with commas between them.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the parameter `for` of each element.
    Forwarded,
}

impl ClientAddress {
    /// The client of a request: the peer of its socket, or what a trusted peer says of it, the right-most address that
    /// is not a trusted proxy. What cannot be read ends the search: then it is the proxy that passed it on.
    pub(crate) fn of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let lines: Vec<&str> = headers
            .get_all(self.forwarded_header.name())
            .iter()
            // A line that is no text must still end the search: it counts as an address that cannot be read.
            .map(|line| line.to_str().unwrap_or("?"))
            .collect();
        for element in lines.iter().rev().flat_map(|line| elements(line).into_iter().rev()) {
            let Some(address) = self.forwarded_header.address(element) else { break };
            client = address.to_canonical();
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Whether this is one of the proxies that are believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.contains(address)
    }
}

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => header::FORWARDED,
        }
    }

    /// The address in one element of the list.
    fn address(self, element: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => node(element),
            Self::Forwarded => {
                let mut named = split(element, ';').into_iter().filter_map(|pair| {
                    let (name, value) = pair.split_once('=')?;
                    name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
                });
                // Said twice is not said.
                let (value, None) = (named.next()?, named.next()) else { return None };
                node(&unquoted(value)?)
            }
        }
    }
}

/// The elements of one line of a list.
fn elements(line: &str) -> Vec<&str> {
    split(line, ',').into_iter().filter(|element| !element.is_empty()).collect()
}

/// The parts between separators that are not within quotes, without the space around them.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|character| {
        let ends = character == separator && !quoted;
        if !escaped && character == '"' {
            quoted = !quoted;
        }
        escaped = quoted && !escaped && character == '\\';
        ends
    })
    .map(str::trim)
    .collect()
}

/// A token as it is, a quoted string without its quotes and escapes.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let mut text = String::with_capacity(rest.len());
    let mut characters = rest.strip_suffix('"')?.chars();
    while let Some(character) = characters.next() {
        text.push(if character == '\\' { characters.next()? } else { character });
    }
    Some(text)
}

/// An address with or without a port; one of IPv6 in brackets or bare. `unknown`, `_hidden` and garbage are none.
fn node(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(with_port.ip());
    }
    let bracketed = text.strip_prefix('[')?.strip_suffix(']')?;
    bracketed.parse().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn behind(header: ForwardedHeader) -> ClientAddress {
        ClientAddress { trusted_proxies: "10.0.0.0/8,fd00::/8".parse().unwrap(), forwarded_header: header }
    }

    #[track_caller]
    fn client(config: &ClientAddress, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        config.of(peer.parse().unwrap(), &headers).to_string()
    }

    #[track_caller]
    fn x_forwarded_for(lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        client(&behind(ForwardedHeader::XForwardedFor), "10.0.0.1", &lines)
    }

    #[track_caller]
    fn forwarded(line: &str) -> String {
        client(&behind(ForwardedHeader::Forwarded), "10.0.0.1", &[("forwarded", line)])
    }

    #[test]
    fn a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_says() {
        let spoofed = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4")];
        let config = behind(ForwardedHeader::XForwardedFor);
        assert_eq!(client(&config, "198.51.100.7", &spoofed), "198.51.100.7");
        assert_eq!(client(&ClientAddress::default(), "10.0.0.1", &spoofed), "10.0.0.1");
    }

    #[test]
    fn only_what_our_proxies_wrote_counts() {
        assert_eq!(x_forwarded_for(&["203.0.113.9"]), "203.0.113.9");
        // The client wrote the first; our proxy appended where it came from.
        assert_eq!(x_forwarded_for(&["1.2.3.4, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(x_forwarded_for(&["1.2.3.4", "203.0.113.9"]), "203.0.113.9", "lines are one list");
        assert_eq!(x_forwarded_for(&["1.2.3.4, 203.0.113.9, 10.1.1.1"]), "203.0.113.9", "two proxies");
        assert_eq!(x_forwarded_for(&["10.7.7.7, 10.1.1.1"]), "10.7.7.7", "all inside");
        assert_eq!(x_forwarded_for(&[]), "10.0.0.1");
    }

    #[test]
    fn the_header_that_our_proxies_do_not_set_is_never_read() {
        let config = behind(ForwardedHeader::XForwardedFor);
        let both = [("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client(&config, "10.0.0.1", &both), "203.0.113.9");
        assert_eq!(client(&config, "10.0.0.1", &both[..1]), "10.0.0.1");
    }

    #[test]
    fn garbage_is_the_proxy_that_passed_it_on() {
        for garbage in
            ["unknown", "1.2.3", "1.2.3.4:99999", "[::1", "host.example", "\u{fffd}", "1.2.3.4 5.6.7.8"]
        {
            assert_eq!(x_forwarded_for(&[garbage]), "10.0.0.1", "{garbage}");
            assert_eq!(x_forwarded_for(&["203.0.113.9", garbage]), "10.0.0.1", "{garbage}");
            assert_eq!(x_forwarded_for(&[garbage, "10.1.1.1"]), "10.1.1.1", "{garbage}");
        }
        assert_eq!(x_forwarded_for(&["", " , ,203.0.113.9,"]), "203.0.113.9", "empty elements say nothing");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        assert_eq!(x_forwarded_for(&["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(x_forwarded_for(&["2001:db8::7"]), "2001:db8::7");
        assert_eq!(x_forwarded_for(&["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(x_forwarded_for(&["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(x_forwarded_for(&["::ffff:203.0.113.9"]), "203.0.113.9");
        assert_eq!(x_forwarded_for(&["203.0.113.9, fd00::5"]), "203.0.113.9");
        let config = behind(ForwardedHeader::XForwardedFor);
        let line = [("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client(&config, "::ffff:10.0.0.1", &line), "203.0.113.9", "a socket for both families");
    }

    #[test]
    fn rfc_7239_in_all_its_forms() {
        assert_eq!(forwarded("for=203.0.113.9"), "203.0.113.9");
        assert_eq!(forwarded("For=\"203.0.113.9:80\";proto=https;by=10.0.0.1"), "203.0.113.9");
        assert_eq!(forwarded("proto=https; for=\"[2001:db8::7]:4711\""), "2001:db8::7");
        assert_eq!(forwarded("for=1.2.3.4, for=203.0.113.9;host=\"a,for=6.6.6.6\""), "203.0.113.9");
        assert_eq!(forwarded(r#"for=1.2.3.4, host="a\",for=6.6.6.6";for=203.0.113.9"#), "203.0.113.9");
        assert_eq!(forwarded(r#"for="203.0.113.\9""#), "203.0.113.9", "escapes");
        for garbage in [
            "for=unknown",
            "for=_hidden",
            "proto=https",
            "for=\"203.0.113.9",
            "for=1.1.1.1;for=2.2.2.2",
            "for=",
        ] {
            assert_eq!(forwarded(garbage), "10.0.0.1", "{garbage}");
        }
    }

    #[test]
    fn is_read_from_settings() {
        let config: ClientAddress = toml::from_str(
            "trusted-proxies = [\"10.0.0.0/8\", \"fd00::/8\"]\nforwarded-header = \"forwarded\"",
        )
        .unwrap();
        assert_eq!(config, behind(ForwardedHeader::Forwarded));
        assert_eq!(toml::from_str::<ClientAddress>("").unwrap(), ClientAddress::default());
        assert!(toml::from_str::<ClientAddress>("trusted-proxies = [\"10.0.0.0/33\"]").is_err());
    }
}
