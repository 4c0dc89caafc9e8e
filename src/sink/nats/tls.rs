//! TLS files, checked before the client reads them.
//!
//! The client reads the files at each connect, so that certificates can be rotated, and then reports whatever
//! is wrong with them as a failed connection. Read here first, a wrong file is named by its key.

use std::path::Path;
use std::sync::Arc;

use async_nats::ConnectOptions;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Tls;
use crate::sink::connect::ConnectError;

/// Checks `files` and has `client` use them. From here on the connection is encrypted or there is none.
pub(super) async fn apply(
    mut client: ConnectOptions,
    files: &Tls,
) -> Result<ConnectOptions, ConnectError> {
    client = client.require_tls(true);
    if let Some(ca) = &files.ca {
        check_authorities(ca).await?;
        client = client.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &files.client {
        check_client(certificate, key).await?;
        client = client.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(client)
}

/// Every certificate in the file must be one that can be trusted.
async fn check_authorities(path: &Path) -> Result<(), ConnectError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("tls.ca", path).await? {
        store.add(certificate).map_err(|error| {
            ConnectError::config("tls.ca", format!("can't use {}", path.display())).caused_by(error)
        })?;
    }
    Ok(())
}

/// Certificate and key must be readable and belong together.
async fn check_client(certificate: &Path, key: &Path) -> Result<(), ConnectError> {
    let chain = certificates("tls.cert", certificate).await?;
    let text = read("tls.key", key).await?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let problem = format!("{} holds no private key in PEM", key.display());
        ConnectError::config("tls.key", problem).caused_by(error)
    })?;
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

/// The certificates in a PEM file; none at all is an error too.
async fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let text = read(key, path).await?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| {
            ConnectError::config(key, format!("{} is not PEM", path.display())).caused_by(error)
        })?;
    if found.is_empty() {
        let problem = format!("{} holds no certificate in PEM", path.display());
        return Err(ConnectError::config(key, problem));
    }
    Ok(found)
}

async fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    tokio::fs::read(path).await.map_err(|error| {
        ConnectError::config(key, format!("can't read {}", path.display())).caused_by(error)
    })
}
