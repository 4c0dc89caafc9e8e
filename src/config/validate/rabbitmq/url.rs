//! An AMQP URL: `amqp://user:password@host:port/vhost`. What is wrong with one never shows it, for it may hold a
//! password.

use crate::config::Secret;
use crate::config::validate::percent::decoded;

/// What a URL says.
#[derive(Debug, PartialEq)]
pub(super) struct Address {
    pub(super) encrypted: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) vhost: String,
    pub(super) credentials: Option<(String, Secret)>,
}

impl Default for Address {
    fn default() -> Self {
        Self {
            encrypted: false,
            host: "localhost".to_owned(),
            port: 5672,
            vhost: "/".to_owned(),
            credentials: None,
        }
    }
}

impl Address {
    /// Parses a URL. Without a path, and with `/` alone, the virtual host is `/`: by the letter of the URL's
    /// specification the latter is one with an empty name, which nobody has and many write.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        let (encrypted, rest) = match url.split_once("://") {
            Some(("amqp", rest)) => (false, rest),
            Some(("amqps", rest)) => (true, rest),
            _ => return Err("must begin with amqp:// or amqps://"),
        };
        if rest.contains(['?', '#']) {
            return Err("has parameters behind `?` or `#`, which are not read: take them out");
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, place) = match authority.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, authority),
        };
        if path.contains('/') {
            return Err("has a second `/` in its path: write %2F in the name of a virtual host");
        }
        let (host, port) = host_and_port(place)?;
        let vhost = decoded(path)?;
        Ok(Self {
            encrypted,
            host,
            port: port.unwrap_or(if encrypted { 5671 } else { 5672 }),
            vhost: if vhost.is_empty() {
                "/".to_owned()
            } else {
                vhost
            },
            credentials: user_info.map(credentials).transpose()?,
        })
    }
}

fn credentials(text: &str) -> Result<(String, Secret), &'static str> {
    let (user, password) = text
        .split_once(':')
        .ok_or("has a user and no password, as in user:password@host")?;
    if user.is_empty() {
        return Err("has a password and no user");
    }
    Ok((decoded(user)?, Secret::new(decoded(password)?)))
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("has a `[` and no `]`")?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err("has something behind `]` that is no port"),
            };
            (host, port)
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err("names no host");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',') {
        return Err("has a host with a space or comma in it; one URL names one broker");
    }
    let port = port.map(|port| match port.parse() {
        Ok(0) | Err(_) => Err("has a port that is no number from 1 to 65535"),
        Ok(port) => Ok(port),
    });
    Ok((host.to_owned(), port.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_urls_say() {
        let user = |user: &str, password: &str| Some((user.to_owned(), Secret::new(password)));
        let plain = |host: &str, port, vhost: &str, credentials| Address {
            encrypted: false,
            host: host.to_owned(),
            port,
            vhost: vhost.to_owned(),
            credentials,
        };
        let cases = [
            ("amqp://h", plain("h", 5672, "/", None)),
            ("amqp://h/", plain("h", 5672, "/", None)),
            ("amqp://h/%2f", plain("h", 5672, "/", None)),
            ("amqp://h:1/a%20b", plain("h", 1, "a b", None)),
            ("amqp://[::1]:7", plain("::1", 7, "/", None)),
            ("amqp://[::1]/v", plain("::1", 5672, "v", None)),
            ("amqp://u:p@h", plain("h", 5672, "/", user("u", "p"))),
            (
                "amqp://a%40b:%C3%A9%2F%25:@h/v",
                plain("h", 5672, "v", user("a@b", "é/%:")),
            ),
        ];
        for (url, expected) in cases {
            assert_eq!(Address::parse(url).expect(url), expected, "{url}");
        }
        let encrypted = Address::parse("amqps://h").expect("fine");
        assert_eq!((encrypted.encrypted, encrypted.port), (true, 5671));
    }

    #[test]
    fn what_is_none() {
        for (url, fragment) in [
            ("", "amqp://"),
            ("h:5672", "amqp://"),
            ("http://h", "amqp://"),
            ("amqp://", "no host"),
            ("amqp://u:p@", "no host"),
            ("amqp://u@h", "no password"),
            ("amqp://:p@h", "no user"),
            ("amqp://h:port", "no number"),
            ("amqp://h:0", "no number"),
            ("amqp://h:65536", "no number"),
            ("amqp://[::1", "no `]`"),
            ("amqp://[::1]7", "behind `]`"),
            ("amqp://a,b", "one URL"),
            ("amqp://h/a/b", "%2F"),
            ("amqp://h/%zz", "%25"),
            ("amqp://u:%f@h", "%25"),
            ("amqp://u:%ff@h", "UTF-8"),
            ("amqp://h?heartbeat=10", "take them out"),
        ] {
            let problem = Address::parse(url).expect_err(url);
            assert!(problem.contains(fragment), "{url}: {problem}");
        }
    }
}
