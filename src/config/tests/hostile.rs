//! Any text, and any bytes: never a panic, never a secret in a message, and each error says which key or line it is about.

mod change;

use std::sync::LazyLock;

use proptest::prelude::*;

use self::change::{change, changed};
use super::env;
use super::reference::uncommented;
use crate::config::schema::keys_of;
use crate::config::typed::{Jetstream, Mock, Postgres, SinkCommon, SourceCommon};
use crate::config::{Config, Environment, Finding, Overrides, Place};

const SECRET: &str = "hunter2 ${X} 'q\"";

/// The reference with every key in it.
static REFERENCE: LazyLock<String> = LazyLock::new(uncommented);

/// Every key that the reference knows, of whatever table.
static REFERENCE_KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let keys = REFERENCE.lines().filter_map(|line| line.split_once('='));
    let keys = keys.map(|(key, _)| key.trim().to_owned());
    let is_bare = |key: &String| {
        let mut bytes = key.bytes();
        !key.is_empty() && bytes.all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    keys.filter(is_bare).collect()
});

/// Values of every kind, fine and not.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("'${SECRET}'".to_owned()),
        Just("'x ${SECRET}'".to_owned()),
        Just("['${SECRET}', 1]".to_owned()),
        Just("{ '' = '${SECRET}', tls = { ca = '${SECRET}' } }".to_owned()),
        Just("[[]]".to_owned()),
        Just(
            "[{ event_type = '${SECRET}', to = { s = '${SECRET}', t = { queue = '${SECRET}' } } }]"
                .to_owned()
        ),
        Just("true".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("'jetstream'".to_owned()),
        Just("'rabbitmq'".to_owned()),
        Just("'postgres'".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}").replace("NaN", "nan")),
        "[a-z0-9{}$ .*>]{0,12}".prop_map(|text| format!("'{text}'")),
    ]
}

/// A key that means something in some table, or anything.
fn key() -> impl Strategy<Value = String> {
    let mut keys: Vec<String> = [
        "type",
        "name",
        "sources",
        "sinks",
        "routes",
        "s",
        "___figment_value",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.extend(keys_of::<SinkCommon>());
    keys.extend(keys_of::<SourceCommon>());
    keys.extend(keys_of::<Postgres>());
    keys.extend(keys_of::<Jetstream>());
    keys.extend(keys_of::<Mock>());
    keys.extend(REFERENCE_KEYS.iter().cloned());
    prop_oneof![9 => proptest::sample::select(keys), 1 => "[a-z]{0,3}".prop_map(|key| format!("'{key}'"))]
}

fn table() -> impl Strategy<Value = String> {
    let heads = [
        "[relay]",
        "[admin]",
        "[retry]",
        "[envelope]",
        "[routing]",
        "[[routes]]",
        "[sources.s]",
        "[sinks.s]",
        "[sinks.t]",
        "[sinks.s.auth]",
        "[sinks.s.stream]",
        "[sources.s.columns]",
        "[sources]",
        "[sinks]",
    ];
    let lines = proptest::collection::btree_map(key(), value(), 0..6);
    (proptest::sample::select(heads.to_vec()), lines).prop_map(|(head, lines)| {
        let lines = lines
            .into_iter()
            .map(|(key, value)| format!("{key} = {value}\n"));
        format!("{head}\n{}", lines.collect::<String>())
    })
}

fn assert_no_secret(text: &str, env: &Environment) {
    let said = match Config::from_toml(text, env) {
        Ok(loaded) => format!("{:?}", loaded.warnings),
        Err(errors) => {
            for finding in errors.findings() {
                assert!(is_placed(finding), "{finding}\n{text}");
            }
            format!("{errors} {errors:?}")
        }
    };
    assert!(!said.contains("hunter2"), "{said}\n{text}");
}

/// Whether it says what it is about: a key, a line, or a variable.
fn is_placed(finding: &Finding) -> bool {
    let is_variable = matches!(finding.place, Place::Variable(_));
    !finding.path.is_root() || finding.place.line().is_some() || is_variable
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        assert_no_secret(&text, &Environment::default());
    }

    #[test]
    fn any_tables(tables in proptest::collection::vec(table(), 0..8)) {
        assert_no_secret(&tables.concat(), &env(&[("SECRET", SECRET)]));
    }

    #[test]
    fn any_change_of_the_reference(changes in proptest::collection::vec(change(), 1..5)) {
        let text = changes.iter().fold(REFERENCE.clone(), changed);
        assert_no_secret(&text, &env(&[("SECRET", SECRET)]));
    }

    #[test]
    fn any_bytes(
        start in 0..2_000_usize,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        // Alone, and behind something that could be meant.
        let file = std::env::temp_dir().join(format!("outbox-relay-hostile-{}", std::process::id()));
        let reference = &REFERENCE.as_bytes()[..start.saturating_sub(1_000)];
        bytes.splice(0..0, reference.iter().copied());
        std::fs::write(&file, &bytes).expect("write a file");
        let name = file.display().to_string();
        let loaded = Config::from_file(&file, &Overrides::none(), &Environment::default());
        std::fs::remove_file(&file).expect("remove it");
        let findings = loaded.as_ref().err().map_or(&[][..], |errors| errors.findings());
        for finding in findings {
            assert!(is_placed(finding) || finding.message.contains(&name), "{finding}");
        }
    }

    #[test]
    fn any_variable_for_any_key(
        keys in proptest::collection::vec(proptest::sample::select(REFERENCE_KEYS.clone()), 1..4),
        text in prop_oneof![any::<String>(), value()],
    ) {
        let heads = ["RELAY", "ADMIN", "RETRY", "ENVELOPE", "ROUTING", "SOURCES__MAIN", "SINKS__PICKS"];
        let variables = keys.iter().flat_map(|key| {
            let key = key.to_uppercase();
            heads.map(|head| (format!("OUTBOX__{head}__{key}"), format!("hunter2{text}")))
        });
        let env: Environment = variables.collect();
        assert_no_secret("", &env);
        assert_no_secret(&REFERENCE, &env);
    }

    #[test]
    fn any_environment(
        names in proptest::collection::vec("(RELAY|SINKS|SOURCES|S|TYPE|URL|ROUTES|__|NAME){1,5}", 0..6),
        database in any::<String>(),
    ) {
        let variables = names.iter().map(|name| {
            let name = name.replace("S", "S__").replace("__TYPE", "TYPE");
            (format!("OUTBOX__{name}"), SECRET.to_owned())
        });
        let plain = ["DATABASE_URL", "NATS_URL", "PUBLISHER_TYPE", "OUTBOX_MODE", "HEALTH_PORT", "ENABLE_METRICS"]
            .map(|name| (name.to_owned(), format!("hunter2{database}")));
        assert_no_secret("", &variables.chain(plain).collect());
    }
}

#[test]
fn a_secret_in_a_line_that_is_not_toml_is_not_shown() {
    assert_no_secret(
        "[sinks.a.auth]\npassword = 'hunter2\ntoken = hunter2\n",
        &Environment::default(),
    );
}

#[test]
fn a_literal_secret_is_not_shown_by_the_key_that_holds_it() {
    for line in [
        "url = 'hunter2'",
        "url = ['http://hunter2', 'a hunter2']",
        "auth.token = ['hunter2']",
    ] {
        assert_no_secret(
            &format!("[sinks.a]\ntype = 'jetstream'\n{line}\n"),
            &Environment::default(),
        );
    }
    assert_no_secret(
        "[sources.a]\ntype = 'postgres'\nurl = 'hunter2'\n",
        &Environment::default(),
    );
}

#[test]
fn a_deep_tree_is_an_error() {
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Config::from_toml(&deep, &Environment::default()).is_err());
    let dotted = format!("{}a = 1", "a.".repeat(100_000));
    assert!(Config::from_toml(&dotted, &Environment::default()).is_err());
    let header = format!("[{}a]\n", "a.".repeat(100_000));
    assert!(Config::from_toml(&header, &Environment::default()).is_err());
    let variables = env(&[("OUTBOX__ROUTES", &"[".repeat(100_000))]);
    assert!(Config::from_toml("", &variables).is_err());
    let name = format!("OUTBOX__{}A", "A__".repeat(20_000));
    assert!(Config::from_toml("", &env(&[(&name, "x")])).is_err());
}

#[test]
fn many_errors_are_cut_short() {
    let lines: String = (0..20_000)
        .map(|number| format!("k{number} = 1\n"))
        .collect();
    let errors = Config::from_toml(&format!("[relay]\n{lines}"), &Environment::default())
        .expect_err("wrong");
    assert!(errors.findings().len() < 100);
    assert!(errors.to_string().contains("more errors than are shown"));
}
