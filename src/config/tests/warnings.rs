//! Files that can be run, and what is said about them all the same.

use super::{FINE, assert_findings, load};

fn check(lines: &str, expected: &[(&str, usize, &str)]) {
    let text = format!("{FINE}{lines}");
    assert_findings(&load(&text).warnings, expected, &text);
}

#[test]
fn keys_that_do_nothing() {
    check("", &[]);
    check(
        "envelope = { format = 'raw', aggregate_field = 'x' }\n",
        &[("sinks.b.envelope.aggregate_field", 6, "does nothing")],
    );
    check(
        "envelope.source = '/x'\n",
        &[("sinks.b.envelope.source", 6, "does nothing")],
    );
    check(
        "envelope = { format = 'cloudevents', aggregate_field = 'x' }\n",
        &[("sinks.b.envelope.aggregate_field", 6, "does nothing")],
    );
    check(
        "[routing]\nunrouted = 'skip'\n",
        &[("routing.unrouted", 7, "does nothing without [[routes]]")],
    );
    check(
        "[sources.c]\ntype = 'postgres'\nurl = 'postgres://h'\nmode = 'poll'\nfallback_interval = '1s'\n\
         after_delivery = 'delete'\nretention = '1d'\n",
        &[
            (
                "sources.c.fallback_interval",
                10,
                "does nothing with mode = \"poll\"",
            ),
            ("sources.c.retention", 12, "leaves no row"),
        ],
    );
}

#[test]
fn what_nothing_reaches() {
    check(
        "inputs = 'a'\n[sources.c]\ntype = 'postgres'\nurl = 'postgres://h'\n",
        &[("sources.c", 7, "feeds no sink")],
    );
    check(
        "[sinks.c]\ntype = 'stdout'\n[[routes]]\nevent_type = '*'\nto.b = true\n[[routes]]\nevent_type = 'A'\n\
         to.b = true\n",
        &[
            ("sinks.c", 6, "gets no event"),
            (
                "routes[1]",
                11,
                "never reached: what it matches goes by routes[0]",
            ),
        ],
    );
}

#[test]
fn event_types_that_never_get_to_a_route() {
    check(
        "[[routes]]\nevent_type = ['A', 'B*']\nto.b = true\n[[routes]]\nevent_type = ['Bc', 'C']\nto.b = true\n\
         [[routes]]\nevent_type = ['A', 'C']\nto.b = true\n[[routes]]\nevent_type = '*'\nto.b = true\n",
        &[
            (
                "routes[1].event_type",
                10,
                "`Bc` does nothing here: such events go by routes[0]",
            ),
            (
                "routes[2]",
                12,
                "never reached: what it matches goes by routes[0] and routes[1]",
            ),
        ],
    );
}
