//! A proxy that lets requests through one by one, when the test says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections to one address.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) port: u16,
    state: Arc<watch::Sender<State>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// Everything passes.
    open: bool,
    /// Requests that wait at the gate, and those that may still pass.
    waiting: usize,
    permits: usize,
}

impl Gate {
    /// An open gate before `host:port`.
    pub(super) async fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(watch::Sender::new(State {
            open: true,
            ..State::default()
        }));
        let task = tokio::spawn(accept(listener, address.to_owned(), Arc::clone(&state)));
        Self {
            port,
            state,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn open(&self, open: bool) {
        self.state.send_modify(|state| state.open = open);
    }

    /// Whether a request waits, or does within `patience`.
    pub(super) async fn is_asked(&self, patience: Duration) -> bool {
        let mut state = self.state.subscribe();
        let waits = state.wait_for(|state| state.waiting > 0);
        tokio::time::timeout(patience, waits).await.is_ok()
    }

    /// Lets one of those that wait pass.
    pub(super) async fn pass(&self) {
        self.state.send_modify(|state| state.permits += 1);
        let mut state = self.state.subscribe();
        let passed = state.wait_for(|state| state.permits == 0);
        passed.await.expect("the gate stands");
    }
}

async fn accept(listener: TcpListener, address: String, state: Arc<watch::Sender<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&address).await else {
            continue;
        };
        tokio::spawn(forward(client, server, Arc::clone(&state)));
    }
}

async fn forward(client: TcpStream, server: TcpStream, state: Arc<watch::Sender<State>>) {
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut requests, mut answers) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::io::copy(&mut from_server, &mut answers).await.ok();
    }));
    let mut request = vec![0; 65_536];
    while let Ok(length @ 1..) = requests.read(&mut request).await {
        wait(&state).await;
        if to_server.write_all(&request[..length]).await.is_err() {
            break;
        }
    }
    drop(back);
}

/// Until the gate is open, or lets this one pass.
async fn wait(state: &watch::Sender<State>) {
    state.send_modify(|state| state.waiting += 1);
    let mut changes = state.subscribe();
    loop {
        let mut passes = false;
        state.send_if_modified(|state| {
            passes = state.open || state.permits > 0;
            if passes {
                state.permits = state.permits.saturating_sub(1);
                state.waiting -= 1;
            }
            passes
        });
        if passes || changes.changed().await.is_err() {
            return;
        }
    }
}
