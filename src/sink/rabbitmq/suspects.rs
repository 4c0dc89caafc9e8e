//! Finding out the message that the broker ends the connection for.
//!
//! A hard error names no message, and may as well be the broker's own trouble. So a message is blamed only if the
//! connection ended again and again while it alone was on its way, and the broker has taken others to the same exchange
//! in between. The first time it is put off with its key, so that others go on and show whether the broker is well; from
//! then on each time counts as a rejection, and `max_retries` has the last word.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use tokio::time::Instant;
use uuid::Uuid;

use super::parcel::Parcel;
use super::refusal::Failure;

/// Messages under suspicion at most; beyond it all are acquitted, and some time is lost.
const MAX_ACCUSED: usize = 1_000;

/// An accusation is forgotten after so long: what ended connections hours apart was something else. Longer than a parked
/// message waits with the usual `max_delay`.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What is on its way, over all connections of a sink, and what was found out.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    in_flight: usize,
    /// How many have ever been on their way.
    begun: u64,
    /// Messages that a connection ended with.
    accused: HashMap<Uuid, Accusation>,
}

#[derive(Debug)]
struct Accusation {
    at: Instant,
    exchange: String,
    /// Since then the broker has answered another message to the same exchange.
    is_well: bool,
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Flight<'a> {
    suspects: &'a Suspects,
    id: Uuid,
    exchange: String,
    number: u64,
    /// Nothing else was on its way when it began.
    began_alone: bool,
}

impl Suspects {
    pub(super) fn begin(&self, parcel: &Parcel) -> Flight<'_> {
        let mut inner = self.lock();
        inner.in_flight += 1;
        inner.begun += 1;
        Flight {
            suspects: self,
            id: parcel.id,
            exchange: parcel.exchange.to_string(),
            number: inner.begun,
            began_alone: inner.in_flight == 1,
        }
    }

    /// No code that may panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight<'_> {
    /// The broker has answered it.
    pub(super) fn answered(&self) {
        let mut inner = self.suspects.lock();
        inner.accused.remove(&self.id);
        for accusation in inner.accused.values_mut() {
            accusation.is_well |= accusation.exchange == self.exchange;
        }
    }

    /// It failed: says whether that was its own fault.
    pub(super) fn failed(&self, failure: Failure) -> Failure {
        let (Failure::Channel(error) | Failure::Alone(error)) = &failure else {
            return failure;
        };
        let mut inner = self.suspects.lock();
        if !may_be_caused(error) || !self.began_alone || inner.begun != self.number {
            return failure;
        }
        let error = error.clone();
        let at = Instant::now();
        inner
            .accused
            .retain(|_, accusation| at - accusation.at < FORGOTTEN_AFTER);
        if inner.accused.len() >= MAX_ACCUSED {
            inner.accused.clear();
        }
        let accusation = Accusation {
            at,
            exchange: self.exchange.clone(),
            is_well: false,
        };
        match inner.accused.insert(self.id, accusation) {
            Some(Accusation { is_well: true, .. }) => Failure::Accused(error),
            _ => Failure::Suspected(error),
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.suspects.lock().in_flight -= 1;
    }
}

/// Whether a message can be the cause of an error that ends the connection. An operator, a limit of resources and the
/// closed channel of another message are none.
fn may_be_caused(error: &lapin::Error) -> bool {
    use AMQPHardError::{
        COMMANDINVALID, FRAMEERROR, INTERNALERROR, NOTIMPLEMENTED, SYNTAXERROR, UNEXPECTEDFRAME,
    };
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    matches!(
        error.kind(),
        AMQPErrorKind::Hard(
            COMMANDINVALID
                | FRAMEERROR
                | INTERNALERROR
                | NOTIMPLEMENTED
                | SYNTAXERROR
                | UNEXPECTEDFRAME
        )
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::BasicProperties;
    use lapin::protocol::AMQPError;

    use super::*;

    fn crash(kind: AMQPHardError) -> Failure {
        Failure::Channel(ErrorKind::ProtocolError(AMQPError::new(kind.into(), "x".into())).into())
    }

    fn crashed() -> Failure {
        crash(AMQPHardError::INTERNALERROR)
    }

    fn parcel(id: u128, exchange: &str) -> Parcel {
        Parcel {
            id: Uuid::from_u128(id),
            exchange: exchange.into(),
            routing_key: "k".into(),
            properties: BasicProperties::default(),
            body: Bytes::new(),
        }
    }

    fn take(suspects: &Suspects, id: u128, exchange: &str) {
        suspects.begin(&parcel(id, exchange)).answered();
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_blamed_if_it_was_alone_twice_and_others_passed_in_between() {
        let suspects = Suspects::default();
        let poison = || suspects.begin(&parcel(7, "e")).failed(crashed());
        assert!(matches!(poison(), Failure::Suspected(_)));
        assert!(
            matches!(poison(), Failure::Suspected(_)),
            "the broker may be ill"
        );
        take(&suspects, 1, "other");
        assert!(
            matches!(poison(), Failure::Suspected(_)),
            "the exchange may be ill"
        );
        for id in 2..5 {
            take(&suspects, id, "e");
            assert!(matches!(poison(), Failure::Accused(_)));
        }
        assert!(matches!(poison(), Failure::Suspected(_)), "none in between");
        take(&suspects, 7, "e");
        assert!(matches!(poison(), Failure::Suspected(_)), "it passed once");
        take(&suspects, 1, "e");
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert!(matches!(poison(), Failure::Suspected(_)), "long ago");
    }

    #[test]
    fn nobody_is_blamed_in_company_or_for_what_messages_do_not_cause() {
        let suspects = Suspects::default();
        let one = suspects.begin(&parcel(1, "e"));
        let other = suspects.begin(&parcel(2, "e"));
        for flight in [&one, &other] {
            assert!(matches!(flight.failed(crashed()), Failure::Channel(_)));
        }
        drop(other);
        assert!(
            matches!(one.failed(crashed()), Failure::Channel(_)),
            "it was not alone all the time"
        );
        drop(one);
        let alone = suspects.begin(&parcel(3, "e"));
        for kind in [
            AMQPHardError::CONNECTIONFORCED,
            AMQPHardError::RESOURCEERROR,
            AMQPHardError::CHANNELERROR,
            AMQPHardError::NOTALLOWED,
        ] {
            assert!(matches!(alone.failed(crash(kind)), Failure::Channel(_)));
        }
        assert!(matches!(
            alone.failed(Failure::Disconnected),
            Failure::Disconnected
        ));
    }
}
