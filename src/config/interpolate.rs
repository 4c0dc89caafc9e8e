//! `${VAR}`, `${VAR:-default}`, `${file:/path}` and `$$` in string values.
//!
//! Substitution happens after parsing, so a value can inject no structure. Errors name variables and files, never
//! what they hold.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Environment;

/// The most that is read of any file: a configuration or a secret is far smaller, `/dev/zero` is not.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;

/// A text whose references are filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// The text.
    pub(super) text: String,
    /// The references that it was made of, as they are written, without their defaults.
    pub(super) from: Vec<String>,
}

/// Fills in the references of `text`, or says all that is wrong with them.
pub(super) fn fill(text: &str, env: &Environment) -> Result<Filled, Vec<String>> {
    let mut filled = Filled {
        text: String::with_capacity(text.len()),
        from: Vec::new(),
    };
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        filled.text.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            filled.text.push('$');
            rest = tail;
        } else if let Some(body) = after.strip_prefix('{') {
            let Some((reference, tail)) = body.split_once('}') else {
                errors.push(
                    "`${` is not closed: write `}` after the name, or `$$` for a dollar".to_owned(),
                );
                return Err(errors);
            };
            match resolve(reference, env) {
                Ok((value, name)) => {
                    filled.text.push_str(&value);
                    filled.from.push(format!("${{{name}}}"));
                }
                Err(error) => errors.push(error),
            }
            rest = tail;
        } else {
            filled.text.push('$');
            rest = after;
        }
    }
    filled.text.push_str(rest);
    if errors.is_empty() {
        Ok(filled)
    } else {
        Err(errors)
    }
}

/// The value of what stands between the braces, and its name.
fn resolve<'a>(reference: &'a str, env: &Environment) -> Result<(String, &'a str), String> {
    if let Some(path) = reference.strip_prefix("file:") {
        return Ok((read_trimmed(path)?, reference));
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable_name(name) {
        return Err(
            "between `${` and `}` stands no variable's name: write ${NAME}, ${NAME:-default} or \
             ${file:/path}, and `$$` for a dollar"
                .to_owned(),
        );
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!(
            "the default of ${{{name}}} holds another `${{`, which is not supported"
        ));
    }
    let value = env.get(name);
    match (value, default) {
        (Some(value), None) => Ok((value.to_owned(), name)),
        (Some(value), Some(_)) if !value.is_empty() => Ok((value.to_owned(), name)),
        (_, Some(default)) => Ok((default.to_owned(), name)),
        (None, None) => Err(format!(
            "the environment variable {name} is not set: set it, or write ${{{name}:-default}}"
        )),
    }
}

fn is_variable_name(name: &str) -> bool {
    name.bytes()
        .next()
        .is_some_and(|first| !first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The text of the file without the newline at its end.
fn read_trimmed(path: &str) -> Result<String, String> {
    let text = read_bounded(Path::new(path))?;
    let trimmed = text.strip_suffix('\n').unwrap_or(&text);
    Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
}

/// The text of a file of at most a megabyte, or why it can't be had.
pub(super) fn read_bounded(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let shown = path.display();
    if let Err(error) = read {
        return Err(format!("can't read the file {shown}: {error}"));
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("the file {shown} is larger than 1MiB"));
    }
    String::from_utf8(bytes).map_err(|_| format!("the file {shown} is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Environment {
        [("HOST", "db"), ("EMPTY", ""), ("TRICKY", "${HOST}$$")]
            .into_iter()
            .collect()
    }

    #[test]
    fn references_are_filled_in() {
        let cases = [
            ("plain", "plain"),
            ("a${HOST}b", "adbb"),
            ("${HOST}${HOST}", "dbdb"),
            ("${NONE:-x}", "x"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${HOST:-x}", "db"),
            ("$$", "$"),
            ("$${HOST}", "${HOST}"),
            ("a$b$", "a$b$"),
            ("{{x}}", "{{x}}"),
            ("${TRICKY}", "${HOST}$$"),
        ];
        for (text, expected) in cases {
            assert_eq!(fill(text, &env()).expect(text).text, expected, "{text}");
        }
    }

    #[test]
    fn what_a_text_was_made_of_is_known() {
        assert_eq!(
            fill("$$ {x}", &env()).expect("fine").from,
            Vec::<String>::new()
        );
        assert_eq!(fill("${HOST:-q}", &env()).expect("fine").from, ["${HOST}"]);
    }

    #[test]
    fn every_error_is_named() {
        let cases = [
            ("${NONE}", "NONE is not set"),
            ("x${HOST", "not closed"),
            ("${}", "no variable's name"),
            ("${1A}", "no variable's name"),
            ("${a b}", "no variable's name"),
            ("${NONE:-${HOST}}", "another `${`"),
            ("${file:/nowhere/at/all}", "/nowhere/at/all"),
            ("${file:/dev/zero}", "larger than 1MiB"),
        ];
        for (text, fragment) in cases {
            let errors = fill(text, &env()).expect_err(text);
            assert!(errors[0].contains(fragment), "{text}: {errors:?}");
        }
        assert_eq!(fill("${A} ${B}", &env()).expect_err("two").len(), 2);
    }

    #[test]
    fn the_newline_at_the_end_of_a_file_is_trimmed() {
        let path = std::env::temp_dir().join(format!("outbox-relay-secret-{}", std::process::id()));
        for (content, expected) in [
            ("s3\n", "s3"),
            ("s3\r\n", "s3"),
            ("s3", "s3"),
            ("s3\n\n", "s3\n"),
        ] {
            std::fs::write(&path, content).expect("the temporary folder is writable");
            let filled = fill(&format!("${{file:{}}}", path.display()), &env()).expect("readable");
            assert_eq!(filled.text, expected);
        }
        std::fs::remove_file(&path).expect("it was just written");
    }
}
