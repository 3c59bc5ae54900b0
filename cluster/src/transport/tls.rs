//! Mutual TLS underneath a connection: certificates from files, and what they say about who is at the other end. The door of rustls.
//!
//! Both sides show a certificate that an authority of the cluster has signed, and that is made out to the name of the node ([`node_name`]). So a
//! certificate that leaks speaks for its own node only.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_persistence::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The only protocol that is spoken behind TLS here (ALPN).
const PROTOCOL: &[u8] = b"tidegate-cluster";

/// Under which the handshake binds itself to the TLS session.
const BINDING_LABEL: &[u8] = b"EXPORTER-tidegate-cluster";

/// Longest certificate or key file that is read, in bytes.
const PEM_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The files of a node's certificate, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTlsFiles {
    /// The node's certificate, made out to [`node_name`], for servers and clients; behind it those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub private_key: PathBuf,
    /// Whose signatures are trusted. They should sign nothing but nodes of this cluster.
    pub authorities: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum ClusterTlsError {
    /// A file cannot be read.
    #[error("TLS file {path}", path = .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
    /// The files do not make a node.
    #[error("TLS file {path}: cannot be used", path = .path.display())]
    Unusable {
        /// The certificate's path.
        path: PathBuf,
        /// Why: the key is another certificate's, or of an unknown kind.
        source: rustls::Error,
    },
    /// The authorities cannot be held against anybody.
    #[error("TLS file {path}: cannot be used", path = .path.display())]
    Authorities {
        /// Their path.
        path: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
}

/// Mutual TLS of one node. Cheap to clone.
#[derive(Clone)]
pub struct ClusterTls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl fmt::Debug for ClusterTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClusterTls")
    }
}

/// The name that the certificate of `node` is made out to, as a DNS name of the subject: `tidegate-node-<number>`.
pub fn node_name(node: NodeId) -> String {
    format!("tidegate-node-{node}")
}

fn server_name(node: NodeId) -> io::Result<ServerName<'static>> {
    ServerName::try_from(node_name(node)).map_err(io::Error::other)
}

impl ClusterTls {
    /// Reads `files`. Blocks while it does.
    pub fn read(files: &ClusterTlsFiles) -> Result<Self, ClusterTlsError> {
        let ClusterTlsFiles { certificate, private_key, authorities } = files;
        let chain = read_certificates(certificate, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&read_bounded(private_key)?).map_err(|source| ClusterTlsError::Lacks {
            path: private_key.clone(),
            wanted: "private key that is not encrypted",
            source,
        })?;
        let unusable = |path: &PathBuf| {
            let path = path.clone();
            move |source| ClusterTlsError::Unusable { path, source }
        };
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(authorities, "certificate of an authority")? {
            roots.add(authority).map_err(unusable(authorities))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(default_provider());

        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|source| ClusterTlsError::Authorities { path: authorities.clone(), source })?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let server =
            server.and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key()));
        let mut server = server.map_err(unusable(certificate))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];

        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let client = client.and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key));
        let mut client = client.map_err(unusable(certificate))?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }

    /// Shakes hands with `node` over `stream`, whose certificate is checked to be that node's.
    pub(crate) async fn connect(&self, stream: TcpStream, node: NodeId) -> io::Result<Secured> {
        let stream = self.connector.connect(server_name(node)?, stream).await?;
        let binding = stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None).map_err(io::Error::other)?;
        Ok(Secured { connection: Box::new(stream), binding, certificate: None })
    }

    /// Shakes hands with whoever is at the other end of `stream`, which is somebody with a certificate of an authority.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Secured> {
        let stream = self.acceptor.accept(stream).await?;
        let session = stream.get_ref().1;
        let binding = session.export_keying_material([0; 32], BINDING_LABEL, None).map_err(io::Error::other)?;
        let certificate = session.peer_certificates().and_then(|chain| chain.first()).cloned().map(CertificateDer::into_owned);
        Ok(Secured { connection: Box::new(stream), binding, certificate })
    }
}

/// Bytes that go both ways, with TLS or without.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Duplex for C {}

/// A connection to another node.
pub(crate) type Connection = Box<dyn Duplex>;

/// A connection, and what is known of what protects it.
pub(crate) struct Secured {
    pub(crate) connection: Connection,
    pub(crate) binding: [u8; 32],
    /// What who connected has shown, where it was asked for.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

impl Secured {
    /// A connection without TLS.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { connection: Box::new(stream), binding: [0; 32], certificate: None }
    }

    /// Whether the certificate that was shown is made out to `node`. True where none was asked for.
    pub(crate) fn may_be(certificate: Option<&CertificateDer<'static>>, node: NodeId) -> bool {
        let Some(certificate) = certificate else { return true };
        let parsed = ParsedCertificate::try_from(certificate);
        let name = server_name(node);
        matches!((parsed, name), (Ok(parsed), Ok(name)) if verify_server_name(&parsed, &name).is_ok())
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ClusterTlsError> {
    let failed = |source| ClusterTlsError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(PEM_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > PEM_FILE_BYTES_MAX {
        let what = format!("more than {PEM_FILE_BYTES_MAX} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(bytes)
}

fn read_certificates(path: &Path, wanted: &'static str) -> Result<Vec<CertificateDer<'static>>, ClusterTlsError> {
    let chain = CertificateDer::pem_slice_iter(&read_bounded(path)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    chain.map_err(|source| ClusterTlsError::Lacks { path: path.to_owned(), wanted, source })
}
