//! Authentication: what `[sinks.NAME.auth]` says, given to the client.

use async_nats::ConnectOptions;

use crate::config::NatsAuth;
use crate::sink::connect::ConnectError;

/// Adds `auth` to `client`. A credentials file is read here, once: after it changed, the sink is made anew.
pub(super) async fn apply(
    client: ConnectOptions,
    auth: &NatsAuth,
) -> Result<ConnectOptions, ConnectError> {
    Ok(match auth {
        NatsAuth::None => client,
        NatsAuth::User(user, password) => {
            client.user_and_password(user.clone(), password.expose().to_owned())
        }
        NatsAuth::Token(token) => client.token(token.expose().to_owned()),
        NatsAuth::Nkey(seed) => client.nkey(seed.expose().trim().to_owned()),
        NatsAuth::Credentials(path, _) => {
            let unusable = |verb: &str| {
                ConnectError::config("auth.creds", format!("can't {verb} {}", path.display()))
            };
            let text = tokio::fs::read_to_string(path)
                .await
                .map_err(|error| unusable("read").caused_by(error))?;
            client
                .credentials(&text)
                .map_err(|error| unusable("use").caused_by(error))?
        }
    })
}
