//! TLS: certificates from files, and the handshake in front of a connection. The door of rustls.
//!
//! What goes through a connection afterwards is none of its business.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::door::Door;
use crate::metrics::HandshakeFailure;
use crate::reload::{FileError, Source, read_bounded, warn_if_open};

/// The only protocol that is spoken behind TLS, as a client may ask for it (ALPN).
const PROTOCOL: &[u8] = b"http/1.1";

/// Longest certificate or key file that is read, in bytes.
const PEM_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The files of a certificate, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate, and behind it those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub private_key: PathBuf,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("TLS file {path}", path = .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// What should be in a file is not.
    #[error("TLS file {path}: holds no {wanted} in PEM", path = .path.display())]
    Lacks {
        /// Its path.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What the reader says.
        source: pem::Error,
    },
    /// The two do not make a server.
    #[error("TLS files {certificate} and {private_key}: cannot be used", certificate = .files.certificate.display(), private_key = .files.private_key.display())]
    Unusable {
        /// The files.
        files: CertificateFiles,
        /// Why: the key is another certificate's, or of an unknown kind.
        source: rustls::Error,
    },
}

impl Source for CertificateFiles {
    type Value = ServerConfig;
    type Error = CertificateError;

    fn paths(&self) -> Vec<&Path> {
        vec![&self.certificate, &self.private_key]
    }

    fn read(&self) -> Result<ServerConfig, CertificateError> {
        let bytes = |path: &Path| {
            read_bounded(path, PEM_FILE_BYTES_MAX).map_err(|source| CertificateError::File { path: path.to_owned(), source })
        };
        let lacks = |path: &Path, wanted| {
            let path = path.to_owned();
            move |source| CertificateError::Lacks { path, wanted, source }
        };
        let chain = CertificateDer::pem_slice_iter(&bytes(&self.certificate)?).collect::<Result<Vec<_>, _>>();
        let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(lacks(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&bytes(&self.private_key)?);
        let key = key.map_err(lacks(&self.private_key, "private key that is not encrypted"))?;
        warn_if_open("private key", &self.private_key);

        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|source| CertificateError::Unusable { files: self.clone(), source })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

/// Shakes hands with whoever connected, within the time limit of a header. Nothing if that fails, which is counted, or if the door
/// begins to stop meanwhile.
pub(crate) async fn shake_hands(door: &Door, config: Arc<ServerConfig>, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let limit = Duration::from_secs(door.options().header_seconds_max);
    let shaken = tokio::select! {
        shaken = timeout(limit, TlsAcceptor::from(config).accept(stream)) => shaken,
        () = door.stop_notice() => return None,
    };
    let (failure, error) = match shaken {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => (HandshakeFailure::Broken, error),
        Err(elapsed) => (HandshakeFailure::Slow, io::Error::from(elapsed)),
    };
    door.metrics().count_handshake_failure(failure);
    tracing::debug!(%error, "a TLS handshake failed");
    None
}
