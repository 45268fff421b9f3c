//! Makes a service known to others for as long as it can serve.

use super::{Config, Service};
use crate::failure::Failure;
use axum::http::{Uri, uri::Scheme};
use nats::{Connection, Instance, InstanceId, Registration, RegistryOptions};
use service::{Check, Shutdown};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};
use tokio::{net::UdpSocket, time::sleep};

/// Pause before asking again whether the service is ready, and before trying again to make it known.
const AGAIN: Duration = Duration::from_millis(100);

/// Where others reach the services of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    scheme: Scheme,
    host: String,
    /// Where it is not the one that the service listens on.
    port: Option<u16>,
}

impl Advertise {
    /// Whether it can stand for one service only.
    pub const fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Whether it says that TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

impl FromStr for Advertise {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected http://HOST or http://HOST:PORT, or https";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let place = uri.path() == "/" && uri.query().is_none();
        let scheme = uri.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
        match (scheme, uri.authority()) {
            (Some(scheme), Some(authority)) if place && !authority.as_str().contains('@') => Ok(Self {
                scheme: scheme.clone(),
                host: authority.host().to_owned(),
                port: authority.port_u16(),
            }),
            _ => Err(EXPECTED),
        }
    }
}

/// A service that others are to know.
pub(super) struct Presence {
    connection: Connection,
    instance: Instance,
    options: RegistryOptions,
    ready: Check,
    shutdown: Shutdown,
}

impl Presence {
    /// Finds out where others reach the service.
    pub(super) async fn of(
        service: Service,
        config: &Config,
        connection: &Connection,
        address: SocketAddr,
        ready: Check,
        shutdown: &Shutdown,
    ) -> Result<Self, Failure> {
        let url = if let Some(Advertise { scheme, host, port }) = &config.advertise {
            format!("{scheme}://{host}:{}", port.unwrap_or(address.port()))
        } else {
            let mut reached = address;
            if address.ip().is_unspecified() {
                reached.set_ip(towards(&config.nats_url).await?);
            }
            let scheme = if config.tls.listen.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            format!("{scheme}://{reached}")
        };
        let instance = Instance {
            service: service.name().to_owned(),
            id: InstanceId(config.clock.uuid()),
            url,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: config.clock.now(),
        };
        let options = RegistryOptions { replicas: config.replicas, ..config.registry };
        Ok(Self { connection: connection.clone(), instance, options, ready, shutdown: shutdown.clone() })
    }

    /// Makes the service known once it is ready, until the process is about to stop.
    pub(super) async fn keep(self) {
        let leaving = self.shutdown.leaving();
        let Some(registration) = leaving.run_until_cancelled(Box::pin(self.register())).await else { return };
        leaving.cancelled().await;
        registration.stop().await;
    }

    async fn register(&self) -> Registration {
        while (self.ready)().is_err() {
            sleep(AGAIN).await;
        }
        let mut told = false;
        loop {
            match Registration::start(&self.connection, self.instance.clone(), self.options).await {
                Ok(registration) => return registration,
                Err(error) if !told => {
                    let service = &*self.instance.service;
                    tracing::warn!(
                        service,
                        error = &error as &dyn std::error::Error,
                        "cannot register, trying again"
                    );
                    told = true;
                }
                Err(_) => {}
            }
            sleep(AGAIN).await;
        }
    }
}

/// The address of this machine on the way to NATS: others who share that NATS usually reach us there. Of several nodes
/// the first is as good as any.
async fn towards(nats_url: &str) -> Result<IpAddr, Failure> {
    let uri: Uri = nats_url.split(',').next().unwrap_or_default().trim().parse()?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let mut targets = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(4222))).await?;
    let target = targets.next().ok_or("NATS has no address")?;
    let any =
        if target.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    // Nothing is sent: connecting such a socket only chooses the way.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_others_is_a_host_with_or_without_a_port() {
        let read = |text: &str| text.parse::<Advertise>().map(|it| (it.host, it.port));
        let tls = |text: &str| text.parse::<Advertise>().unwrap().is_tls();
        assert!(tls("https://orders") && !tls("http://orders"));
        assert_eq!(read("http://orders-0"), Ok(("orders-0".to_owned(), None)));
        assert_eq!(read("http://[::1]:80/"), Ok(("[::1]".to_owned(), Some(80))));
        for bad in ["orders-0", "orders-0:80", "nats://x", "http://x/y", "http://x?y", "http://u:p@x", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn whoever_listens_everywhere_is_reached_where_nats_is_reached() {
        for url in ["nats://127.0.0.1:4222", "127.0.0.1", "nats://user:secret@127.0.0.1, nats://[::1]"] {
            assert_eq!(towards(url).await.unwrap(), IpAddr::from(Ipv4Addr::LOCALHOST), "{url}");
        }
    }
}
