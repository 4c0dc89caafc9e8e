//! TLS, authentication and permissions.

use std::path::Path;
use std::time::Duration;

use outbox_relay::config::{Contents, Jetstream, NatsAuth, Secret, Tls};
use outbox_relay::error::{Meaning, chain};
use outbox_relay::sink::connect::ConnectError;
use outbox_relay::sink::jetstream::connect;

use super::config::{config, of_url, with_stream};
use super::scripted::{Answer, ScriptedServer};
use super::{connected, message, publish, refusal};
use crate::support::certs::{Authority, Certificate};
use crate::support::nats::PrivateNats;
use crate::support::temporary::TemporaryFolder;

/// A pair of NKeys that means nothing to anybody.
const NKEY_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const NKEY_PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// A server that wants TLS, with `verify` a client certificate too.
async fn tls_server(ours: &Authority, verify: bool) -> PrivateNats {
    let own = ours.issue("server");
    let ca = ours.ca();
    PrivateNats::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {ca:?}, verify: {verify}, timeout: 5 }}",
        own.cert, own.key
    ))
    .await
}

fn tls(ca: &Authority, client: Option<&Certificate>) -> Option<Tls> {
    Some(Tls {
        ca: Some(ca.ca()),
        client: client.map(|client| (client.cert.clone(), client.key.clone())),
        ..Tls::default()
    })
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_no_other() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let server = tls_server(&ours, false).await;
    let config = with_stream(&server, "DRAFT", "draft.>");
    let right = Jetstream {
        tls: tls(&ours, None),
        ..config.clone()
    };
    let sink = connected(&right).await;
    publish(&sink, message("draft.a", 10))
        .await
        .expect("acknowledged over TLS");

    for wrong in [tls(&stranger, None), None] {
        let error = connect(
            &Jetstream {
                tls: wrong,
                ..config.clone()
            },
            "test",
        )
        .await;
        let error = error.expect_err("an authority that the server's certificate isn't from");
        assert!(error.is_transient(), "{error:?}");
        let text = chain(&error);
        assert!(text.contains("invalid peer certificate"), "{text}");
    }
}

#[tokio::test]
async fn tls_is_never_left_out_where_it_is_configured() {
    let (authority, plain) = (Authority::new(), PrivateNats::start("").await);
    let config = Jetstream {
        tls: tls(&authority, None),
        ..config(&plain)
    };
    let error = connect(&config, "test")
        .await
        .expect_err("a server without TLS");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_is_presented() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let server = tls_server(&ours, true).await;
    let config = with_stream(&server, "DRAFT", "draft.>");
    let right = Jetstream {
        tls: tls(&ours, Some(&ours.issue("client"))),
        ..config.clone()
    };
    let sink = connected(&right).await;
    publish(&sink, message("draft.a", 10))
        .await
        .expect("acknowledged over TLS");
    let impostor = stranger.issue("client");
    for client in [None, Some(&impostor)] {
        let wrong = Jetstream {
            tls: tls(&ours, client),
            ..config.clone()
        };
        let error = connect(&wrong, "test").await;
        let error = error.expect_err("no certificate that the server trusts");
        assert!(error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn files_that_are_wrong_are_named_by_their_key() {
    let ours = Authority::new();
    let (client, other) = (ours.issue("client"), ours.issue("other"));
    let folder = TemporaryFolder::new("wrong files");
    let empty = folder.write("empty", "");
    let absent = folder.path().join("absent");
    let with = |ca: &Path, pair: Option<(&Path, &Path)>| {
        Some(Tls {
            ca: Some(ca.to_owned()),
            client: pair.map(|(cert, key)| (cert.to_owned(), key.to_owned())),
            ..Tls::default()
        })
    };
    let pair = |cert, key| with(&ours.ca(), Some((cert, key)));
    let creds = |file: &Path| NatsAuth::Credentials(file.to_owned(), Contents::default());
    let cases = [
        ("tls.ca", with(&absent, None), NatsAuth::None),
        ("tls.ca", with(&empty, None), NatsAuth::None),
        ("tls.ca", with(&client.key, None), NatsAuth::None),
        ("tls.cert", pair(&empty, &client.key), NatsAuth::None),
        ("tls.key", pair(&client.cert, &absent), NatsAuth::None),
        ("tls.key", pair(&client.cert, &client.cert), NatsAuth::None),
        ("tls.key", pair(&client.cert, &other.key), NatsAuth::None),
        ("auth.creds", None, creds(&absent)),
        ("auth.creds", None, creds(&empty)),
    ];
    for (expected, tls, auth) in cases {
        let shown = format!("{expected} {tls:?} {auth:?}");
        let config = Jetstream {
            auth,
            tls,
            ..of_url("nats://127.0.0.1:1")
        };
        match connect(&config, "test").await.expect_err(&shown) {
            ConnectError::Config { key, .. } => assert_eq!(key, expected, "{shown}"),
            other @ ConnectError::Unavailable { .. } => panic!("{shown}: {other:?}"),
        }
    }
}

/// Connects with each of `right`, and with none of `wrong`.
async fn try_all(server: &PrivateNats, right: Vec<NatsAuth>, wrong: Vec<NatsAuth>) {
    let config = with_stream(server, "DRAFT", "draft.>");
    for auth in right {
        let sink = connected(&Jetstream {
            auth,
            ..config.clone()
        })
        .await;
        publish(&sink, message("draft.a", 10))
            .await
            .expect("acknowledged");
    }
    for auth in wrong {
        let shown = format!("{auth:?}");
        let config = Jetstream {
            auth,
            ..config.clone()
        };
        let error = connect(&config, "test").await.expect_err(&shown);
        assert!(error.is_transient(), "{shown}: {error:?}");
        assert!(
            error.to_string().contains("refused the credentials"),
            "{shown}: {error}"
        );
        assert!(
            !chain(&error).contains("wr0ng"),
            "{shown}: {}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn user_and_password() {
    let server = PrivateNats::start("authorization { user: relay, password: \"s3cret\" }").await;
    let user = |password: &str| NatsAuth::User("relay".into(), Secret::new(password));
    try_all(
        &server,
        vec![user("s3cret")],
        vec![user("wr0ng"), NatsAuth::None],
    )
    .await;
    let url = Secret::new(format!("nats://relay:s3cret@127.0.0.1:{}", server.port));
    connected(&Jetstream {
        servers: vec![url],
        ..config(&server)
    })
    .await;
}

#[tokio::test]
async fn token() {
    let server = PrivateNats::start("authorization { token: \"t0ken\" }").await;
    let token = |token: &str| NatsAuth::Token(Secret::new(token));
    try_all(
        &server,
        vec![token("t0ken")],
        vec![token("wr0ng"), NatsAuth::None],
    )
    .await;
}

#[tokio::test]
async fn nkey() {
    let users = format!("authorization {{ users: [ {{ nkey: {NKEY_PUBLIC} }} ] }}");
    let server = PrivateNats::start(&users).await;
    let nkey = |seed: &str| NatsAuth::Nkey(Secret::new(seed));
    try_all(&server, vec![nkey(NKEY_SEED)], vec![NatsAuth::None]).await;
    let config = Jetstream {
        auth: nkey("no seed"),
        ..config(&server)
    };
    let error = connect(&config, "test").await.expect_err("no seed");
    assert!(
        matches!(error, ConnectError::Config { key: "auth", .. }),
        "{error:?}"
    );
}

/// An operator's server, whose accounts and users are JWTs.
#[tokio::test]
async fn credentials_file() {
    const OPERATOR: &str = include_str!("operator/server.conf");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jetstream/operator");
    let server = PrivateNats::start(OPERATOR).await;
    let creds = |name: &str| NatsAuth::Credentials(folder.join(name), Contents::default());
    try_all(
        &server,
        vec![creds("relay.creds")],
        vec![creds("stranger.creds"), NatsAuth::None],
    )
    .await;
    let config = Jetstream {
        auth: creds("relay.creds"),
        ..config(&server)
    };
    let sink = connected(&config).await;
    let (meaning, chain) = refusal(&sink, message("audit.Log", 10)).await;
    assert_eq!(meaning, Meaning::Rejected, "not the user's: {chain}");
}

#[tokio::test]
async fn a_subject_that_permissions_forbid_is_rejected() {
    let server = PrivateNats::start(
        "authorization { users: [ { user: relay, password: p, permissions: {
            publish: [\"draft.>\", \"$JS.API.>\"], subscribe: \"_INBOX.>\" } } ] }",
    )
    .await;
    let mut config = with_stream(&server, "DRAFT", "draft.>");
    config.auth = NatsAuth::User("relay".into(), Secret::new("p"));
    let sink = connected(&config).await;
    let attempt = refusal(&sink, message("audit.Log", 10));
    let (meaning, chain) = tokio::time::timeout(Duration::from_secs(5), attempt)
        .await
        .expect("no timeout");
    assert_eq!(meaning, Meaning::Rejected, "{chain}");
    publish(&sink, message("draft.a", 10))
        .await
        .expect("others are not affected");
}

/// A user whose JWT allows 1,024 bytes at a time, on a server that says that it takes 1 MiB. It closes the connection.
#[tokio::test]
async fn a_message_larger_than_its_user_may_send_is_told_from_an_outage() {
    const OPERATOR: &str = include_str!("operator/server.conf");
    let server = PrivateNats::start(OPERATOR).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jetstream/operator");
    let creds = folder.join("small.creds");
    let mut config = with_stream(&server, "DRAFT", "draft.>");
    config.auth = NatsAuth::Credentials(creds, Contents::default());
    let sink = connected(&config).await;
    for size in [1_024, 100_000, 900_000] {
        let too_large = message("draft.large", size);
        let others: Vec<_> = (0..50).map(|_| message("draft.small", 500)).collect();
        let all = others.iter().map(async |other| {
            while let Err(error) = publish(&sink, other.clone()).await {
                assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let refused = async {
            loop {
                let error = publish(&sink, too_large.clone()).await;
                let error = error.expect_err("more than the user may send");
                if error.meaning() == Meaning::Invalid {
                    return error.chain();
                }
                assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let both = futures::future::join(futures::future::join_all(all), refused);
        let (_, chain) = tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .expect("it is refused, and the others are stored");
        assert!(chain.contains("lets this user send"), "{chain}");
    }
    let owner = async_nats::ConnectOptions::with_credentials_file(folder.join("relay.creds"))
        .await
        .expect("credentials");
    let client = owner.connect(server.url()).await.expect("connect");
    let context = async_nats::jetstream::new(client);
    let mut stream = context.get_stream("DRAFT").await.expect("the stream");
    let info = stream.info().await.expect("its state");
    assert_eq!(info.state.messages, 150);
}

/// A server has reserved subjects for replies; the sink's own are none of them, so a script must say it.
#[tokio::test]
async fn a_reply_subject_that_may_not_be_used_is_a_rejection() {
    let server = ScriptedServer::start(Answer::ReplyForbidden).await;
    let sink = connected(&server.config()).await;
    let (meaning, chain) = refusal(&sink, message("draft.a", 10)).await;
    assert_eq!(meaning, Meaning::Rejected, "{chain}");
}
