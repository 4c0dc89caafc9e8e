//! What the client says of its connections, and what that means to whoever waits for a broker's first answer.

use rdkafka::error::RDKafkaErrorCode;

use crate::sink::connect::ConnectError;

/// What the client has said last of its connections.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Complaint>,
}

#[derive(Debug)]
struct Complaint {
    code: RDKafkaErrorCode,
    reason: String,
    /// It has said since then that all brokers are down.
    all_down: bool,
}

impl Complaints {
    /// The client says what is wrong with a connection before it says that all are down.
    pub(super) fn hear(&mut self, code: RDKafkaErrorCode, reason: &str) {
        let all_down = code == RDKafkaErrorCode::AllBrokersDown;
        match &mut self.last {
            Some(complaint) if all_down => complaint.all_down = true,
            _ => {
                self.last = Some(Complaint {
                    code,
                    reason: reason.to_owned(),
                    all_down,
                });
            }
        }
    }

    /// Why no broker will answer, as far as that is known.
    pub(super) fn obstacle(&self) -> Option<ConnectError> {
        let complaint = self.last.as_ref()?;
        let reason = complaint.reason.clone();
        match complaint.code {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                Some(ConnectError::config("auth", reason))
            }
            RDKafkaErrorCode::SSL => Some(ConnectError::config("tls", reason)),
            _ => complaint
                .all_down
                .then(|| ConnectError::unavailable(format!("no broker can be reached: {reason}"))),
        }
    }
}
