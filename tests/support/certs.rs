//! A private certificate authority, as companies have one.

use std::path::PathBuf;
use std::process::Command;

use super::process::complete;
use super::temporary::TemporaryFolder;

/// An authority of a test's own.
#[derive(Debug)]
pub(crate) struct Authority {
    folder: TemporaryFolder,
    configuration: PathBuf,
}

/// PEM files of a certificate and its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = TemporaryFolder::new("certs");
        // Not the machine's own configuration: its defaults make an authority of every certificate.
        let configuration = folder.write(
            "openssl.cnf",
            "[req]\n\
             distinguished_name = name\n\
             [name]\n\
             [authority]\n\
             basicConstraints = critical, CA:TRUE\n\
             keyUsage = critical, keyCertSign, cRLSign\n\
             subjectKeyIdentifier = hash\n\
             [leaf]\n\
             basicConstraints = critical, CA:FALSE\n\
             keyUsage = critical, digitalSignature\n\
             extendedKeyUsage = serverAuth, clientAuth\n\
             subjectAltName = DNS:localhost, IP:127.0.0.1\n",
        );
        let authority = Self {
            folder,
            configuration,
        };
        let mut openssl = authority.request("ca", "authority");
        complete(openssl.args(["-subj", "/CN=authority of a test"]));
        authority
    }

    /// The authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `localhost` and 127.0.0.1, for servers and clients; `name` is its common name.
    pub(crate) fn issue(&self, name: &str) -> Certificate {
        let mut openssl = self.request(name, "leaf");
        openssl.arg("-subj").arg(format!("/CN={name}"));
        openssl.arg("-CA").arg(self.ca());
        openssl.arg("-CAkey").arg(self.folder.path().join("ca.key"));
        complete(&mut openssl);
        Certificate {
            cert: self.folder.path().join(format!("{name}.pem")),
            key: self.folder.path().join(format!("{name}.key")),
        }
    }

    fn request(&self, file: &str, extensions: &str) -> Command {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-days", "2", "-nodes", "-sha256"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-extensions", extensions, "-config"])
            .arg(&self.configuration)
            .arg("-out")
            .arg(self.folder.path().join(format!("{file}.pem")))
            .arg("-keyout")
            .arg(self.folder.path().join(format!("{file}.key")));
        openssl
    }
}
