//! A wire between a host and its server that can stop in the middle of a transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// The message that ends a transaction: its kind, its length, and its text.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Forwards everything, but for one COMMIT if it is told to.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    port: u16,
    server: (String, u16),
    hold: Arc<AtomicBool>,
    held: Arc<Notify>,
    released: Arc<Notify>,
}

impl Proxy {
    pub(crate) async fn to(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            server: (host.to_owned(), port),
            hold: Arc::default(),
            held: Arc::default(),
            released: Arc::default(),
        };
        tokio::spawn({
            let proxy = proxy.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(proxy.clone().forward(client));
                }
            }
        });
        proxy
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Holds the next COMMIT back; the server has got everything before it.
    pub(crate) fn hold_next_commit(&self) {
        self.hold.store(true, Ordering::SeqCst);
    }

    /// Waits until a COMMIT is held back.
    pub(crate) async fn held(&self) {
        self.held.notified().await;
    }

    /// Lets the server have the rest.
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    async fn forward(self, client: TcpStream) {
        let (host, port) = (self.server.0.as_str(), self.server.1);
        let server = TcpStream::connect((host, port)).await.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(self.requests(from_client, to_server));
        answers(from_server, to_client).await;
    }

    async fn requests(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            let mut sent = &chunk[..count];
            if sent.ends_with(COMMIT) && self.hold.swap(false, Ordering::SeqCst) {
                let (first, rest) = sent.split_at(count - COMMIT.len());
                if to.write_all(first).await.is_err() {
                    return;
                }
                self.held.notify_one();
                self.released.notified().await;
                sent = rest;
            }
            if to.write_all(sent).await.is_err() {
                return;
            }
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    // One side goes: the other learns of it when its own is dropped.
    tokio::io::copy(&mut from, &mut to).await.ok();
}
