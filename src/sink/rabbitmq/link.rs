//! Connecting, and connecting again: the client's own recovery leaves publishes hanging, so this is done here.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::AsyncTcpStream;
use lapin::types::Heartbeat;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::refusal::Failure;
use super::session::Session;
use super::{tls, topology};
use crate::backoff::Backoff;
use crate::config::Rabbitmq;
use crate::error::chain;
use crate::sink::connect::ConnectError;

/// TCP, TLS, the AMQP handshake and declarations.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds between signs of life: a peer that vanished without a word is noticed after two of these.
const HEARTBEAT: Heartbeat = 10;

/// The client tells of a lost connection; this finds one of which it doesn't.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The connection of a sink, made anew whenever it is lost.
#[derive(Debug)]
pub(super) struct Link {
    session: watch::Receiver<Option<Arc<Session>>>,
    _keeper: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects once, and from then on for as long as it takes.
    pub(super) async fn open(config: &Rabbitmq, name: &str) -> Result<Self, ConnectError> {
        let opened = open(config, name).await?;
        let (sender, session) = watch::channel(Some(Arc::clone(&opened.session)));
        let keeper = keep(config.clone(), name.to_owned(), opened, sender);
        Ok(Self {
            session,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)),
        })
    }

    /// The session, if there is one now.
    pub(super) fn session(&self) -> Result<Arc<Session>, Failure> {
        let session = self.session.borrow().clone();
        session
            .filter(|session| session.is_connected())
            .ok_or(Failure::Disconnected)
    }
}

/// A fresh connection.
struct Opened {
    session: Arc<Session>,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
}

impl Opened {
    /// Follows the connection's events until it is dead.
    async fn until_dead(&mut self) {
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.session.react(event),
                    None => return,
                },
                () = self.session.failed() => return,
                () = sleep(LOOK_INTERVAL) => {}
            }
            if !self.session.is_connected() {
                return;
            }
        }
    }
}

async fn keep(
    config: Rabbitmq,
    name: String,
    mut opened: Opened,
    session: watch::Sender<Option<Arc<Session>>>,
) {
    loop {
        opened.until_dead().await;
        session.send_replace(None);
        tracing::warn!(
            broker = place(&config),
            "the connection to RabbitMQ is lost, it is made anew"
        );
        let mut backoff = Backoff::broker();
        opened = loop {
            sleep(backoff.failed()).await;
            match open(&config, &name).await {
                Ok(opened) => break opened,
                Err(error) if error.is_transient() => {
                    tracing::warn!(error = chain(&error), "RabbitMQ could not be reached");
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "RabbitMQ refuses the connection");
                }
            }
        };
        tracing::info!(broker = place(&config), "connected to RabbitMQ again");
        session.send_replace(Some(Arc::clone(&opened.session)));
    }
}

async fn open(config: &Rabbitmq, name: &str) -> Result<Opened, ConnectError> {
    within(config, async |cord| {
        let connection = connect(config, name, cord).await?;
        topology::declare(&connection, &config.declare).await?;
        let events = Box::pin(connection.events_listener());
        let session = Session::open(connection).await.map_err(|error| {
            ConnectError::unavailable("RabbitMQ opened no channel").caused_by(error)
        })?;
        Ok(Opened {
            session: Arc::new(session),
            events,
        })
    })
    .await
}

/// Connects for a look, and nothing else.
pub(super) async fn visit<T>(
    config: &Rabbitmq,
    name: &str,
    look: impl AsyncFnOnce(&Connection) -> Result<T, ConnectError>,
) -> Result<T, ConnectError> {
    within(config, async |cord| {
        let connection = connect(config, name, cord).await?;
        look(&connection).await
    })
    .await
}

/// What a connection is pulled down by. The client has a thread for each, which waits for a broker that hangs for
/// as long as the socket is open.
#[derive(Debug, Clone, Default)]
struct Cord(Arc<Mutex<Option<TcpStream>>>);

impl Cord {
    fn fasten(&self, socket: &impl AsFd) -> io::Result<()> {
        let own = socket.as_fd().try_clone_to_owned()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(own.into());
        Ok(())
    }

    fn pull(&self) {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = socket {
            // It may be closed already.
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

async fn within<T>(
    config: &Rabbitmq,
    work: impl AsyncFnOnce(Cord) -> Result<T, ConnectError>,
) -> Result<T, ConnectError> {
    let cord = Cord::default();
    let guard = PullOnDrop(cord.clone());
    match timeout(CONNECT_TIMEOUT, work(cord)).await {
        Ok(Ok(done)) => {
            guard.defuse();
            Ok(done)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ConnectError::unavailable(format!(
            "RabbitMQ at {} did not answer",
            place(config)
        ))),
    }
}

/// Pulls the cord unless it is defused: also when the attempt itself is dropped.
struct PullOnDrop(Cord);

impl PullOnDrop {
    fn defuse(mut self) {
        self.0 = Cord::default();
    }
}

impl Drop for PullOnDrop {
    fn drop(&mut self) {
        self.0.pull();
    }
}

async fn connect(config: &Rabbitmq, name: &str, cord: Cord) -> Result<Connection, ConnectError> {
    let connector = if config.encrypted {
        Some(tls::connector(config.tls.as_ref()).await?)
    } else {
        None
    };
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let runtime = lapin::runtime::default_runtime()
        .map_err(|error| ConnectError::unavailable("there is no runtime").caused_by(error))?;
    let own_runtime = runtime.clone();
    let dial = async move |uri: AMQPUri, _| {
        let AMQPAuthority { host, port, .. } = uri.authority;
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in tokio::net::lookup_host((host.as_str(), port)).await? {
            let stream = match AsyncTcpStream::connect(&own_runtime, address).await {
                Ok(stream) => stream,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            if let AsyncTcpStream::Plain(socket) = &stream {
                cord.fasten(socket.get_ref())?;
                socket.get_ref().set_nodelay(true)?;
            }
            return Ok(match &connector {
                Some(connector) => stream.into_rustls(connector, &host).await?,
                None => stream,
            });
        }
        Err(failure.into())
    };
    Connection::connector(uri(config), runtime, dial, properties)
        .await
        .map_err(|error| explain(error, config))
}

fn uri(config: &Rabbitmq) -> AMQPUri {
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.user.clone(),
                password: config.password.expose().to_owned(),
            },
            host: config.host.clone(),
            port: config.port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT),
            ..AMQPQueryString::default()
        },
    }
}

/// Says what a failed connect means.
fn explain(error: lapin::Error, config: &Rabbitmq) -> ConnectError {
    let place = place(config);
    if let ErrorKind::ProtocolError(refusal) = error.kind() {
        let text = refusal.get_message().as_str();
        // A virtual host that is down, or has as many connections as it may have, can be mended by waiting.
        let may_pass = text.contains("is down") || text.contains("limit");
        match refusal.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                let problem = format!(
                    "RabbitMQ at {place} refused user {:?}: is the password right, and may the user connect from here?",
                    config.user
                );
                return ConnectError::config("auth", problem).caused_by(error);
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if !may_pass => {
                let problem = format!(
                    "RabbitMQ at {place} does not let user {:?} into the virtual host {:?}",
                    config.user, config.vhost
                );
                return ConnectError::config("url", problem).caused_by(error);
            }
            _ => {}
        }
    }
    if matches!(error.kind(), ErrorKind::InvalidProtocolVersion(_)) {
        let problem = format!("what answers at {place} does not speak AMQP 0-9-1");
        return ConnectError::config("url", problem).caused_by(error);
    }
    ConnectError::unavailable(format!("can't connect to RabbitMQ at {place}")).caused_by(error)
}

fn place(config: &Rabbitmq) -> String {
    let scheme = if config.encrypted { "amqps" } else { "amqp" };
    let Rabbitmq { host, port, .. } = config;
    format!("{scheme}://{host}:{port}")
}
