//! The port: accepts connections and serves each of them, in a thread of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

use super::View;
use super::routes::router;
use crate::tasks::Tasks;

/// Connections that are served at a time; others wait to be accepted.
const CONNECTIONS: usize = 256;

/// How long a client may take to send the head of a request, the first or the next one.
const HEAD: Duration = Duration::from_secs(10);

/// Pause after an accept that failed (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests under way may take at shutdown.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the API did not start.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("the admin API cannot listen on {listen}: {cause}; see admin.listen")]
    Listen { listen: String, cause: io::Error },
    #[error("the admin API has no thread: {0}")]
    Thread(io::Error),
}

/// The API at its port.
#[derive(Debug)]
pub struct Admin {
    pub address: SocketAddr,
    thread: JoinHandle<()>,
}

// === impl Admin ===

impl Admin {
    /// Listens, and serves until `tasks` are asked to stop.
    ///
    /// # Errors
    /// When the address cannot be had, or no thread.
    pub fn start(listen: &str, view: View, tasks: &Tasks) -> Result<Self, AdminError> {
        let cannot = |cause| AdminError::Listen { listen: listen.to_owned(), cause };
        let listener = TcpListener::bind(listen).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let router = router(Arc::new(view));
        let tasks = tasks.clone();
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || serve(listener, &router, &tasks))
            .map_err(AdminError::Thread)?;
        Ok(Self { address, thread })
    }

    /// Waits until it has ended.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the admin API has panicked");
        }
    }
}

fn serve(listener: TcpListener, router: &Router, tasks: &Tasks) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the admin API does not run"),
    };
    runtime.block_on(async {
        let connections = Tasks::new();
        tokio::select! {
            () = accept(listener, router, &connections) => {}
            () = tasks.stopping() => {}
        }
        connections.stop();
        drop(tokio::time::timeout(FAREWELL, connections.ended()).await);
    });
}

async fn accept(listener: TcpListener, router: &Router, connections: &Tasks) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin API does not run"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let (router, own) = (router.clone(), connections.clone());
                connections.spawn(async move {
                    converse(socket, router, &own).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(socket: TcpStream, router: Router, connections: &Tasks) {
    // Where it cannot be had answers come late, no more.
    let _ = socket.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = connections.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin API has ended");
    }
}
