//! Exchanges, queues and bindings: declaring them, and looking whether they are there.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ErrorKind, ExchangeKind};

use crate::config::RabbitmqDeclare;
use crate::sink::connect::ConnectError;

/// Declares what `wanted` names, durable. What is there and agrees is left as it is.
///
/// # Errors
///
/// `Config` if something is there and differs, or may not be declared; it is not changed.
pub(super) async fn declare(
    connection: &Connection,
    wanted: &RabbitmqDeclare,
) -> Result<(), ConnectError> {
    if *wanted == RabbitmqDeclare::default() {
        return Ok(());
    }
    let channel = connection.create_channel().await.map_err(lost)?;
    if let Some((name, kind)) = &wanted.exchange {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(
                name.as_str().into(),
                kind_of(kind),
                options,
                FieldTable::default(),
            )
            .await
            .map_err(|error| refused(&format!("exchange {name:?} of type {kind}"), error))?;
    }
    for queue in &wanted.queues {
        let kind = if wanted.quorum { "quorum" } else { "classic" };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.as_str().into(), options, arguments)
            .await
            .map_err(|error| refused(&format!("{kind} queue {queue:?}"), error))?;
        let Some((exchange, keys)) = &wanted.bind else {
            continue;
        };
        for key in keys {
            channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    key.as_str().into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .map_err(|error| {
                    let what = format!("binding of queue {queue:?} to {exchange:?} by {key:?}");
                    refused(&what, error)
                })?;
        }
    }
    Ok(())
}

/// Whether an exchange is there. The default exchange always is.
pub(super) async fn has_exchange(
    connection: &Connection,
    name: &str,
) -> Result<bool, ConnectError> {
    if name.is_empty() {
        return Ok(true);
    }
    let channel = connection.create_channel().await.map_err(lost)?;
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let found = channel
        .exchange_declare(
            name.into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await;
    is_there(found)
}

/// Whether a queue is there.
pub(super) async fn has_queue(connection: &Connection, name: &str) -> Result<bool, ConnectError> {
    let channel = connection.create_channel().await.map_err(lost)?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let found = channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await;
    is_there(found)
}

fn is_there<T>(found: Result<T, lapin::Error>) -> Result<bool, ConnectError> {
    match found {
        Ok(_) => Ok(true),
        Err(error) if code_of(&error) == Some(NOT_FOUND) => Ok(false),
        // A queue that another connection has for itself, or whose node is down, is there.
        Err(error) if error.is_amqp_soft_error() => Ok(true),
        Err(error) => Err(lost(error)),
    }
}

const NOT_FOUND: u16 = 404;

fn code_of(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

fn kind_of(kind: &str) -> ExchangeKind {
    match kind {
        "topic" => ExchangeKind::Topic,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        _ => ExchangeKind::Direct,
    }
}

fn refused(what: &str, error: lapin::Error) -> ConnectError {
    /// Locked by another connection, or its node is away: it may be there in a while.
    const RESOURCE_LOCKED: u16 = 405;
    match code_of(&error) {
        Some(code) if error.is_amqp_soft_error() && code != RESOURCE_LOCKED => {
            let problem = format!(
                "can't declare {what}: if it is there with other arguments, write those, or take it out of [declare]"
            );
            ConnectError::config("declare", problem).caused_by(error)
        }
        _ => ConnectError::unavailable(format!("can't declare {what}")).caused_by(error),
    }
}

fn lost(error: lapin::Error) -> ConnectError {
    ConnectError::unavailable("the connection to RabbitMQ was lost").caused_by(error)
}
