//! A real HTTP receiver on loopback that answers what the test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;
use windlass_testkit::conformance::notifier::{Answer, Received, Receiver};

pub(crate) struct LoopbackReceiver {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: AsyncMutex<mpsc::Receiver<Received>>,
    server: JoinHandle<()>,
}

type Shared = (Arc<Mutex<Answer>>, mpsc::Sender<Received>);

impl LoopbackReceiver {
    /// Listens on that port of loopback; 0 takes a free one.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(Answer::status(204)));
        let (tx, rx) = mpsc::channel(1_024);
        let app = Router::new()
            .fallback(take)
            .with_state((Arc::clone(&answer), tx));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            answer,
            requests: AsyncMutex::new(rx),
            server,
        }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the requests that came and were not yet looked at.
    pub(crate) async fn drain(&self) -> Vec<Received> {
        let mut requests = self.requests.lock().await;
        std::iter::from_fn(|| requests.try_recv().ok()).collect()
    }
}

impl Drop for LoopbackReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State((answer, tx)): State<Shared>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let answer = answer.lock().unwrap().clone();
    tx.send(Received::new(headers, body.to_vec()))
        .await
        .unwrap();
    match answer {
        Answer::Status {
            code,
            headers,
            text,
        } => {
            let mut response = Response::builder().status(code);
            for (name, value) in headers {
                let name: HeaderName = name.parse().unwrap();
                response = response.header(name, HeaderValue::from_str(&value).unwrap());
            }
            response.body(Body::from(text)).unwrap()
        }
        _ => std::future::pending().await,
    }
}

#[async_trait]
impl Receiver for LoopbackReceiver {
    fn url(&self) -> String {
        format!("http://{}/hooks/T000-canary-path-secret", self.address)
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    async fn next(&self) -> Received {
        self.requests.lock().await.recv().await.unwrap()
    }
}
