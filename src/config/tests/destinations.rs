//! Bad brokers, destinations and routes, and what is said about them.

use super::FINE;
use super::findings::check;

/// Asserts what is wrong with `lines` in a JetStream sink; they begin at line 7.
#[cfg(feature = "nats")]
fn check_jetstream(lines: &str, expected: &[(&str, usize, &str)]) {
    let head = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h/d'\n[sinks.j]\ntype = 'jetstream'\nurl = 'n:4222'\n";
    check(&format!("{head}{lines}"), expected);
}

#[test]
#[cfg(feature = "nats")]
fn jetstream() {
    check_jetstream(
        "",
        &[(
            "sinks.j.subject",
            4,
            "is missing: set subject, the default destination",
        )],
    );
    for (subject, fragment) in [
        ("", "is empty"),
        ("{event_type}", "begins with a placeholder"),
        ("a.{event_type", "is no template"),
        (
            "a b",
            "NATS subject \"a b\" has ' ' at character 2: white space",
        ),
        ("a.*", "it is a wildcard"),
        ("a..b", "has an empty token"),
        ("a.", "has an empty token"),
        ("$JS.{event_type}", "begins with `$`"),
    ] {
        check_jetstream(
            &format!("subject = '{subject}'\n"),
            &[("sinks.j.subject", 7, fragment)],
        );
    }
    check_jetstream(
        "subject = 'a'\nexpected_stream = 'X'\nauth = { user = 'u', token = 't' }\n[sinks.j.stream]\nname = 'Y'\n\
         subjects = ['a', 'b..c', 'd.>.e', 'x*']\nreplicas = 2\nstorage = 'disk'\nduplicate_window = '1h'\n\
         max_age = '1m'\nmax_bytes = '0B'\n",
        &[
            (
                "sinks.j.expected_stream",
                8,
                "another stream than the one to create",
            ),
            ("sinks.j.auth", 9, "has user and token: keep one"),
            ("sinks.j.auth.password", 9, "a user needs a password"),
            ("sinks.j.stream.subjects", 12, "`b..c` is no subject"),
            ("sinks.j.stream.subjects", 12, "`d.>.e` is no subject"),
            ("sinks.j.stream.subjects", 12, "`x*` is no subject"),
            ("sinks.j.stream.replicas", 13, "must be 1, 3 or 5"),
            ("sinks.j.stream.storage", 14, "write one of file, memory"),
            ("sinks.j.stream.duplicate_window", 15, "longer than max_age"),
            ("sinks.j.stream.max_bytes", 17, "must be from 1KiB"),
        ],
    );
    check_jetstream(
        "subject = 'a'\nstream = {}\nauth.token = ''\n",
        &[
            ("sinks.j.stream.name", 8, "is missing"),
            ("sinks.j.stream.subjects", 8, "is missing"),
            ("sinks.j.auth.token", 9, "is empty"),
        ],
    );
    check_jetstream(
        "subject = 'a'\n[sinks.k]\ntype = 'jetstream'\nsubject = 'a'\nurl = ['http://h', 'nats://', 'a b']\n",
        &[
            ("sinks.k.url[0]", 11, "must begin with nats://"),
            ("sinks.k.url[1]", 11, "names no server"),
            ("sinks.k.url[2]", 11, "holds a space"),
        ],
    );
}

#[test]
#[cfg(feature = "nats")]
fn routes() {
    check_jetstream(
        "[[routes]]\nevent_type = ''\nto = { jj = true, j = true }\n[[routes]]\n[[routes]]\nevent_type = []\n\
         to.j = 'a.{x\n",
        &[("", 13, "is not TOML")],
    );
    check_jetstream(
        "[[routes]]\nevent_type = ['a', '']\nto = { jj = true, j = true }\n[[routes]]\n[[routes]]\nevent_type = []\n\
         to.j = '{aggregate_id}'\n",
        &[
            ("routes[0].event_type", 8, "is no pattern"),
            (
                "routes[0].to.j",
                9,
                "set sinks.j.subject, or write the destination here",
            ),
            ("routes[0].to.jj", 9, "names no sink: write a table"),
            ("routes[1].event_type", 10, "is missing"),
            ("routes[1].to", 10, "is missing"),
            ("routing.unrouted", 11, "no route is for every other event"),
            ("routes[2].event_type", 12, "is empty"),
            ("routes[2].to.j", 13, "begins with a placeholder"),
        ],
    );
    let routed = |to: &str, path: &str, fragment: &str| {
        check_jetstream(
            &format!("[[routes]]\nevent_type = '*'\nto.j = {to}\n"),
            &[(path, 9, fragment)],
        );
    };
    routed("false", "routes[0].to.j", "leave the sink out");
    routed(
        "1",
        "routes[0].to.j",
        "must be true, a destination in quotes",
    );
    routed("''", "routes[0].to.j", "is empty");
    routed(
        "{}",
        "routes[0].to.j",
        "no destination of a sink of type jetstream: write true, \"a.subject\"",
    );
    routed(
        "{ queue = 'q' }",
        "routes[0].to.j",
        "no destination of a sink of type jetstream",
    );
    routed(
        "{ subject = 'a', topic = 'b' }",
        "routes[0].to.j",
        "no destination of a sink of type jetstream",
    );
    routed(
        "{ subject = 'a b' }",
        "routes[0].to.j.subject",
        "white space ends a subject",
    );
    routed(
        "{ suject = 'a' }",
        "routes[0].to.j.suject",
        "did you mean `subject`?",
    );
}

#[test]
#[cfg(all(feature = "kafka", feature = "rabbitmq"))]
fn routes_to_other_types() {
    let routed = |kind: &str, to: &str, path: &str, fragment: &str| {
        let url = match kind {
            "rabbitmq" => "url = 'amqp://h'\n",
            "kafka" => "brokers = 'h:1'\n",
            _ => "",
        };
        let text = format!(
            "{FINE}[[routes]]\nevent_type = '*'\nto.c = {to}\n[sinks.c]\ntype = '{kind}'\n{url}"
        );
        check(&text, &[(path, 8, fragment)]);
    };
    routed(
        "mock",
        "'x'",
        "routes[0].to.c",
        "write true, for it has one place only",
    );
    routed(
        "kafka",
        "'a b'",
        "routes[0].to.c",
        "Kafka topic \"a b\" has ' '",
    );
    routed("kafka", "'..'", "routes[0].to.c", "is reserved");
    routed(
        "rabbitmq",
        "{ exchange = \"e\\u0007\", routing_key = 'k' }",
        "routes[0].to.c.exchange",
        "control character",
    );
    routed(
        "kafka",
        "{ subject = 'x' }",
        "routes[0].to.c",
        "{ topic = \"a-topic\" }",
    );
    routed("kafka", "true", "routes[0].to.c", "set sinks.c.topic");
    routed(
        "rabbitmq",
        "'x'",
        "routes[0].to.c",
        "{ queue = \"a-queue\" }",
    );
    routed(
        "rabbitmq",
        "{}",
        "routes[0].to.c",
        "{ queue = \"a-queue\" }",
    );
    routed(
        "rabbitmq",
        "{ queue = '{event_type}' }",
        "routes[0].to.c.queue",
        "begins with a placeholder",
    );
    routed(
        "rabbitmq",
        "{ queue = 'q', exchange = 'e' }",
        "routes[0].to.c.queue",
        "beside exchange",
    );
    routed(
        "rabbitmq",
        "{ exchange = 'e' }",
        "routes[0].to.c.routing_key",
        "exchange needs a routing_key",
    );
    routed(
        "rabbitmq",
        "{ routing_key = 'e' }",
        "routes[0].to.c.exchange",
        "routing_key needs an exchange",
    );
    routed(
        "rabbitmq",
        "{ exchange = '', routing_key = 'k' }",
        "routes[0].to.c.exchange",
        "is empty",
    );
    routed(
        "rabbitmq",
        "{ exchange = '{x}', routing_key = 'k' }",
        "routes[0].to.c.exchange",
        "is no template",
    );
}
