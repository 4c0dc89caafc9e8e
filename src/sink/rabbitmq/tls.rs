//! Files for TLS, read and checked before there is a connection, so that what is wrong with them is said of the key.

use std::sync::Arc;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::ClientConfig;

use crate::config::Tls;
use crate::sink::connect::ConnectError;
use crate::sink::pem::{authorities, certificates, private_key};

/// What makes TLS of a TCP connection: trusts the system's authorities, or those of `files` in their place.
pub(super) async fn connector(files: Option<&Tls>) -> Result<RustlsConnector, ConnectError> {
    // The client takes the process's provider. If there is one already, it stays.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let Some(files) = files else {
        return RustlsConnectorConfig::new_with_native_certs()
            .and_then(RustlsConnectorConfig::connector_with_no_client_auth)
            .map_err(no_authorities);
    };
    let client = match &files.client {
        None => None,
        Some((certificate, key)) => Some((
            certificates("tls.cert", certificate).await?,
            private_key(key).await?,
            key,
        )),
    };
    let Some(ca) = &files.ca else {
        let system = RustlsConnectorConfig::new_with_native_certs().map_err(no_authorities)?;
        return match client {
            None => system.connector_with_no_client_auth(),
            Some((chain, private, _)) => system.connector_with_single_cert(chain, private),
        }
        .map_err(|error| {
            ConnectError::config("tls.key", "does not belong to tls.cert").caused_by(error)
        });
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::config("tls", "TLS can't be set up").caused_by(error))?
        .with_root_certificates(authorities(ca).await?);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((chain, private, path)) => {
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| {
                    let problem = format!("{} does not belong to tls.cert", path.display());
                    ConnectError::config("tls.key", problem).caused_by(error)
                })?
        }
    };
    Ok(config.into())
}

fn no_authorities(error: std::io::Error) -> ConnectError {
    ConnectError::config(
        "tls.ca",
        "is not set, and the system has no authorities to trust",
    )
    .caused_by(error)
}
