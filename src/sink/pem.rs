//! Certificates and keys in PEM files, for clients that use rustls: what is wrong with a file is said of its key in
//! the configuration.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::connect::ConnectError;

/// Every certificate in the file must be one that can be trusted.
pub(super) async fn authorities(path: &Path) -> Result<RootCertStore, ConnectError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("tls.ca", path).await? {
        store.add(certificate).map_err(|error| {
            ConnectError::config("tls.ca", format!("can't use {}", path.display())).caused_by(error)
        })?;
    }
    Ok(store)
}

/// The certificates in a PEM file; none at all is an error too.
pub(super) async fn certificates(
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

/// The first private key in a PEM file.
pub(super) async fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConnectError> {
    let text = read("tls.key", path).await?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let problem = format!("{} holds no private key in PEM", path.display());
        ConnectError::config("tls.key", problem).caused_by(error)
    })
}

async fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    tokio::fs::read(path).await.map_err(|error| {
        ConnectError::config(key, format!("can't read {}", path.display())).caused_by(error)
    })
}
