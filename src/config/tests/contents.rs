//! Files that a configuration names by path: another content makes another configuration.

use super::{FINE, load};

/// Asserts that `text`, in which `{file}` is a path, is another configuration when that file changes.
fn assert_watched(text: &str) {
    let file = std::env::temp_dir().join(format!("outbox-relay {}", uuid::Uuid::new_v4()));
    let text = text
        .replace("{file}", &file.display().to_string())
        .replace("{encoded}", &file.display().to_string().replace(' ', "%20"));
    let write = |content: &str| std::fs::write(&file, content).expect("written");
    write("before");
    let before = load(&text).config;
    write("before");
    assert_eq!(before, load(&text).config, "written again, and the same");
    write("after");
    assert_ne!(before, load(&text).config, "{text}");
    std::fs::remove_file(&file).expect("removed");
}

#[test]
fn of_a_source_url() {
    for key in ["sslrootcert", "ssl-ca", "sslcert", "ssl-cert", "sslkey"] {
        let parameters = format!("?sslmode=require&{key}={{encoded}}&application_name=x");
        assert_watched(&FINE.replace("h/d", &format!("h/d{parameters}")));
    }
}

#[test]
#[cfg(feature = "kafka")]
fn of_options_of_kafka() {
    for option in ["ssl.crl.location", "ssl.keystore.location"] {
        assert_watched(&format!(
            "{FINE}[sinks.k]\ntype = 'kafka'\ntopic = 't'\nbrokers = 'a:9092'\noptions = {{ '{option}' = '{{file}}' }}\n"
        ));
    }
}
