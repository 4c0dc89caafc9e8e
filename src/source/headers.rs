//! The column `headers`, whatever the database.

/// Headers are a JSON object; values that are not strings keep their JSON text. Anything but an object travels
/// whole as one header named `headers`, so that nothing of it is lost.
pub(crate) fn parse_headers(json: &[u8]) -> Vec<(String, String)> {
    type Object = std::collections::BTreeMap<String, serde_json::Value>;
    match serde_json::from_slice::<Object>(json) {
        Ok(object) => object
            .into_iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect(),
        Err(_) if json == b"null" => Vec::new(),
        Err(_) => vec![("headers".into(), String::from_utf8_lossy(json).into_owned())],
    }
}

/// The JSON text of headers, their names in order.
pub(crate) fn headers_json(headers: &[(String, String)]) -> String {
    let object: std::collections::BTreeMap<String, String> = headers
        .iter()
        .map(|(name, value)| (without_nul(name), without_nul(value)))
        .collect();
    serde_json::json!(object).to_string()
}

/// Neither text nor jsonb can hold NUL; a broker's words and a column of type json can.
pub(crate) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_sorted_and_keep_their_json() {
        let parsed = parse_headers(br#"{"b":"x","a":1}"#);
        assert_eq!(parsed, [("a".into(), "1".into()), ("b".into(), "x".into())]);
        assert_eq!(headers_json(&parsed), r#"{"a":"1","b":"x"}"#);
        assert_eq!(parse_headers(b"null"), []);
        assert_eq!(parse_headers(b"[1]"), [("headers".into(), "[1]".into())]);
    }
}
