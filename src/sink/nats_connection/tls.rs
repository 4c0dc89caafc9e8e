//! TLS files, checked before the client reads them.
//!
//! The client reads the files at each connect, so that certificates can be rotated, and then reports whatever
//! is wrong with them as a failed connection. Read here first, a wrong file is named by its key.

use std::path::Path;
use std::sync::Arc;

use async_nats::ConnectOptions;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Tls;
use crate::sink::connect::ConnectError;
use crate::sink::pem::{authorities, certificates, private_key};

/// Checks `files` and has `client` use them. From here on the connection is encrypted or there is none.
pub(super) async fn apply(
    mut client: ConnectOptions,
    files: &Tls,
) -> Result<ConnectOptions, ConnectError> {
    client = client.require_tls(true);
    if let Some(ca) = &files.ca {
        authorities(ca).await?;
        client = client.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &files.client {
        check_client(certificate, key).await?;
        client = client.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(client)
}

/// Certificate and key must be readable and belong together.
async fn check_client(certificate: &Path, key: &Path) -> Result<(), ConnectError> {
    let chain = certificates("tls.cert", certificate).await?;
    let private = private_key(key).await?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(RootCertStore::empty())
                .with_client_auth_cert(chain, private)
        })
        .map_err(|error| {
            let problem = format!(
                "{} does not belong to {}",
                key.display(),
                certificate.display()
            );
            ConnectError::config("tls.key", problem).caused_by(error)
        })?;
    Ok(())
}
