//! A broker of the test's own that goes away and comes back, with its outlet.

use super::outlet::Outlet;
use crate::support::kafka::PrivateKafka;
use crate::support::nats::PrivateNats;
use crate::support::private_rabbitmq::PrivateRabbitmq;

pub(super) struct Victim {
    pub(super) outlet: Outlet,
    server: Server,
}

enum Server {
    Kafka(PrivateKafka),
    Nats(PrivateNats),
    Rabbitmq(PrivateRabbitmq),
}

impl Victim {
    /// `None`, and a line that says so, where only a mock can be had.
    pub(super) async fn kafka() -> Option<Self> {
        let server = PrivateKafka::start().await?;
        Some(Self {
            outlet: Outlet::kafka_at(&server.address()).await,
            server: Server::Kafka(server),
        })
    }

    pub(super) async fn jetstream() -> Self {
        let server = PrivateNats::start("").await;
        Self {
            outlet: Outlet::jetstream_at(&server.url()).await,
            server: Server::Nats(server),
        }
    }

    pub(super) async fn rabbitmq() -> Self {
        let server = PrivateRabbitmq::start("").await;
        Self {
            outlet: Outlet::rabbitmq_at(&server.url()).await,
            server: Server::Rabbitmq(server),
        }
    }

    pub(super) async fn freeze(&self) {
        match &self.server {
            Server::Kafka(server) => server.freeze().await,
            Server::Nats(server) => server.freeze().await,
            Server::Rabbitmq(server) => server.freeze().await,
        }
    }

    pub(super) fn thaw(&self) {
        match &self.server {
            Server::Kafka(server) => server.thaw(),
            Server::Nats(server) => server.thaw(),
            Server::Rabbitmq(server) => server.thaw(),
        }
    }

    pub(super) async fn kill(&mut self) {
        match &mut self.server {
            Server::Kafka(server) => server.kill().await,
            Server::Nats(server) => server.kill().await,
            Server::Rabbitmq(server) => server.kill().await,
        }
    }

    /// Starts it with its data, and returns when it answers.
    pub(super) async fn start_again(&mut self) {
        match &mut self.server {
            Server::Kafka(server) => server.start_again().await,
            Server::Nats(server) => server.start_again().await,
            Server::Rabbitmq(server) => server.start_again().await,
        }
        // For the last time: now it can be read, too.
        self.outlet.consume().await;
    }
}
