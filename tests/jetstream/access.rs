//! TLS, authentication and permissions.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outbox_relay::config::{Contents, Jetstream, NatsAuth, Secret, Tls};
use outbox_relay::error::{Meaning, chain};
use outbox_relay::sink::connect::ConnectError;
use outbox_relay::sink::jetstream::connect;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::scripted::{Answer, ScriptedServer};
use super::server::{self, NatsServer};
use super::{connected, message, publish, refusal};

/// A pair of NKeys that means nothing to anybody.
const NKEY_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const NKEY_PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// An authority, and certificates for a server and a client that it signed.
struct Authority {
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn make(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("write it");
        let issuer = Issuer::new(params, key);
        Self {
            name: name.to_owned(),
            issuer,
        }
    }

    fn sign(&self, folder: &Path, name: &str) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect(&self.name);
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("write it");
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("write it");
    }
}

/// A server that wants TLS, with `verify` a client certificate too.
fn tls_server(verify: bool) -> (NatsServer, PathBuf) {
    let folder = server::folder();
    let ours = Authority::make(&folder, "ca");
    ours.sign(&folder, "server");
    ours.sign(&folder, "client");
    Authority::make(&folder, "stranger").sign(&folder, "impostor");
    let settings = format!(
        "jetstream {{ store_dir: \"{{folder}}/store\" }}
         tls {{ cert_file: \"{{folder}}/server.pem\", key_file: \"{{folder}}/server.key\",
                ca_file: \"{{folder}}/ca.pem\", verify: {verify}, timeout: 5 }}"
    );
    let server = NatsServer::in_folder(&folder, &settings);
    (server, folder)
}

fn tls(folder: &Path, ca: &str, client: Option<&str>) -> Option<Tls> {
    let pair = |name: &str| {
        (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        )
    };
    Some(Tls {
        ca: Some(folder.join(ca)),
        client: client.map(pair),
        ..Tls::default()
    })
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_no_other() {
    let (server, folder) = tls_server(false);
    let config = server.config_with_stream("DRAFT", "draft.>");
    let right = Jetstream {
        tls: tls(&folder, "ca.pem", None),
        ..config.clone()
    };
    let sink = connected(&right).await;
    publish(&sink, message("draft.a", 10))
        .await
        .expect("acknowledged over TLS");

    for wrong in [tls(&folder, "stranger.pem", None), None] {
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
        assert!(chain(&error).contains("UnknownIssuer"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn tls_is_never_left_out_where_it_is_configured() {
    let (tls_folder, plain) = (server::folder(), NatsServer::start());
    Authority::make(&tls_folder, "ca");
    let config = Jetstream {
        tls: tls(&tls_folder, "ca.pem", None),
        ..plain.config()
    };
    let error = connect(&config, "test")
        .await
        .expect_err("a server without TLS");
    assert!(error.is_transient(), "{error:?}");
    fs::remove_dir_all(tls_folder).ok();
}

#[tokio::test]
async fn a_client_certificate_is_presented() {
    let (server, folder) = tls_server(true);
    let config = server.config_with_stream("DRAFT", "draft.>");
    let right = Jetstream {
        tls: tls(&folder, "ca.pem", Some("client")),
        ..config.clone()
    };
    let sink = connected(&right).await;
    publish(&sink, message("draft.a", 10))
        .await
        .expect("acknowledged over TLS");
    for client in [None, Some("impostor")] {
        let wrong = Jetstream {
            tls: tls(&folder, "ca.pem", client),
            ..config.clone()
        };
        connect(&wrong, "test")
            .await
            .expect_err("no certificate that the server trusts");
    }
}

#[tokio::test]
async fn files_that_are_wrong_are_named_by_their_key() {
    let folder = server::folder();
    let ours = Authority::make(&folder, "ca");
    ours.sign(&folder, "client");
    ours.sign(&folder, "other");
    fs::write(folder.join("empty"), "").expect("write it");
    let client = folder.join("client.pem");
    let with = |ca: &str, pair: Option<(PathBuf, PathBuf)>| {
        Some(Tls {
            ca: Some(folder.join(ca)),
            client: pair,
            ..Tls::default()
        })
    };
    let creds = |name: &str| NatsAuth::Credentials(folder.join(name), Contents::default());
    let cases = [
        ("tls.ca", with("absent", None), NatsAuth::None),
        ("tls.ca", with("empty", None), NatsAuth::None),
        ("tls.ca", with("client.key", None), NatsAuth::None),
        (
            "tls.cert",
            with(
                "ca.pem",
                Some((folder.join("empty"), folder.join("client.key"))),
            ),
            NatsAuth::None,
        ),
        (
            "tls.key",
            with("ca.pem", Some((client.clone(), folder.join("absent")))),
            NatsAuth::None,
        ),
        (
            "tls.key",
            with("ca.pem", Some((client.clone(), client.clone()))),
            NatsAuth::None,
        ),
        (
            "tls.key",
            with("ca.pem", Some((client, folder.join("other.key")))),
            NatsAuth::None,
        ),
        ("auth.creds", None, creds("absent")),
        ("auth.creds", None, creds("empty")),
    ];
    for (expected, tls, auth) in cases {
        let shown = format!("{expected} {tls:?} {auth:?}");
        let servers = vec![Secret::new("nats://127.0.0.1:1")];
        let config = Jetstream {
            servers,
            auth,
            tls,
            expected_stream: None,
            stream: None,
        };
        match connect(&config, "test").await.expect_err(&shown) {
            ConnectError::Config { key, .. } => assert_eq!(key, expected, "{shown}"),
            other @ ConnectError::Unavailable { .. } => panic!("{shown}: {other:?}"),
        }
    }
    fs::remove_dir_all(folder).ok();
}

/// Connects with each of `right`, and with none of `wrong`.
async fn try_all(server: &NatsServer, right: Vec<NatsAuth>, wrong: Vec<NatsAuth>) {
    let config = server.config_with_stream("DRAFT", "draft.>");
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
    let server = NatsServer::with_settings("authorization { user: relay, password: \"s3cret\" }");
    let user = |password: &str| NatsAuth::User("relay".into(), Secret::new(password));
    try_all(
        &server,
        vec![user("s3cret")],
        vec![user("wr0ng"), NatsAuth::None],
    )
    .await;
    let url = Secret::new(format!("nats://relay:s3cret@127.0.0.1:{}", server.port()));
    connected(&Jetstream {
        servers: vec![url],
        ..server.config()
    })
    .await;
}

#[tokio::test]
async fn token() {
    let server = NatsServer::with_settings("authorization { token: \"t0ken\" }");
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
    let server = NatsServer::with_settings(&users);
    let nkey = |seed: &str| NatsAuth::Nkey(Secret::new(seed));
    try_all(&server, vec![nkey(NKEY_SEED)], vec![NatsAuth::None]).await;
    let config = Jetstream {
        auth: nkey("no seed"),
        ..server.config()
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
    let server = NatsServer::with_settings(OPERATOR);
    let creds = |name: &str| NatsAuth::Credentials(folder.join(name), Contents::default());
    try_all(
        &server,
        vec![creds("relay.creds")],
        vec![creds("stranger.creds"), NatsAuth::None],
    )
    .await;
    let config = Jetstream {
        auth: creds("relay.creds"),
        ..server.config()
    };
    let sink = connected(&config).await;
    let (meaning, chain) = refusal(&sink, message("audit.Log", 10)).await;
    assert_eq!(meaning, Meaning::Rejected, "not the user's: {chain}");
}

#[tokio::test]
async fn a_subject_that_permissions_forbid_is_rejected() {
    let server = NatsServer::with_settings(
        "authorization { users: [ { user: relay, password: p, permissions: {
            publish: [\"draft.>\", \"$JS.API.>\"], subscribe: \"_INBOX.>\" } } ] }",
    );
    let mut config = server.config_with_stream("DRAFT", "draft.>");
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
    let server = NatsServer::with_settings(OPERATOR);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jetstream/operator");
    let creds = folder.join("small.creds");
    let mut config = server.config_with_stream("DRAFT", "draft.>");
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
