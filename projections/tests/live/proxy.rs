//! A wire that is cut after so many bytes towards the client.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Connections that were cut.
    pub(crate) cuts: Arc<AtomicUsize>,
    /// Bytes that the next connections let pass.
    room: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, room) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (counter, size) = (Arc::clone(&cuts), Arc::clone(&room));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counter, room) = (Arc::clone(&counter), size.load(Ordering::SeqCst));
                tokio::spawn(async move {
                    if carry(client, to, room).await.is_none() {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, cuts, room }
    }

    /// What comes after so many bytes never arrives.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.room.store(bytes, Ordering::SeqCst);
    }
}

/// Carries bytes; None where it was cut.
async fn carry(client: TcpStream, to: SocketAddr, mut room: usize) -> Option<()> {
    let server = TcpStream::connect(to).await.ok()?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = [0; 4096];
    let whole = loop {
        match from_server.read(&mut buffer).await {
            Ok(0) | Err(_) => break Some(()),
            Ok(length) => {
                let passes = length.min(room);
                if to_client.write_all(&buffer[..passes]).await.is_err() {
                    break Some(());
                }
                room -= passes;
                if room == 0 {
                    break None;
                }
            }
        }
    };
    up.abort();
    whole
}
