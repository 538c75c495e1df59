//! Accepts clients and hands them to the event loops, each of which runs in a thread of its own.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::Shared;
use super::conversation::Conversation;
use super::event_loop::EventLoop;
use crate::tasks::Tasks;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Idle time after which a client is asked for a sign of life, as Redis' `tcp-keepalive`.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// How long clients may take at shutdown to get the replies that are under way.
const FAREWELL: Duration = Duration::from_secs(3);

/// Pause after an accept that failed (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot listen on {listen}: {cause}")]
    Listen { listen: String, cause: io::Error },
    #[error("cannot start an event loop: {0}")]
    Thread(io::Error),
}

/// The running event loops.
#[derive(Debug)]
pub struct Server {
    /// Where clients connect.
    pub address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

// === impl Server ===

impl Server {
    /// Listens and starts the event loops. They end when `tasks` is asked to stop.
    ///
    /// # Errors
    /// When the address cannot be bound or a thread cannot be started.
    pub fn start(
        shared: &Arc<Shared>,
        listen: &str,
        loops: usize,
        tasks: &Tasks,
    ) -> Result<Self, ServerError> {
        let cannot_listen = |cause| ServerError::Listen { listen: listen.to_owned(), cause };
        let listener = bind(listen).map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let mut threads = Vec::new();
        let mut doors = Vec::new();
        for number in 0..loops.max(1) {
            let (door, arrivals) = mpsc::unbounded_channel();
            doors.push(door);
            let (shared, tasks) = (Arc::clone(shared), tasks.clone());
            let thread = std::thread::Builder::new()
                .name(format!("loop-{number}"))
                .spawn(move || run_loop(shared, &tasks, arrivals))
                .map_err(ServerError::Thread)?;
            threads.push(thread);
        }
        let (shared, tasks) = (Arc::clone(shared), tasks.clone());
        let acceptor = tasks.clone();
        acceptor.spawn(async move {
            let accepting = accept(&shared, listener, &doors);
            tokio::select! {
                () = accepting => {}
                () = tasks.stopping() => {}
            }
        });
        Ok(Self { address, threads })
    }

    /// Waits until all event loops have ended.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("an event loop has panicked");
            }
        }
    }
}

fn bind(listen: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "not a host and port");
    for address in listen.to_socket_addrs()? {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.ip().is_loopback() {
        unpace(&socket);
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Takes the system's congestion control from the connections of clients on this machine: nothing is
/// ever lost or queued on the way to them, and one that paces (BBR) makes long replies dear. Reno does
/// not, is in every kernel, and is free to every process. Set before a connection begins: BBR leaves its
/// pacing behind.
#[cfg(target_os = "linux")]
fn unpace(listener: &Socket) {
    if let Err(error) = listener.set_tcp_congestion(b"reno") {
        tracing::debug!(%error, "clients keep the system's congestion control");
    }
}

#[cfg(not(target_os = "linux"))]
fn unpace(_listener: &Socket) {}

type Arrival = (TcpStream, SocketAddr);

/// Hands sockets to the event loops in turn.
async fn accept(shared: &Shared, listener: TcpListener, doors: &[mpsc::UnboundedSender<Arrival>]) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept clients"),
    };
    for door in doors.iter().cycle() {
        let (socket, address) = loop {
            match listener
                .accept()
                .await
                .and_then(|(socket, address)| Ok((socket.into_std()?, address)))
            {
                Ok(arrival) => break arrival,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        if shared.roster.len() >= shared.max_clients {
            // A client that does not take it will not get it: as Redis, no waiting.
            let _ = (&socket).write(b"-ERR max number of clients reached\r\n");
            continue;
        }
        if door.send((socket, address)).is_err() {
            return;
        }
    }
}

fn run_loop(shared: Arc<Shared>, tasks: &Tasks, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "cannot start an event loop"),
    };
    runtime.block_on(async move {
        let own_tasks = Tasks::new();
        let event_loop = EventLoop::new(shared, own_tasks.clone());
        let deliverer = Rc::clone(&event_loop);
        own_tasks.spawn_local(async move { deliverer.deliver_answers().await });
        let sender = Rc::clone(&event_loop);
        own_tasks.spawn_local(async move { sender.send_steps().await });
        let timekeeper = Rc::clone(&event_loop);
        own_tasks.spawn_local(async move { timekeeper.keep_time().await });
        let watcher = Rc::clone(&event_loop);
        own_tasks.spawn_local(async move { watcher.watch_upstream().await });
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some((socket, address)) => welcome(&event_loop, socket, address),
                    None => break,
                },
                () = tasks.stopping() => break,
            }
        }
        let farewell = event_loop.say_farewell();
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::info!("clients that were still waiting for replies were closed");
        }
        event_loop.drop_errands();
    });
}

fn welcome(event_loop: &Rc<EventLoop>, socket: TcpStream, address: SocketAddr) {
    let prepared = socket.set_nodelay(true).and_then(|()| {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        let local_address = socket.local_addr()?;
        Ok((tokio::net::TcpStream::from_std(socket)?, local_address))
    });
    match prepared {
        Ok((socket, local_address)) => {
            let entry = event_loop.shared.roster.enter(address, local_address);
            let (reader, writer) = socket.into_split();
            entry.seen.store(event_loop.seconds.get(), Ordering::Relaxed);
            let client = event_loop.enter(entry, writer);
            let conversation = Conversation::new(Rc::clone(event_loop), client, reader);
            event_loop.tasks.spawn_local(conversation.run());
        }
        // It has left already.
        Err(error) => tracing::debug!(%error, "a client could not be welcomed"),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The congestion control of a client of a listener on `listen`.
    fn congestion_control(listen: &str) -> Vec<u8> {
        let listener = bind(listen).expect("a free port");
        listener.set_nonblocking(false).expect("a socket");
        let port = listener.local_addr().expect("a bound socket").port();
        let _client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
        let (socket, _) = listener.accept().expect("a client");
        name(&SockRef::from(&socket))
    }

    fn name(socket: &Socket) -> Vec<u8> {
        let mut name = socket.tcp_congestion().expect("Linux tells");
        name.retain(|&byte| byte != 0);
        name
    }

    #[test]
    fn only_clients_of_this_machine_are_taken_the_system_s_congestion_control() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        assert_eq!(congestion_control("0.0.0.0:0"), name(&socket));
        assert_eq!(congestion_control("127.0.0.1:0"), b"reno");
    }
}
