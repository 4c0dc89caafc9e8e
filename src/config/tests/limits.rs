//! Values that no key of a table takes, and what is said about them.

use super::findings::{check, check_after, check_source};

#[test]
fn relay_and_admin() {
    let long = "x".repeat(64);
    check_after(
        &format!("[relay]\nname = '{long}'\n"),
        &[("relay.name", 7, "1 to 63 letters")],
    );
    check_after(
        "[relay]\nshutdown_timeout = '2h'\n",
        &[("relay.shutdown_timeout", 7, "from 1ms to 1h")],
    );
    check_after(
        "[admin]\nlisten = 'localhost:8080'\ntoken = ''\n",
        &[
            ("admin.listen", 7, "an IP address and a port"),
            ("admin.token", 8, "is empty"),
        ],
    );
}

#[test]
fn sources() {
    check_source(
        "batch_size = 0\npoll_interval = '0s'\nafter_delivery = 'marked'\nretention = '0s'\nmode = 'pull'\n",
        &[
            ("sources.a.batch_size", 6, "must be from 1 to 10000"),
            ("sources.a.poll_interval", 7, "must be from 1ms to 1h"),
            (
                "sources.a.after_delivery",
                8,
                "did you mean `mark`?: write one of mark, delete, keep",
            ),
            ("sources.a.retention", 9, "must be from 1s to 3650d"),
            ("sources.a.mode", 10, "write one of poll, notify"),
        ],
    );
    for (table, fragment) in [
        ("", "is empty"),
        ("a.b.c", "too many dots"),
        ("a.", "lacks the name"),
        (".a", "lacks the name"),
        ("\"a\"", "without quotation marks"),
        (&"x".repeat(64), "63 bytes"),
    ] {
        check_source(
            &format!("table = '{table}'\n"),
            &[("sources.a.table", 6, fragment)],
        );
    }
    check_source(
        "columns.sent_at = false\n",
        &[("sources.a.columns.sent_at", 6, "needed by after_delivery")],
    );
    check_source(
        "columns.seq = ''\n",
        &[("sources.a.columns.seq", 6, "is empty")],
    );
    check_source(
        "tls.cert = 'x'\n",
        &[("sources.a.tls.key", 6, "is missing: cert needs the key")],
    );
    check_source(
        "tls = { key = 'x' }\n",
        &[("sources.a.tls.cert", 6, "key needs the certificate")],
    );
    check_after(
        "[sources.'a b']\ntype = 'postgres'\nurl = 'postgres://h'\n",
        &[("sources.\"a b\"", 6, "valid name")],
    );
    for (url, fragment) in [
        ("", "is empty"),
        ("mysql://h", "must begin with"),
        ("postgres://h /x", "a space"),
    ] {
        let text =
            format!("[sinks.b]\ntype = 'stdout'\n[sources.a]\ntype = 'postgres'\nurl = '{url}'\n");
        check(&text, &[("sources.a.url", 5, fragment)]);
    }
}

#[test]
fn a_long_name_of_a_table_is_only_too_long_for_postgres() {
    let table = "x".repeat(64);
    check_after(
        &format!("[sources.c]\ntype = 'sqlite'\npath = 'c.db'\ntable = '{table}'\n"),
        if cfg!(feature = "sqlite") {
            &[]
        } else {
            &[("sources.c.type", 7, "made without the feature")]
        },
    );
}

#[test]
fn sinks() {
    check_after(
        "inputs = ['a', 'aa', '']\nstart = 'now'\nmax_in_flight = 0\nmax_in_flight_bytes = '1B'\nmax_parked = 0\n\
         flush_interval = '2m'\n",
        &[
            ("sinks.b.inputs", 6, "`` is the name of no source"),
            ("sinks.b.inputs", 6, "`aa` is the name of no source: write"),
            (
                "sinks.b.start",
                7,
                "write one of latest, unsettled, earliest",
            ),
            ("sinks.b.max_in_flight", 8, "must be from 1 to 65536"),
            (
                "sinks.b.max_in_flight_bytes",
                9,
                "must be from 1KiB to 64GiB",
            ),
            ("sinks.b.max_parked", 10, "must be from 1 to 1000000"),
            ("sinks.b.flush_interval", 11, "must be from 1ms to 1m"),
        ],
    );
    check_after("inputs = []\n", &[("sinks.b.inputs", 6, "is empty")]);
    check_after(
        "max_in_flight_bytes = '64mb'\n",
        &[("sinks.b.max_in_flight_bytes", 6, "`64mb` is not a size")],
    );
    check_after(
        "[sinks.-]\ntype = 'stdout'\n",
        &[("sinks.-", 6, "not a valid name")],
    );
    check_after(
        "[sinks.m]\ntype = 'mock'\ndelay = '2h'\nfail = 1.5\nreject = nan\n",
        &[
            ("sinks.m.delay", 8, "must be from 0ms to 1h"),
            ("sinks.m.fail", 9, "must be from 0.0 to 1.0"),
            ("sinks.m.reject", 10, "must be from 0.0 to 1.0"),
        ],
    );
}

#[test]
fn retry_and_envelope() {
    check_after(
        "retry.initial_delay = '31s'\n",
        &[(
            "sinks.b.retry.initial_delay",
            6,
            "longer than retry.max_delay",
        )],
    );
    check_after(
        "[retry]\nmax_delay = '0ms'\nmax_retries = 1001\n",
        &[
            ("retry.max_delay", 7, "from 1ms to 1d"),
            ("retry.max_retries", 8, "from 0 to 1000"),
        ],
    );
    check_after(
        "[envelope]\nformat = 'jsno'\n",
        &[("envelope.format", 7, "did you mean `json`?")],
    );
    check_after(
        "[envelope]\naggregate_field = ''\n",
        &[("envelope.aggregate_field", 7, "is empty")],
    );
    check_after(
        "envelope.aggregate_field = 'payload'\n",
        &[("sinks.b.envelope.aggregate_field", 6, "has already")],
    );
    check_after(
        "envelope.format = 'cloudevents-binary'\n",
        &[("sinks.b.envelope.format", 6, "standard output has none")],
    );
    check_after(
        "[envelope]\nformat = 'cloudevents-binary'\n",
        &[(
            "envelope.format",
            7,
            "set sinks.b.envelope.format = \"cloudevents\"",
        )],
    );
    check_after(
        "[envelope]\nsource = ''\n",
        &[("envelope.source", 7, "is empty")],
    );
    for source in ["a b", "/é", "/%zz", "/a%4", "<x>", "a\\u007f"] {
        check_after(
            &format!("[envelope]\nsource = \"{source}\"\n"),
            &[("envelope.source", 7, "is no URI reference")],
        );
    }
    check_after(
        "envelope.source = '{x}'\n",
        &[("sinks.b.envelope.source", 6, "is no URI reference")],
    );
}

#[test]
fn an_error_in_what_all_sinks_share_is_said_once() {
    check_after(
        "[sinks.c]\ntype = 'stdout'\n[retry]\nmax_delay = 'x'\n",
        &[("retry.max_delay", 9, "not a duration")],
    );
}
