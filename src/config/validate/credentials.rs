//! A user with a password, as every kind of broker has them.

use crate::config::Secret;
use crate::config::finding::KeyPath;
use crate::config::report::Report;

/// Both, of the table at `path`; `None` if one is missing, which is reported, as is one that is empty.
pub(super) fn credentials(
    path: &KeyPath,
    user: Option<&String>,
    password: Option<&Secret>,
    report: &mut Report,
) -> Option<(String, Secret)> {
    let user_path = path.key("user");
    let password_path = path.key("password");
    let user = report.required(&user_path, user, "say who connects");
    let password = report.required(&password_path, password, "a user needs a password");
    let is_empty = [
        (user_path, user.is_some_and(String::is_empty)),
        (
            password_path,
            password.is_some_and(|password| password.expose().is_empty()),
        ),
    ];
    for (path, _) in is_empty.iter().filter(|(_, is_empty)| *is_empty) {
        report.error(path, "is empty: set it, or take out the table auth");
    }
    user.cloned().zip(password.cloned())
}
