//! Bad files, and what is said about them; `limits.rs` has bad values.

use super::{FINE, assert_findings, env};
use crate::config::Config;

/// Asserts what is wrong with `text`.
pub(super) fn check(text: &str, expected: &[(&str, usize, &str)]) {
    let errors = Config::from_toml(text, &env(&[])).err();
    let findings = errors
        .as_ref()
        .map(|errors| errors.findings())
        .unwrap_or_default();
    assert_findings(findings, expected, text);
}

/// Asserts what is wrong with `lines` after a file that is fine; they begin at line 6.
pub(super) fn check_after(lines: &str, expected: &[(&str, usize, &str)]) {
    check(&format!("{FINE}{lines}"), expected);
}

/// Asserts what is wrong with `lines` in a source; they begin at line 6.
pub(super) fn check_source(lines: &str, expected: &[(&str, usize, &str)]) {
    let head =
        "[sinks.b]\ntype = 'stdout'\n[sources.a]\ntype = 'postgres'\nurl = 'postgres://h/d'\n";
    check(&format!("{head}{lines}"), expected);
}

#[test]
fn syntax() {
    check(
        "a = \n[b\n",
        &[("", 1, "is not TOML"), ("", 2, "is not TOML")],
    );
    check("a = 1\na = 2\n", &[("", 2, "is not TOML: duplicate key")]);
}

#[test]
fn nothing_at_all() {
    check(
        "",
        &[
            ("sinks", 0, "set PUBLISHER_TYPE"),
            ("sources", 0, "set DATABASE_URL"),
        ],
    );
}

#[test]
fn all_errors_at_once_in_the_order_of_the_file() {
    check(
        "[relay]\nname = ''\nshutdown_timeout = 5\ncolour = 'red'\n\
         [sources.a]\ntype = 'postgres'\nbatch_size = 'many'\npoll_interval = '5'\n\
         [sinks.b]\ntype = 'stdout'\ntimeout = '0s'\nretry.max_retries = -1\n",
        &[
            ("relay.name", 2, "not a valid name"),
            (
                "relay.shutdown_timeout",
                3,
                "must be a duration in quotes, such as \"5s\", not a whole number",
            ),
            (
                "relay.colour",
                4,
                "not a known key: this table has name, shutdown_timeout",
            ),
            ("sources.a.url", 5, "is missing: write \"postgres://"),
            (
                "sources.a.batch_size",
                7,
                "must be a whole number, 0 or more and not huge, not a string",
            ),
            ("sources.a.poll_interval", 8, "`5` is not a duration"),
            ("sinks.b.timeout", 11, "must be from 1ms to 10m"),
            (
                "sinks.b.retry.max_retries",
                12,
                "must be a whole number, 0 or more",
            ),
        ],
    );
}

#[test]
fn unknown_keys() {
    check_after(
        "[rely]\nname = 'x'\n",
        &[("rely", 6, "did you mean `relay`?")],
    );
    check_after("[sink.c]\n", &[("sink", 6, "did you mean `sinks`?")]);
    check_after(
        "timout = '5s'\n",
        &[("sinks.b.timout", 6, "did you mean `timeout`?")],
    );
    check_after(
        "tpye = 'x'\n",
        &[("sinks.b.tpye", 6, "did you mean `type`?")],
    );
    check_after(
        "subject = 'x'\n",
        &[(
            "sinks.b.subject",
            6,
            "this table has envelope, flush_interval",
        )],
    );
    check_source(
        "tls.cs = 'x'\n",
        &[("sources.a.tls.cs", 6, "did you mean `ca`?")],
    );
    check_source(
        "columns.key = 'x'\n",
        &[("sources.a.columns.key", 6, "not a known key")],
    );
    check_after(
        "[admin]\n'a b' = 1\n",
        &[(
            "admin.\"a b\"",
            7,
            "this table has health, listen, metrics, token",
        )],
    );
}

#[test]
fn wrong_kinds() {
    check_after(
        "[relay]\nname = 5\n",
        &[("relay.name", 7, "must be a string, not a whole number")],
    );
    check_after(
        "[admin]\nhealth = 'perhaps'\n",
        &[("admin.health", 7, "must be true or false, not a string")],
    );
    check(
        "sources = 1\n[sinks.b]\ntype = 'stdout'\n",
        &[("sources", 1, "must be a table, not a whole number")],
    );
    check(
        "sinks.b = 1\n[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n",
        &[("sinks.b", 1, "must be a table")],
    );
    check_after(
        "[routes]\nto = {}\n",
        &[("routes", 6, "each written as [[routes]], not a table")],
    );
    check_after(
        "inputs = [1]\n",
        &[("sinks.b.inputs[0]", 6, "must be a string")],
    );
    check_after(
        "inputs = 1\n",
        &[(
            "sinks.b.inputs",
            6,
            "a string or a list of strings, not a whole number",
        )],
    );
    check_source(
        "columns.headers = true\n",
        &[(
            "sources.a.columns.headers",
            6,
            "or false if the table has none",
        )],
    );
    check_source(
        "after_delivery = 0\n",
        &[("sources.a.after_delivery", 6, "must be a string")],
    );
    check_after(
        "[retry]\nmax_retries = 1.5\n",
        &[("retry.max_retries", 7, "must be a whole number")],
    );
    check_after(
        "[relay]\nname = 1979-05-27\n",
        &[("relay.name", 7, "is a date")],
    );
    check_after(
        "[retry]\nmax_retries = 99999999999999999999\n",
        &[("retry.max_retries", 7, "into 64 bits")],
    );
}

#[test]
fn types() {
    check(
        "[sources.a]\n[sinks.b]\ntype = 'jetstraem'\n",
        &[
            (
                "sources.a.type",
                1,
                "is missing: write one of postgres, sqlite",
            ),
            (
                "sinks.b.type",
                3,
                "`jetstraem` is no type, did you mean `jetstream`?: write one of jetstream, kafka",
            ),
        ],
    );
    check(
        "[sources.a]\ntype = 1\n[sinks.b]\ntype = 'stdout'\n",
        &[("sources.a.type", 2, "must be a string")],
    );
}

#[test]
#[cfg(not(feature = "nats"))]
fn a_build_without_nats_says_so() {
    check_after(
        "[sinks.c]\ntype = 'jetstream'\nsubject = 'x'\n",
        &[("sinks.c.type", 7, "made without the feature `nats`")],
    );
}

#[test]
fn references() {
    check_after(
        "timeout = '${T}'\nstart = '${file:/nowhere}'\ninputs = ['${', 'a']\n",
        &[
            (
                "sinks.b.timeout",
                6,
                "the environment variable T is not set",
            ),
            ("sinks.b.start", 7, "can't read the file /nowhere"),
            ("sinks.b.inputs[0]", 8, "`${` is not closed"),
        ],
    );
}

#[test]
fn what_one_error_took_away_is_not_missed() {
    // A table that could not be read is not "missing", and neither is what refers to it.
    check(
        "[sources]\na = 1\n[sinks.b]\ntype = 'stdout'\ninputs = 'a'\n",
        &[("sources.a", 2, "must be a table")],
    );
    check(
        "[sources.a]\ntype = 'postgres'\nurl = '${NONE}'\n[sinks.b]\ntype = 'stdout'\n",
        &[("sources.a.url", 3, "NONE is not set")],
    );
    check_after(
        "[[routes]]\nevent_type = 5\nto.b = true\n",
        &[(
            "routes[0].event_type",
            7,
            "must be a string or a list of strings",
        )],
    );
}
