//! The faults. Each victim has a tormentor of its own, so several go wrong at once; each draws by its own seed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, Executor};

use crate::chronicle::Chronicle;
use crate::odd;
use crate::pooled::{Exchange, LateTopic, Pooled, permissions};
use crate::support::database::{TEST_APPLICATION, connect};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{PrivatePostgres, Stop};
use crate::support::private_server::PrivateServer;
use crate::support::process::Signal;
use crate::support::proxy::{Proxy, Weather};
use crate::support::stream::Stream;
use crate::world::{Kafka, Nats, Postgres, Rabbitmq, Relays, World};

/// Fewer connections than the server has left for others.
const SLOTS: usize = 100;

/// The one fault that takes commits back.
pub(crate) const FAIL_OVER: &str = "fail-over to a replica that is behind";

/// When to stop, what to draw from, and where it is written down.
pub(crate) struct Torment {
    end: Instant,
    seed: u64,
    chronicle: Chronicle,
}

impl Torment {
    pub(crate) fn new(seed: u64, lasting: Duration) -> Self {
        Self {
            end: Instant::now() + lasting,
            seed,
            chronicle: Chronicle::default(),
        }
    }

    /// Torments all of them at once. When this returns every process runs, and what a network does to them is over.
    pub(crate) async fn inflict(self, world: &mut World) -> Chronicle {
        let World {
            postgres,
            nats,
            rabbitmq,
            kafka,
            pooled,
            pooler,
            relays,
            ..
        } = world;
        let url = postgres.url.clone();
        let (stream, exchange, topic) = match pooled {
            Some(Pooled {
                stream,
                exchange,
                topic,
            }) => (Some(&*stream), Some(&*exchange), Some(&*topic)),
            None => (None, None, None),
        };
        tokio::join!(
            self.events(&url),
            self.relays(relays),
            self.postgres(postgres),
            self.nats(nats, stream),
            self.rabbitmq(rabbitmq.as_mut(), exchange),
            self.kafka(kafka.as_mut(), topic),
            self.pooler(pooler.as_mut()),
        );
        self.chronicle
    }

    fn draws(&self, victim: u64) -> Draws {
        Draws {
            random: StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(victim)),
            end: self.end,
        }
    }

    /// Events that are refused, or could be misunderstood.
    async fn events(&self, url: &str) {
        let mut draws = self.draws(6);
        let kinds = odd::kinds();
        while draws.rest().await {
            let odd = kinds.choose(&mut draws.random).expect("some");
            let payload = odd.drawn(&mut draws.random);
            let write = odd.write(url, &payload);
            self.chronicle.note("event", odd.name, write).await;
        }
    }

    async fn relays(&self, relays: &mut Relays) {
        let mut draws = self.draws(1);
        let calm = relays.settings.clone();
        while draws.rest().await {
            let victim = draws.random.random_range(0..relays.running.len());
            match draws.random.random_range(0..8) {
                0 => {
                    let killed = relays.running.swap_remove(victim);
                    let pause = draws.time(0.0, 2.0);
                    self.chronicle
                        .note("relay", "SIGKILL", async {
                            killed.kill().await;
                            tokio::time::sleep(pause).await;
                            relays.start();
                        })
                        .await;
                }
                1 => {
                    // Twice the lease at most.
                    let pause = draws.time(1.0, 20.0);
                    let frozen = &relays.running[victim];
                    self.chronicle
                        .note("relay", "SIGSTOP", async {
                            frozen.signal(Signal::Stop);
                            tokio::time::sleep(pause).await;
                            frozen.signal(Signal::Continue);
                        })
                        .await;
                }
                2 => {
                    let stopped = relays.running.swap_remove(victim);
                    self.chronicle
                        .note("relay", "SIGTERM", async {
                            stopped.stop().await;
                            relays.start();
                        })
                        .await;
                }
                3 => {
                    let pause = draws.time(2.0, 8.0);
                    self.chronicle
                        .note("relay", "a third one races", async {
                            let third = relays.another();
                            tokio::time::sleep(pause).await;
                            third.kill().await;
                        })
                        .await;
                }
                4 => {
                    let pause = draws.time(0.5, 3.0);
                    self.chronicle
                        .note("relay", "SIGHUP, other settings", async {
                            relays.reload(
                                &calm.clone().set("sinks.jetstream.flush_interval", "100ms"),
                            );
                            tokio::time::sleep(pause).await;
                            relays.reload(&calm);
                        })
                        .await;
                }
                5 => {
                    let pause = draws.time(0.5, 3.0);
                    self.chronicle
                        .note("relay", "SIGHUP, invalid", async {
                            relays.reload_as("[sinks.jetstream]\ntype = \"no such thing\"");
                            tokio::time::sleep(pause).await;
                            relays.reload(&calm);
                        })
                        .await;
                }
                6 => {
                    let pause = draws.time(0.5, 3.0);
                    let fewer = calm.clone().without("sinks.jetstream");
                    self.chronicle
                        .note("relay", "SIGHUP, a sink is gone for a while", async {
                            relays.reload(&fewer);
                            tokio::time::sleep(pause).await;
                            relays.reload(&calm);
                        })
                        .await;
                }
                _ => {
                    let pause = draws.time(0.5, 3.0);
                    let extra = calm
                        .clone()
                        .set("sinks.extra.type", "mock")
                        .set("sinks.extra.start", "latest");
                    self.chronicle
                        .note("relay", "SIGHUP, a sink comes and goes", async {
                            relays.reload(&extra);
                            tokio::time::sleep(pause).await;
                            relays.reload(&calm);
                        })
                        .await;
                }
            }
        }
    }

    async fn postgres(&self, postgres: &mut Postgres) {
        let mut draws = self.draws(2);
        while draws.rest().await {
            let Postgres {
                server,
                network,
                url,
            } = &mut *postgres;
            match draws.random.random_range(0..8) {
                0 => {
                    let stops = [Stop::Fast, Stop::Immediate, Stop::Kill];
                    let how = *stops.choose(&mut draws.random).expect("some");
                    let pause = draws.time(0.0, 2.0);
                    self.chronicle
                        .note("PostgreSQL", "restart", async {
                            server.stop(how).await;
                            tokio::time::sleep(pause).await;
                            server.start_again().await;
                        })
                        .await;
                }
                1 => {
                    let terminate = format!(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                         WHERE datname = current_database() AND application_name <> '{TEST_APPLICATION}'"
                    );
                    self.chronicle
                        .note(
                            "PostgreSQL",
                            "backends terminated",
                            hold(url, &terminate, Duration::ZERO),
                        )
                        .await;
                }
                2 => {
                    let lock = "LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE";
                    let pause = draws.time(0.5, 4.0);
                    self.chronicle
                        .note("PostgreSQL", "the table is locked", hold(url, lock, pause))
                        .await;
                }
                3 => {
                    let look = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1";
                    let pause = draws.time(2.0, 10.0);
                    self.chronicle
                        .note("PostgreSQL", "an old snapshot", hold(url, look, pause))
                        .await;
                }
                4 => {
                    // Of another database: it holds the horizon of the whole cluster.
                    let pause = draws.time(2.0, 10.0);
                    let elsewhere = server.url();
                    let write = "SELECT pg_current_xact_id()";
                    self.chronicle
                        .note(
                            "PostgreSQL",
                            "a long transaction elsewhere",
                            hold(&elsewhere, write, pause),
                        )
                        .await;
                }
                5 => {
                    let pause = draws.time(1.0, 4.0);
                    self.chronicle
                        .note("PostgreSQL", "no connections left", exhaust(url, pause))
                        .await;
                }
                6 => {
                    let (behind, down) = (draws.time(0.1, 1.0), draws.time(0.0, 1.0));
                    self.chronicle
                        .note("PostgreSQL", FAIL_OVER, fail_over(server, behind, down))
                        .await;
                }
                _ => self.weather("PostgreSQL", network, &mut draws).await,
            }
        }
    }

    async fn nats(&self, nats: &mut Nats, stream: Option<&Stream>) {
        let mut draws = self.draws(3);
        while draws.rest().await {
            let Nats {
                server, network, ..
            } = &mut *nats;
            match (draws.random.random_range(0..5), stream) {
                (0, _) => {
                    self.kill("NATS", server, &mut draws).await;
                }
                (1, _) => {
                    self.freeze("NATS", server, &mut draws).await;
                }
                (2, Some(stream)) => {
                    let pause = draws.time(0.5, 3.0);
                    self.chronicle
                        .note("NATS", "no stream for a subject", async {
                            let elsewhere = vec![stream.subject("elsewhere.>")];
                            stream.change(|config| config.subjects = elsewhere).await;
                            tokio::time::sleep(pause).await;
                            let all = vec![stream.subject(">")];
                            stream.change(|config| config.subjects = all).await;
                        })
                        .await;
                }
                (3, Some(stream)) => {
                    let pause = draws.time(0.5, 3.0);
                    self.chronicle
                        .note("NATS", "permission denied", async {
                            server.reload(&permissions(Some(&stream.subject(">"))));
                            tokio::time::sleep(pause).await;
                            server.reload(&permissions(None));
                        })
                        .await;
                }
                _ => self.weather("NATS", network, &mut draws).await,
            }
        }
    }

    async fn rabbitmq(&self, rabbitmq: Option<&mut Rabbitmq>, exchange: Option<&Exchange>) {
        let Some(Rabbitmq {
            server, network, ..
        }) = rabbitmq
        else {
            return;
        };
        let mut draws = self.draws(4);
        while draws.rest().await {
            match (draws.random.random_range(0..6), exchange) {
                (0, _) => {
                    self.kill("RabbitMQ", server, &mut draws).await;
                }
                (1, _) => {
                    self.freeze("RabbitMQ", server, &mut draws).await;
                }
                (2, Some(exchange)) => {
                    let pause = draws.time(0.5, 3.0);
                    self.chronicle
                        .note("RabbitMQ", "no exchange", async {
                            exchange.delete(server).await;
                            tokio::time::sleep(pause).await;
                            exchange.declare(server).await;
                        })
                        .await;
                }
                (3, Some(exchange)) => {
                    let pause = draws.time(0.0, 2.0);
                    self.chronicle
                        .note("RabbitMQ", "permission denied", async {
                            exchange.allow(server, false).await;
                            tokio::time::sleep(pause).await;
                            exchange.allow(server, true).await;
                        })
                        .await;
                }
                _ => self.weather("RabbitMQ", network, &mut draws).await,
            }
        }
    }

    /// Not by a proxy: clients go to the address that the broker gives them.
    async fn kafka(&self, kafka: Option<&mut Kafka>, topic: Option<&LateTopic>) {
        let Some(Kafka { server, .. }) = kafka else {
            return;
        };
        let mut draws = self.draws(5);
        if let Some(topic) = topic {
            self.chronicle
                .note("Kafka", "no topic", async {
                    draws.rest().await;
                    topic.create(server).await;
                })
                .await;
        }
        while draws.rest().await {
            if draws.random.random() {
                self.kill("Kafka", server, &mut draws).await;
            } else {
                self.freeze("Kafka", server, &mut draws).await;
            }
        }
    }

    async fn pooler(&self, pooler: Option<&mut PgBouncer>) {
        let Some(pooler) = pooler else { return };
        let mut draws = self.draws(7);
        while draws.rest().await {
            if draws.random.random() {
                self.kill("PgBouncer", pooler, &mut draws).await;
            } else {
                self.freeze("PgBouncer", pooler, &mut draws).await;
            }
        }
    }

    /// The broker dies, and comes back with its data.
    async fn kill(&self, victim: &'static str, server: &mut impl PrivateServer, draws: &mut Draws) {
        let pause = draws.time(0.0, 4.0);
        let kill = async {
            server.kill().await;
            tokio::time::sleep(pause).await;
            server.start_again().await;
        };
        self.chronicle.note(victim, "SIGKILL", kill).await;
    }

    /// The broker hangs for a while.
    async fn freeze(&self, victim: &'static str, server: &impl PrivateServer, draws: &mut Draws) {
        let pause = draws.time(0.5, 6.0);
        let freeze = async {
            server.freeze().await;
            tokio::time::sleep(pause).await;
            server.thaw();
        };
        self.chronicle.note(victim, "SIGSTOP", freeze).await;
    }

    /// Something that a network does.
    async fn weather(&self, victim: &'static str, network: &Proxy, draws: &mut Draws) {
        let calm = Weather::default();
        let delay = draws.time(0.005, 0.1);
        let rate = draws.random.random_range(50_000..500_000);
        let (name, weather) = match draws.random.random_range(0..5) {
            0 => {
                let cut = async { network.cut() };
                return self.chronicle.note(victim, "connections cut", cut).await;
            }
            1 => ("requests vanish", Weather { deaf: true, ..calm }),
            2 => ("answers vanish", Weather { mute: true, ..calm }),
            3 => ("latency", Weather { delay, ..calm }),
            _ => ("slow link", Weather { rate, ..calm }),
        };
        let pause = draws.time(0.5, 6.0);
        let change = async {
            network.set(weather);
            tokio::time::sleep(pause).await;
            network.set(calm);
        };
        self.chronicle.note(victim, name, change).await;
    }
}

/// What one tormentor draws from.
struct Draws {
    random: StdRng,
    end: Instant,
}

impl Draws {
    /// Rests between two faults. `false`: it is over.
    async fn rest(&mut self) -> bool {
        tokio::time::sleep(self.time(0.5, 6.0)).await;
        Instant::now() < self.end
    }

    fn time(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(self.random.random_range(least..most))
    }
}

/// The server dies, and its replica, which had stopped to follow a while before, takes its place.
pub(crate) async fn fail_over(server: &mut PrivatePostgres, behind: Duration, down: Duration) {
    let mut replica = server.replica().await;
    replica.stop(Stop::Fast).await;
    tokio::time::sleep(behind).await;
    server.stop(Stop::Kill).await;
    tokio::time::sleep(down).await;
    replica.move_to(server.port);
    // Without its primary: it must not wait for it.
    replica.start_again().await;
    replica.promote().await;
    *server = replica;
}

/// Executes a statement in a transaction that stays open. Nothing happens if no connection is to be had.
async fn hold(url: &str, sql: &str, pause: Duration) {
    let Ok(mut connection) = connect(url).await else {
        return;
    };
    let held = async {
        connection.execute("BEGIN").await?;
        connection
            .execute(sqlx::AssertSqlSafe(sql.to_owned()))
            .await?;
        tokio::time::sleep(pause).await;
        connection.execute("COMMIT").await
    };
    // The server may be restarted meanwhile by nobody else, but the wait for a lock may end in a deadlock.
    drop(held.await);
    drop(connection.close().await);
}

/// Takes all connections that there are.
async fn exhaust(url: &str, pause: Duration) {
    let mut taken = Vec::new();
    while taken.len() < SLOTS {
        match connect(url).await {
            Ok(connection) => taken.push(connection),
            Err(_) => break,
        }
    }
    tokio::time::sleep(pause).await;
    for connection in taken {
        drop(connection.close().await);
    }
}
