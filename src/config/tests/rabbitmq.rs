//! Files with a RabbitMQ sink, and what becomes of them.

use super::findings::check_after;
use super::{env, load};
use crate::config::{
    Config, DestinationTemplate, Overrides, Rabbitmq, RabbitmqDeclare, Secret, SinkKind,
};
use crate::route::Template;

const SOURCE: &str = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n";

fn settings(keys: &str) -> Rabbitmq {
    let text = format!("{SOURCE}[sinks.r]\ntype = 'rabbitmq'\n{keys}\n");
    let loaded = Config::from_toml(&text, &env(&[("P", "s3cret")])).expect("fine");
    assert_eq!(loaded.warnings, []);
    assert!(!format!("{:?}", loaded.config).contains("s3cret"));
    match &loaded.config.sinks["r"].kind {
        SinkKind::Rabbitmq(rabbitmq) => rabbitmq.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_url_is_enough() {
    let found = settings("url = 'amqp://broker'\nqueue = 'events'");
    let expected = Rabbitmq {
        host: "broker".to_owned(),
        port: 5672,
        encrypted: false,
        vhost: "/".to_owned(),
        user: "guest".to_owned(),
        password: Secret::new("guest"),
        tls: None,
        declare: RabbitmqDeclare::default(),
    };
    assert_eq!(found, expected);
}

#[test]
fn everything() {
    let found = settings(
        "url = 'amqps://u:p@broker/v'\nexchange = 'draft'\nrouting_key = '{event_type}'\n\
         auth = { user = 'relay', password = '${P}' }\ntls.ca = 'ca.pem'\n\
         declare = { exchange_type = 'topic', queues = 'a, b', queue_type = 'classic', bind = ['#'] }",
    );
    assert_eq!((found.port, found.encrypted), (5671, true));
    assert_eq!((found.vhost.as_str(), found.user.as_str()), ("v", "relay"));
    assert_eq!(found.password, Secret::new("s3cret"), "not the URL's");
    let declare = RabbitmqDeclare {
        exchange: Some(("draft".to_owned(), "topic")),
        queues: vec!["a".to_owned(), "b".to_owned()],
        quorum: false,
        bind: Some(("draft".to_owned(), vec!["#".to_owned()])),
    };
    assert_eq!(found.declare, declare);
    let queues = "url = 'amqp://h'\nqueue = 'a'\ndeclare.queues = ['a']";
    assert!(settings(queues).declare.quorum, "the default");
}

#[test]
fn the_environment_alone_is_enough() {
    let variables = env(&[
        ("DATABASE_URL", "postgres://h/d"),
        ("PUBLISHER_TYPE", "rabbitmq"),
        ("RABBITMQ_URL", "amqp://u:s3cret@broker:7/v"),
    ]);
    let loaded = Config::from_environment(&Overrides::none(), &variables).expect("enough");
    let config = loaded.config;
    let sink = &config.sinks["rabbitmq"];
    let SinkKind::Rabbitmq(rabbitmq) = &sink.kind else {
        panic!("{:?}", sink.kind);
    };
    assert_eq!((rabbitmq.host.as_str(), rabbitmq.port), ("broker", 7));
    let destination = DestinationTemplate::Exchange {
        exchange: "outbox".to_owned(),
        routing_key: Template::parse("{event_type}").expect("a template"),
    };
    assert_eq!(sink.default_destination, Some(destination));
}

#[test]
fn destinations() {
    let text = format!(
        "{SOURCE}[sinks.r]\ntype = 'rabbitmq'\nurl = 'amqp://h'\nexchange = 'e'\nrouting_key = '{{event_type}}'\n\
         [[routes]]\nevent_type = 'A'\nto.r = {{ queue = 'q' }}\n[[routes]]\nevent_type = '*'\nto.r = true\n"
    );
    let routing = load(&text).config.routing.expect("there are routes");
    let exchange = |exchange: &str, key| DestinationTemplate::Exchange {
        exchange: exchange.to_owned(),
        routing_key: Template::parse(key).expect("a template"),
    };
    assert_eq!(routing.routes[0].to["r"], exchange("", "q"));
    assert_eq!(routing.routes[1].to["r"], exchange("e", "{event_type}"));
}

#[test]
fn what_is_wrong() {
    let cases = [
        ("queue = 'q'", "url", 6, "or set RABBITMQ_URL"),
        (
            "queue = 'q'\nurl = 'http://h'",
            "url",
            9,
            "must begin with amqp://",
        ),
        (
            "url = 'amqp://u:s3cret@h:x'\nqueue = 'q'",
            "url",
            8,
            "no number from 1",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\nauth.user = 'u'",
            "auth.password",
            10,
            "a user needs a password",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\nauth = { user = 'u', password = '' }",
            "auth.password",
            10,
            "is empty: set it",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\ntls.ca = 'ca'",
            "tls",
            10,
            "write amqps://",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\ndeclare.exchange_type = 'topic'",
            "declare.exchange_type",
            10,
            "needs the sink's exchange",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\ndeclare.bind = '#'",
            "declare.bind",
            10,
            "needs the sink's exchange, and queues",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\ndeclare.queues = 'a,'",
            "declare.queues",
            10,
            "empty name",
        ),
        (
            "url = 'amqp://h'\nqueue = 'q'\ndeclare.queue_type = 'qorum'",
            "declare.queue_type",
            10,
            "did you mean `quorum`",
        ),
    ];
    for (keys, path, line, fragment) in cases {
        let path = format!("sinks.r.{path}");
        check_after(
            &format!("[sinks.r]\ntype = 'rabbitmq'\n{keys}\n"),
            &[(&path, line, fragment)],
        );
    }
}
