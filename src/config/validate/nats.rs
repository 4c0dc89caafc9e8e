//! What sinks of NATS have beside a subject: servers, credentials, a stream (JetStream).

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::credentials;
use super::scalar::{DAY, MINUTE, SECOND, choice, optional_duration, optional_size};
use super::tls;
use crate::config::finding::KeyPath;
use crate::config::report::Report;
use crate::config::typed::{self, List};
use crate::config::validated::{Jetstream, JetstreamStream, Nats, NatsAuth};
use crate::config::{Contents, Secret};

/// What a server's URL may begin with.
const SCHEMES: [&str; 2] = ["nats", "tls"];

pub(super) fn jetstream(
    path: &KeyPath,
    typed: &typed::Jetstream,
    report: &mut Report,
) -> Jetstream {
    let stream = typed.stream.as_ref();
    let stream = stream.and_then(|typed| self::stream(&path.key("stream"), typed, report));
    let expected_path = path.key("expected_stream");
    if let Some(expected) = &typed.expected_stream {
        stream_name(&expected_path, expected, report);
        if stream
            .as_ref()
            .is_some_and(|stream| stream.name != *expected)
        {
            report.error(
                &expected_path,
                "is another stream than the one to create: every event would be refused",
            );
        }
    }
    Jetstream {
        servers: servers(&path.key("url"), typed.url.as_ref(), report),
        auth: auth(&path.key("auth"), typed.auth.as_ref(), report),
        tls: typed
            .tls
            .as_ref()
            .map(|typed| tls(&path.key("tls"), typed, report)),
        expected_stream: typed.expected_stream.clone(),
        stream,
    }
}

pub(super) fn nats(path: &KeyPath, typed: &typed::Nats, report: &mut Report) -> Nats {
    report.warn(
        &path.key("type"),
        "keeps nothing: the server takes an event and hands it to whoever is subscribed at that moment; where nobody is, \
         it is gone and counts as delivered. To keep events, use jetstream",
    );
    Nats {
        servers: servers(&path.key("url"), typed.url.as_ref(), report),
        auth: auth(&path.key("auth"), typed.auth.as_ref(), report),
        tls: typed
            .tls
            .as_ref()
            .map(|typed| tls(&path.key("tls"), typed, report)),
    }
}

fn servers(path: &KeyPath, given: Option<&List<Secret>>, report: &mut Report) -> Vec<Secret> {
    let example = "write \"nats://host:4222\"";
    let Some(given) = report.required(path, given, &format!("{example}, or set NATS_URL")) else {
        return Vec::new();
    };
    let servers = given.split();
    if servers.is_empty() {
        report.error(path, format!("is empty: {example}"));
    }
    for (position, server) in servers.iter().enumerate() {
        let path = match given {
            List::One(_) => path.clone(),
            List::Many(_) => path.index(position),
        };
        let address = match server.split_once("://") {
            Some((scheme, address)) if SCHEMES.contains(&scheme) => address,
            Some(_) => {
                report.error(
                    &path,
                    format!("must begin with nats:// or tls://: {example}"),
                );
                continue;
            }
            None => server,
        };
        if address.rsplit('@').next().is_none_or(str::is_empty) {
            report.error(&path, format!("names no server: {example}"));
        } else if server.contains(char::is_whitespace) {
            report.error(
                &path,
                "holds a space: separate servers by commas, or write a list",
            );
        }
    }
    servers.into_iter().map(Secret::new).collect()
}

fn auth(path: &KeyPath, typed: Option<&typed::NatsAuth>, report: &mut Report) -> NatsAuth {
    let Some(typed) = typed else {
        return NatsAuth::None;
    };
    let ways = [
        ("user", typed.user.is_some() || typed.password.is_some()),
        ("token", typed.token.is_some()),
        ("nkey", typed.nkey.is_some()),
        ("creds", typed.creds.is_some()),
    ];
    let chosen: Vec<&str> = ways
        .iter()
        .filter(|(_, given)| *given)
        .map(|(way, _)| *way)
        .collect();
    if chosen.len() > 1 {
        report.error(
            path,
            format!("has {}: keep one of them", chosen.join(" and ")),
        );
    }
    for (key, given) in [("token", &typed.token), ("nkey", &typed.nkey)] {
        if given
            .as_ref()
            .is_some_and(|secret| secret.expose().is_empty())
        {
            report.error(&path.key(key), "is empty: set it, or leave the key out");
        }
    }
    match typed {
        typed::NatsAuth { user, password, .. } if user.is_some() || password.is_some() => {
            credentials(path, user.as_ref(), password.as_ref(), report)
                .map_or(NatsAuth::None, |(user, password)| {
                    NatsAuth::User(user, password)
                })
        }
        typed::NatsAuth {
            token: Some(token), ..
        } => NatsAuth::Token(token.clone()),
        typed::NatsAuth {
            nkey: Some(nkey), ..
        } => NatsAuth::Nkey(nkey.clone()),
        typed::NatsAuth {
            creds: Some(creds), ..
        } => {
            if creds.is_empty() {
                report.error(
                    &path.key("creds"),
                    "is empty: write the path of a credentials file",
                );
            }
            let path = PathBuf::from(creds);
            let contents = Contents::of([path.as_path()]);
            NatsAuth::Credentials(path, contents)
        }
        _ => NatsAuth::None,
    }
}

/// The stream; `None` if it lacks a name or subjects, which is reported.
fn stream(
    path: &KeyPath,
    typed: &typed::JetstreamStream,
    report: &mut Report,
) -> Option<JetstreamStream> {
    let max_age = optional_duration(
        report,
        &path.key("max_age"),
        typed.max_age.as_ref(),
        SECOND..=3_650 * DAY,
    );
    let window_path = path.key("duplicate_window");
    let smallest = Duration::from_millis(100);
    let window = optional_duration(
        report,
        &window_path,
        typed.duplicate_window.as_ref(),
        smallest..=DAY,
    );
    let window = match (window, max_age) {
        (Some(window), Some(age)) if window > age => {
            report.error(
                &window_path,
                "is longer than max_age, which the server refuses: lower it, or raise max_age",
            );
            window
        }
        // The default gives way to what was asked for.
        (None, Some(age)) => age.min(2 * MINUTE),
        (window, _) => window.unwrap_or(2 * MINUTE),
    };
    let storages = [("file", true), ("memory", false)];
    let file_storage = choice(
        report,
        &path.key("storage"),
        typed.storage.as_deref(),
        &storages,
    );
    let replicas = typed.replicas.unwrap_or(1);
    if ![1, 3, 5].contains(&replicas) {
        report.error(
            &path.key("replicas"),
            "must be 1, 3 or 5: an even number survives no more than the odd one below",
        );
    }
    let largest = i64::MAX.unsigned_abs();
    let max_bytes = optional_size(
        report,
        &path.key("max_bytes"),
        typed.max_bytes.as_ref(),
        1 << 10..=largest,
    );
    let subjects = subjects(&path.key("subjects"), typed.subjects.as_ref(), report);
    let name = typed.name.clone();
    let name = report.required(
        &path.key("name"),
        name,
        "say what the stream is called, or take out [stream]",
    );
    if let Some(name) = &name {
        stream_name(&path.key("name"), name, report);
    }
    Some(JetstreamStream {
        name: name?,
        subjects: subjects?,
        replicas: replicas as usize,
        file_storage: file_storage.unwrap_or(true),
        duplicate_window: window,
        max_age,
        max_bytes,
    })
}

fn subjects(path: &KeyPath, given: Option<&List>, report: &mut Report) -> Option<Vec<String>> {
    let given = report.required(
        path,
        given,
        "say which subjects the stream captures, such as \"orders.>\"",
    )?;
    let subjects = given.split();
    if subjects.is_empty() {
        report.error(
            path,
            "is empty: say which subjects the stream captures, such as \"orders.>\"",
        );
    }
    for subject in &subjects {
        let tokens: Vec<&str> = subject.split('.').collect();
        let last = tokens.len() - 1;
        let is_token = |(position, token): (usize, &&str)| match *token {
            "" => false,
            ">" => position == last,
            "*" => true,
            token => {
                !token.contains(['*', '>'])
                    && !token.contains(|c: char| c.is_whitespace() || c.is_control())
            }
        };
        if !tokens.iter().enumerate().all(is_token) {
            let quoted = report.quote(path, subject);
            report.error(path, format!("{quoted} is no subject: write parts with a dot between them, such as \"orders.>\""));
        }
    }
    Some(subjects.into_iter().map(str::to_owned).collect())
}

fn stream_name(path: &KeyPath, name: &str, report: &mut Report) {
    let is_bad =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if name.is_empty() || name.contains(is_bad) {
        report.error(
            path,
            "is not the name of a stream: no spaces, dots, slashes, `*` or `>`",
        );
    }
}
