//! Server URLs: what to connect to, apart from the credentials that a URL may carry.
//!
//! The client ignores credentials in a URL, and shows URLs whole in its debug output. So they are taken out
//! here: the addresses that remain can be logged.

use std::fmt;

use async_nats::ServerAddr;

use crate::config::{NatsAuth, Secret};
use crate::sink::connect::ConnectError;

/// Servers of one cluster, without credentials.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Where to connect.
    pub(super) servers: Vec<ServerAddr>,
    /// What the URLs said about authentication.
    pub(super) auth: NatsAuth,
}

impl Addresses {
    /// Parses URLs such as `nats://user:password@host:4222`, `tls://token@host` and `host`.
    pub(super) fn parse(urls: &[Secret]) -> Result<Self, ConnectError> {
        let mut servers = Vec::with_capacity(urls.len());
        let mut auth = NatsAuth::None;
        for url in urls {
            let (server, found) = split(url.expose())?;
            servers.push(server);
            if found != NatsAuth::None && auth != NatsAuth::None && found != auth {
                return Err(ConnectError::config(
                    "url",
                    "the servers of one cluster can't have different credentials",
                ));
            }
            if auth == NatsAuth::None {
                auth = found;
            }
        }
        if servers.is_empty() {
            return Err(ConnectError::config("url", "names no server"));
        }
        Ok(Self { servers, auth })
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, server) in self.servers.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{}:{}", server.host(), server.port())?;
        }
        Ok(())
    }
}

/// One URL's address and credentials. Errors never repeat the URL, which may hold a password.
fn split(url: &str) -> Result<(ServerAddr, NatsAuth), ConnectError> {
    let malformed = |problem: &'static str| ConnectError::config("url", problem);
    let parsed: ServerAddr = url.parse().map_err(|error: std::io::Error| {
        malformed("is not a NATS URL such as nats://host:4222 or tls://host:4222").caused_by(error)
    })?;
    if parsed.is_websocket() {
        return Err(malformed(
            "WebSocket is not supported; use nats:// or tls://",
        ));
    }
    if parsed.host().is_empty() {
        return Err(malformed("names no host"));
    }
    let not_text = || malformed("user and password must be UTF-8 once percent-decoded");
    let user = parsed
        .username()
        .map(|text| decoded(text).ok_or_else(not_text));
    let password = parsed
        .password()
        .map(|text| decoded(text).ok_or_else(not_text));
    let auth = match (user.transpose()?, password.transpose()?) {
        (None, None) => NatsAuth::None,
        (Some(token), None) => NatsAuth::Token(Secret::new(token)),
        (Some(user), Some(password)) => NatsAuth::User(user, Secret::new(password)),
        (None, Some(_)) => return Err(malformed("has a password but no user")),
    };
    let mut bare = parsed.into_inner();
    if auth != NatsAuth::None
        && (bare.set_username("").is_err() || bare.set_password(None).is_err())
    {
        return Err(malformed("has credentials where none can be"));
    }
    let server = ServerAddr::from_url(bare)
        .map_err(|error| malformed("is not a NATS URL").caused_by(error))?;
    Ok((server, auth))
}

/// Undoes percent-encoding. `None` where the result is not UTF-8; a `%` that begins no escape stands for itself.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| text_of_escape(tail)).flatten();
        if let Some(byte) = escape {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The byte that two hexadecimal digits stand for.
fn text_of_escape(tail: &[u8]) -> Option<u8> {
    let digit = |position: usize| {
        let digit = char::from(*tail.get(position)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    Some(digit(0)? << 4 | digit(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(urls: &[&str]) -> Result<Addresses, ConnectError> {
        let urls: Vec<Secret> = urls.iter().copied().map(Secret::new).collect();
        Addresses::parse(&urls)
    }

    #[test]
    fn takes_credentials_out_of_the_url() {
        let user = |user: &str, password: &str| NatsAuth::User(user.into(), Secret::new(password));
        let cases = [
            ("nats://localhost", "localhost:4222", NatsAuth::None),
            ("localhost:4333", "localhost:4333", NatsAuth::None),
            ("tls://[::1]:4333", "::1:4333", NatsAuth::None),
            (
                "nats://relay:s3cret@n1:4333",
                "n1:4333",
                user("relay", "s3cret"),
            ),
            (
                "nats://a%40b:%C3%A9%2Fx%zz@n1",
                "n1:4222",
                user("a@b", "é/x%zz"),
            ),
            (
                "nats://t0ken@n1",
                "n1:4222",
                NatsAuth::Token(Secret::new("t0ken")),
            ),
        ];
        for (url, shown, auth) in cases {
            let addresses = parse(&[url]).expect(url);
            assert_eq!(addresses.to_string(), shown, "{url}");
            assert_eq!(addresses.auth, auth, "{url}");
            let debug = format!("{addresses:?}");
            assert!(
                !debug.contains("s3cret") && !debug.contains("t0ken"),
                "{debug}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_address_without_repeating_it() {
        for url in [
            "",
            "nats://",
            "http://s3cret@host",
            "nats://u:s3cret@host:port",
            "ws://host",
            "nats://:s3cret@host",
        ] {
            let error = parse(&[url]).expect_err(url);
            assert!(
                matches!(error, ConnectError::Config { key: "url", .. }),
                "{url}: {error}"
            );
            let chain = crate::error::chain(&error);
            assert!(!chain.contains("s3cret"), "{url}: {chain}");
        }
        parse(&[]).expect_err("no server at all");
    }

    #[test]
    fn one_cluster_has_one_set_of_credentials() {
        let addresses = parse(&["nats://u:p@n1", "n2"]).expect("one set");
        assert_eq!(addresses.to_string(), "n1:4222, n2:4222");
        parse(&["nats://u:p@n1", "nats://u:q@n2"]).expect_err("two sets");
    }
}
