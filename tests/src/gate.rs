//! TLS in front of something on this machine that speaks none.

use rustls::{ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use service::tls::{authorities, certificates, key};
use std::{error::Error, path::Path, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn Error + Send + Sync>;

/// Lets in who shows a certificate, until it is dropped.
pub struct Gate {
    /// Where it listens.
    pub port: u16,
    shown: watch::Sender<Arc<ServerConfig>>,
    task: JoinHandle<()>,
}

impl Gate {
    /// Before a port of this machine, with the certificates of `waybill dev-certs` in a folder: those of a node are shown. What
    /// is agreed on is one of these protocols (RFC 7301), or none.
    pub async fn before(port: u16, folder: &Path, protocols: &[&str]) -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let own = listener.local_addr()?.port();
        let (shown, current) = watch::channel(config(folder, protocols)?);
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(let_in(caller, port, current.clone()));
            }
        });
        Ok(Self { port: own, shown, task })
    }

    /// Takes those of another folder, and ends what is open.
    pub fn change(&self, folder: &Path) -> Result<(), Failure> {
        let before = self.shown.borrow().alpn_protocols.clone();
        let names: Vec<_> = before.iter().filter_map(|name| str::from_utf8(name).ok()).collect();
        let fresh = config(folder, &names)?;
        self.shown.send_replace(fresh);
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn let_in(caller: TcpStream, port: u16, mut current: watch::Receiver<Arc<ServerConfig>>) {
    let acceptor = TlsAcceptor::from(Arc::clone(&current.borrow_and_update()));
    let through = async {
        let mut inside = TcpStream::connect(("127.0.0.1", port)).await?;
        copy_bidirectional(&mut acceptor.accept(caller).await?, &mut inside).await
    };
    // However it ends, whoever is at either end notices.
    tokio::select! {
        _ = through => {}
        _ = current.changed() => {}
    }
}

fn config(folder: &Path, protocols: &[&str]) -> Result<Arc<ServerConfig>, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let callers = authorities(&folder.join("ca.pem"))?;
    let callers = WebPkiClientVerifier::builder_with_provider(callers, Arc::clone(&provider)).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let (chain, key) = (certificates(&folder.join("node.pem"))?, key(&folder.join("node.key"))?);
    let mut config = builder.with_client_cert_verifier(callers).with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
