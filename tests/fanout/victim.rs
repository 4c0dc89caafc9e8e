//! A broker of the test's own that goes away and comes back, with its outlet.

use super::outlet::Outlet;
use crate::support::kafka::PrivateKafka;
use crate::support::nats::PrivateNats;
use crate::support::private_rabbitmq::PrivateRabbitmq;
use crate::support::private_server::PrivateServer;

pub(super) struct Victim {
    pub(super) outlet: Outlet,
    server: Box<dyn PrivateServer>,
}

impl Victim {
    /// `None`, and a line that says so, where only a mock can be had.
    pub(super) async fn kafka() -> Option<Self> {
        let server = PrivateKafka::start().await?;
        Some(Self {
            outlet: Outlet::kafka_at(&server.address()).await,
            server: Box::new(server),
        })
    }

    pub(super) async fn jetstream() -> Self {
        let server = PrivateNats::start("").await;
        Self {
            outlet: Outlet::jetstream_at(&server.url()).await,
            server: Box::new(server),
        }
    }

    pub(super) async fn rabbitmq() -> Self {
        let server = PrivateRabbitmq::start("").await;
        Self {
            outlet: Outlet::rabbitmq_at(&server.url()).await,
            server: Box::new(server),
        }
    }

    pub(super) async fn freeze(&self) {
        self.server.freeze().await;
    }

    pub(super) fn thaw(&self) {
        self.server.thaw();
    }

    pub(super) async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Starts it with its data, and returns when it answers.
    pub(super) async fn start_again(&mut self) {
        self.server.start_again().await;
        // For the last time: now it can be read, too.
        self.outlet.consume().await;
    }
}
