//! A TCP proxy whose network a test makes bad: cut, silent, late or slow.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Another address of this machine, where nobody but [`Proxy::elsewhere`] listens.
pub(crate) const ELSEWHERE: &str = "127.0.0.2";

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// How long each piece waits before it is passed on.
    pub(crate) delay: Duration,
    /// Bytes per second and direction; 0: as many as there are.
    pub(crate) rate: u32,
    /// Nothing gets through to the server, and no connection is closed.
    pub(crate) deaf: bool,
    /// Nothing comes back from the server, and no connection is closed.
    pub(crate) mute: bool,
}

/// Forwards connections to one address until they are cut.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    cut: Arc<watch::Sender<()>>,
    weather: Arc<watch::Sender<Weather>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// A proxy in front of this address, `host:port`.
    pub(crate) async fn before(address: &str) -> Self {
        Self::listening("127.0.0.1", address).await
    }

    /// The same under an address that no certificate of the tests names: 127.0.0.2.
    #[allow(dead_code, reason = "for tests of TLS")]
    pub(crate) async fn elsewhere(address: &str) -> Self {
        Self::listening(ELSEWHERE, address).await
    }

    async fn listening(host: &str, address: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let cut = Arc::new(watch::Sender::new(()));
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let task = forward(
            listener,
            address.to_owned(),
            Arc::clone(&cut),
            Arc::clone(&weather),
        );
        Self {
            port,
            cut,
            weather,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// Ends all connections that there are, in the middle of whatever they transfer.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }

    /// Changes the network for all connections, those that there are included.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn forward(
    listener: TcpListener,
    address: String,
    cut: Arc<watch::Sender<()>>,
    weather: Arc<watch::Sender<Weather>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (address, mut cut) = (address.clone(), cut.subscribe());
        let (up, down) = (weather.subscribe(), weather.subscribe());
        tokio::spawn(async move {
            let transfer = async {
                let server = TcpStream::connect(address).await?;
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::try_join!(
                    pass(from_client, to_server, up, |weather| weather.deaf),
                    pass(from_server, to_client, down, |weather| weather.mute),
                )
            };
            tokio::select! {
                // What is held back when it is cut never arrives, even if the weather clears up at once.
                biased;
                _ = cut.changed() => {}
                _ = transfer => {}
            }
        });
    }
}

/// Passes bytes on in one direction, until one side ends.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    is_lost: impl Fn(&Weather) -> bool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        // The proxy goes with its sender; then nothing matters any more.
        drop(weather.wait_for(|weather| !is_lost(weather)).await);
        let Weather { delay, rate, .. } = *weather.borrow();
        let transfer = match rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(length as f64 / f64::from(rate)),
        };
        // Even a sleep of no time takes a tick of the timer.
        if !(delay + transfer).is_zero() {
            tokio::time::sleep(delay + transfer).await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, behind a proxy, and a connection to it.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let (mut read, mut write) = stream.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
        });
        let proxy = Proxy::before(&address).await;
        let stream = TcpStream::connect(("127.0.0.1", proxy.port)).await;
        (proxy, stream.expect("connect"))
    }

    #[tokio::test]
    async fn what_is_lost_in_silence_comes_when_the_silence_ends() {
        let (proxy, mut stream) = echo().await;
        for silent in [
            Weather {
                deaf: true,
                ..Weather::default()
            },
            Weather {
                mute: true,
                ..Weather::default()
            },
        ] {
            proxy.set(silent);
            stream.write_all(b"x").await.expect("sent");
            let mut byte = [0];
            let early = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte));
            early.await.expect_err("silence");
            proxy.set(Weather::default());
            assert_eq!(stream.read(&mut byte).await.expect("an answer"), 1);
        }
        proxy.cut();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "cut");
    }
}
