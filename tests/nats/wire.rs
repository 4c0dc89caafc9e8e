//! A TCP relay between a client and a server, to be cut with whatever is on its way.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug)]
pub(crate) struct Wire {
    port: u16,
    cut: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Wire {
    /// Leads to this port.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let cut = Arc::new(Notify::new());
        let task = tokio::spawn({
            let cut = Arc::clone(&cut);
            async move {
                // One connection at a time: the client's next attempt waits in the backlog.
                while let Ok((mut client, _)) = listener.accept().await {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        continue;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => (),
                        () = cut.notified() => (),
                    }
                }
            }
        });
        Self {
            port,
            cut,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Cuts the connection, if there is one.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }
}
