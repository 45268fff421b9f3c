//! Where a request comes from: the peer of its connection, or whom the gateway says that it speaks for.
//!
//! Anybody can write a header, so it counts only where the peer is a proxy that is trusted. The gateway writes
//! [`CLIENT_ADDRESS`] itself into every request that it passes on, and never passes on what a client wrote there.

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, request::Parts},
};
use ipnet::IpNet;
use serde::Deserialize;
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Once,
};

/// Who the gateway found the client to be: one address, without a port.
pub const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("waybill-client-address");

/// Networks whose members are believed on whose behalf a request comes. The default trusts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// This machine: whoever is on it.
    pub fn loopback() -> Self {
        Self(vec![
            IpNet::new_assert([127, 0, 0, 0].into(), 8),
            IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
        ])
    }

    /// Whether this is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request: whom a trusted peer names, else the peer. `None` where there is no connection.
    pub fn client(&self, peer: Peer, headers: &HeaderMap) -> Option<IpAddr> {
        let Peer(Some(peer)) = peer else { return None };
        let peer = peer.to_canonical();
        let Some(named) = headers.get(CLIENT_ADDRESS) else { return Some(peer) };
        if !self.contains(peer) {
            static SAID: Once = Once::new();
            SAID.call_once(
                || tracing::warn!(header = %CLIENT_ADDRESS, "a peer that is no trusted proxy names a client"),
            );
            return Some(peer);
        }
        let named = named.to_str().ok().and_then(|text| text.parse::<IpAddr>().ok());
        Some(named.map_or(peer, |named| named.to_canonical()))
    }
}

impl FromStr for TrustedProxies {
    type Err = &'static str;

    /// `10.0.0.0/8,fd00::/8`; an address alone is a network of one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let networks = text.split(',').map(|part| network(part.trim())).collect::<Result<_, _>>();
        networks.map(Self).map_err(|_| "expected networks, such as 10.0.0.0/8,fd00::/8")
    }
}

/// All that is one client's: an address of IPv4; of IPv6 the network of its first 64 bits, since a client is given all
/// addresses that share them.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The other end of the connection that a request came by, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let connected = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(Self(connected.map(|ConnectInfo(address)| address.ip())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn client(trusted: &TrustedProxies, peer: &str, named: Option<&'static str>) -> String {
        let mut headers = HeaderMap::new();
        // What others write is not read at all.
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        if let Some(named) = named {
            headers.insert(CLIENT_ADDRESS, HeaderValue::from_static(named));
        }
        trusted.client(Peer(Some(peer.parse().unwrap())), &headers).unwrap().to_string()
    }

    #[test]
    fn only_a_trusted_peer_says_who_the_client_is() {
        let trusted: TrustedProxies = "10.0.0.0/8, ::1".parse().unwrap();
        assert_eq!(client(&trusted, "10.1.2.3", Some("192.0.2.7")), "192.0.2.7");
        assert_eq!(client(&trusted, "::ffff:10.1.2.3", Some("::ffff:192.0.2.7")), "192.0.2.7");
        assert_eq!(client(&trusted, "::1", Some("2001:db8::7")), "2001:db8::7");
        assert_eq!(client(&trusted, "10.1.2.3", None), "10.1.2.3");
        assert_eq!(client(&trusted, "10.1.2.3", Some("nonsense")), "10.1.2.3");
        for stranger in ["192.0.2.1", "127.0.0.1", "::2"] {
            assert_eq!(client(&trusted, stranger, Some("192.0.2.7")), stranger);
        }
        assert_eq!(client(&TrustedProxies::loopback(), "127.0.0.1", Some("192.0.2.7")), "192.0.2.7");
        assert_eq!(client(&TrustedProxies::default(), "127.0.0.1", Some("192.0.2.7")), "127.0.0.1");
        assert_eq!(trusted.client(Peer(None), &HeaderMap::new()), None);
    }

    #[test]
    fn networks_are_read_and_faults_are_not() {
        assert_eq!("127.0.0.0/8,::1/128".parse(), Ok(TrustedProxies::loopback()));
        for bad in ["", "10.0.0.0/33", "gateway", "10.0.0.0/8,,"] {
            assert!(bad.parse::<TrustedProxies>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let of = |address: &str| network_of(address.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:ffff::9"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
