//! Finding out the message that the broker ends the connection for.
//!
//! A hard error names no message, and may as well be the broker's own trouble. So a message is blamed only if the
//! connection ended twice while it alone was on its way, and the broker has taken others in between. The first time it
//! is put off with its key, so that others go on and show whether the broker is well.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use uuid::Uuid;

use super::refusal::Failure;

/// Messages under suspicion at most; beyond it all are acquitted, and some time is lost.
const MAX_ACCUSED: usize = 1_000;

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
    /// How many the broker has taken or returned.
    answered: u64,
    /// Messages that a connection ended with, and how many the broker had answered by then.
    accused: HashMap<Uuid, u64>,
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Flight<'a> {
    suspects: &'a Suspects,
    id: Uuid,
    number: u64,
    /// Nothing else was on its way when it began.
    began_alone: bool,
}

impl Suspects {
    pub(super) fn begin(&self, id: Uuid) -> Flight<'_> {
        let mut inner = self.lock();
        inner.in_flight += 1;
        inner.begun += 1;
        Flight {
            suspects: self,
            id,
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
        inner.answered += 1;
        inner.accused.remove(&self.id);
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
        let answered = inner.answered;
        if inner.accused.len() >= MAX_ACCUSED {
            inner.accused.clear();
        }
        if *inner.accused.entry(self.id).or_insert(answered) == answered {
            return Failure::Suspected(error);
        }
        inner.accused.remove(&self.id);
        Failure::Convicted(error)
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
    use lapin::protocol::AMQPError;

    use super::*;

    fn crash(kind: AMQPHardError) -> Failure {
        Failure::Channel(ErrorKind::ProtocolError(AMQPError::new(kind.into(), "x".into())).into())
    }

    fn crashed() -> Failure {
        crash(AMQPHardError::INTERNALERROR)
    }

    fn take(suspects: &Suspects, id: u128) {
        suspects.begin(Uuid::from_u128(id)).answered();
    }

    #[test]
    fn one_is_blamed_if_it_was_alone_twice_and_others_passed_in_between() {
        let suspects = Suspects::default();
        let poison = || suspects.begin(Uuid::from_u128(7)).failed(crashed());
        assert!(matches!(poison(), Failure::Suspected(_)));
        assert!(
            matches!(poison(), Failure::Suspected(_)),
            "the broker may be ill"
        );
        take(&suspects, 1);
        assert!(matches!(poison(), Failure::Convicted(_)));
        assert!(matches!(poison(), Failure::Suspected(_)), "a new trial");
        take(&suspects, 7);
        assert!(matches!(poison(), Failure::Suspected(_)), "it passed once");
    }

    #[test]
    fn nobody_is_blamed_in_company_or_for_what_messages_do_not_cause() {
        let suspects = Suspects::default();
        let one = suspects.begin(Uuid::from_u128(1));
        let other = suspects.begin(Uuid::from_u128(2));
        for flight in [&one, &other] {
            assert!(matches!(flight.failed(crashed()), Failure::Channel(_)));
        }
        drop(other);
        assert!(
            matches!(one.failed(crashed()), Failure::Channel(_)),
            "it was not alone all the time"
        );
        drop(one);
        let alone = suspects.begin(Uuid::from_u128(3));
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
