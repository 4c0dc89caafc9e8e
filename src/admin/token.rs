//! Who may see dead letters and act on them.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};

use crate::config::{self, Secret};

/// What `[admin]` says of it.
#[derive(Debug, Clone)]
pub(super) struct Access {
    token: Option<Secret>,
    /// Whether nobody but this machine can ask.
    is_local: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
}

const NO_TOKEN: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    reason: "no token is configured: set [admin] token and restart the relay",
};

const MISSING: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    reason: "the token is missing: send it as `Authorization: Bearer TOKEN`",
};

const WRONG: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    reason: "the token is not the one of [admin] token",
};

impl Access {
    pub(super) fn of(config: &config::Admin) -> Self {
        Self {
            token: config.token.clone(),
            is_local: config.listen.ip().is_loopback(),
        }
    }

    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// Whether anybody may act.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether everybody who gets through to the endpoints may read.
    pub(super) fn is_readable_by_all(&self) -> bool {
        self.token.is_none() && self.is_local
    }

    /// Types, keys and reasons of events need the token. Where none is configured, this machine may read them.
    pub(super) fn may_read(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.is_readable_by_all() {
            return Ok(());
        }
        self.may_act(headers)
    }

    /// A browser sends this header for no other site, so that a request that has it was meant.
    pub(super) fn may_act(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = self.token.as_ref().ok_or(NO_TOKEN)?;
        let given = headers.get(AUTHORIZATION).ok_or(MISSING)?.as_bytes();
        let (scheme, given) = given.split_at_checked(SCHEME.len()).ok_or(MISSING)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(MISSING);
        }
        if is_same(given.trim_ascii(), token.expose().as_bytes()) {
            Ok(())
        } else {
            Err(WRONG)
        }
    }
}

const SCHEME: &[u8] = b"bearer ";

/// In a time that depends on the lengths only.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differing = given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(listen: &str, token: Option<&str>) -> Access {
        Access::of(&config::Admin {
            listen: listen.parse().expect("an address"),
            token: token.map(Secret::new),
            health: true,
            metrics: true,
        })
    }

    fn headers(authorization: Option<&str>) -> HeaderMap {
        let value = authorization.map(|text| text.parse().expect("a header value"));
        value
            .into_iter()
            .map(|value| (AUTHORIZATION, value))
            .collect()
    }

    #[test]
    fn only_the_token_acts() {
        let access = access("127.0.0.1:1", Some("s3cret"));
        for (authorization, expected) in [
            (None, Err(MISSING)),
            (Some("s3cret"), Err(MISSING)),
            (Some("Basic s3cret"), Err(MISSING)),
            (Some("Bearer "), Err(WRONG)),
            (Some("Bearer s3cre"), Err(WRONG)),
            (Some("Bearer s3cret2"), Err(WRONG)),
            (Some("Bearer s3cret"), Ok(())),
            (Some("bearer  s3cret"), Ok(())),
        ] {
            let headers = headers(authorization);
            assert_eq!(access.may_act(&headers), expected, "{authorization:?}");
            assert_eq!(access.may_read(&headers), expected, "{authorization:?}");
        }
    }

    #[test]
    fn without_a_token_nobody_acts_and_this_machine_reads() {
        let bearer = headers(Some("Bearer x"));
        for (listen, read) in [
            ("127.0.0.1:1", Ok(())),
            ("[::1]:1", Ok(())),
            ("0.0.0.0:1", Err(NO_TOKEN)),
        ] {
            let access = access(listen, None);
            assert_eq!(access.may_act(&bearer), Err(NO_TOKEN));
            assert_eq!(access.may_read(&headers(None)), read, "{listen}");
        }
    }
}
