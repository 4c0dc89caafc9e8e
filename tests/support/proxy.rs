//! A TCP proxy that a test can cut.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections to one address until they are cut.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    cut: Arc<watch::Sender<()>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// A proxy in front of this address, `host:port`.
    pub(crate) async fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let cut = Arc::new(watch::Sender::new(()));
        let task = tokio::spawn(forward(listener, address.to_owned(), Arc::clone(&cut)));
        Self {
            port,
            cut,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Ends all connections that there are, in the middle of whatever they transfer.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }
}

async fn forward(listener: TcpListener, address: String, cut: Arc<watch::Sender<()>>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let (address, mut cut) = (address.clone(), cut.subscribe());
        tokio::spawn(async move {
            let transfer = async {
                let mut server = TcpStream::connect(address).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            tokio::select! {
                _ = transfer => {}
                _ = cut.changed() => {}
            }
        });
    }
}
