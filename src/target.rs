//! A node to talk to: its address, its name, the key that it wants, and how it proves who it is. The door of rustls.
//!
//! It must not know what is said over a connection.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The variable with the API key, where no file is named.
pub(crate) use tidegate_config::KEY_VARIABLE;

/// Longest key, in characters.
const KEY_CHARACTERS_MAX: usize = 4_096;

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// The URL is none of a node.
    #[error("--target {url:?} is no http:// or https:// HOST[:PORT]: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name has no address.
    #[error("--target {url:?} has no address")]
    Address {
        /// What was given.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The key's file cannot be read.
    #[error("--key-file {}: cannot be read", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What is given as a key cannot be one.
    #[error("{place}: a key is 1 to {KEY_CHARACTERS_MAX} visible ASCII characters")]
    Key {
        /// Where it stands.
        place: String,
    },
    /// The authorities cannot be read.
    #[error("--ca-file {}: holds no certificate that can be used: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The machine trusts nobody.
    #[error("this machine's trusted certificates cannot be read, name some with --ca-file: {0}")]
    NoAuthorities(String),
}

/// Where to connect, and what to say first.
#[derive(Clone)]
pub(crate) struct Target {
    /// As it was given.
    pub(crate) url: String,
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// As the host header names it.
    pub(crate) name: String,
    /// The API key to send, free of line ends.
    pub(crate) key: Option<String>,
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    is_tls: bool,
    /// Without brackets, for the resolver and for certificates.
    host: String,
    port: u16,
    /// As the host header names it.
    name: String,
}

impl TargetError {
    /// Whether what was asked for is wrong, and not what came of it.
    pub(crate) const fn is_usage(&self) -> bool {
        !matches!(self, Self::Address { .. })
    }
}

impl Target {
    /// Reads the URL, the key and the trusted certificates, and looks the name up. Blocks while it does.
    pub(crate) fn find(url: &str, key_file: Option<&Path>, ca_file: Option<&Path>) -> Result<Self, TargetError> {
        let place = place(url).map_err(|reason| TargetError::Url { url: url.to_owned(), reason })?;
        let key = key(key_file)?;
        let tls = if place.is_tls {
            let name = ServerName::try_from(place.host.clone());
            let name = name.map_err(|error| TargetError::Url { url: url.to_owned(), reason: error.to_string() })?;
            Some((connector(ca_file)?, name))
        } else {
            None
        };
        let no_address = |source| TargetError::Address { url: url.to_owned(), source };
        let found = std::net::ToSocketAddrs::to_socket_addrs(&(place.host.as_str(), place.port)).map_err(no_address)?;
        let mut addresses: Vec<SocketAddr> = found.collect();
        // Where a name has both kinds, its IPv4 ones are tried first.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(Self { url: url.to_owned(), addresses, tls, name: place.name, key })
    }

    /// A node at `address` that wants neither TLS nor a key, whatever the environment says.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { url: format!("http://{address}"), addresses: vec![address], tls: None, name: address.to_string(), key: None }
    }

    /// A new connection. What is dropped half-way is closed.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect(&self.addresses[..]).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::Plain(stream)),
            Some((connector, name)) => Ok(Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?))),
        }
    }
}

/// A connection's bytes.
pub(crate) enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

fn place(url: &str) -> Result<Place, String> {
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("it begins with neither http:// nor https://".to_owned()),
    };
    if uri.path().len() > 1 || uri.query().is_some() {
        return Err("it has a path".to_owned());
    }
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it holds a user or a password; use --key-file".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("it names no host".to_owned());
    }
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None if authority.as_str().ends_with(']') || !authority.as_str().contains(':') => {
            if is_tls {
                443
            } else {
                80
            }
        }
        None => return Err("its port is no number from 1 to 65535".to_owned()),
    };
    if port == 0 {
        return Err("its port is no number from 1 to 65535".to_owned());
    }
    Ok(Place { is_tls, host, port, name: authority.as_str().to_owned() })
}

fn key(file: Option<&Path>) -> Result<Option<String>, TargetError> {
    let (text, place) = match file {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|source| TargetError::KeyFile { path: path.to_owned(), source })?;
            (text, format!("--key-file {}", path.display()))
        }
        None => match std::env::var_os(KEY_VARIABLE) {
            Some(value) => (value.to_string_lossy().into_owned(), format!("variable {KEY_VARIABLE}")),
            None => return Ok(None),
        },
    };
    let key = text.trim();
    if (1..=KEY_CHARACTERS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Some(key.to_owned()));
    }
    Err(TargetError::Key { place })
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, TargetError> {
    let roots = match ca_file {
        Some(path) => named_roots(path).map_err(|reason| TargetError::Authorities { path: path.to_owned(), reason })?,
        None => machine_roots()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks every version that is asked for")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn named_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is none in it".to_owned());
    }
    Ok(roots)
}

fn machine_roots() -> Result<RootCertStore, TargetError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old stores hold some that cannot be read; the others are enough.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "there are none".to_owned() } else { reasons.join("; ") };
        return Err(TargetError::NoAuthorities(reason));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    #[test]
    fn a_url_names_a_place() {
        let is = |url: &str, is_tls: bool, host: &str, port: u16, name: &str| {
            let expect = Place { is_tls, host: host.to_owned(), port, name: name.to_owned() };
            assert_eq!(place(url), Ok(expect), "{url}");
        };
        is("http://shop.example:8700", false, "shop.example", 8_700, "shop.example:8700");
        is("http://shop.example:8700/", false, "shop.example", 8_700, "shop.example:8700");
        is("https://shop.example", true, "shop.example", 443, "shop.example");
        is("http://10.0.0.1", false, "10.0.0.1", 80, "10.0.0.1");
        is("http://[::1]:8700", false, "::1", 8_700, "[::1]:8700");
        is("https://[::1]", true, "::1", 443, "[::1]");
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_reason() {
        for (url, reason) in [
            ("shop.example:8700", "begins with neither"),
            ("ftp://shop.example", "begins with neither"),
            ("http://", ""),
            ("http://shop/v1", "has a path"),
            ("http://shop?x=1", "has a path"),
            ("http://me:secret@shop", "--key-file"),
            ("http://shop:0", "port"),
            ("http://shop:65536", "port"),
            ("", ""),
        ] {
            let refused = place(url).unwrap_err();
            assert!(refused.contains(reason), "{url}: {refused}");
        }
    }

    #[test]
    fn a_key_file_holds_one_key() {
        let file = NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            key(Some(file.path()))
        };
        assert_eq!(read("tg_abc\n").unwrap(), Some("tg_abc".to_owned()));
        for text in ["", "\n", "two words", "two\nlines", "schl\u{fc}ssel"] {
            assert!(matches!(read(text), Err(TargetError::Key { .. })), "{text:?}");
        }
        assert!(matches!(key(Some(Path::new("/nowhere/at/all"))), Err(TargetError::KeyFile { .. })));
    }

    #[test]
    fn a_file_without_certificates_is_no_authority() {
        let file = NamedTempFile::new().unwrap();
        for text in ["", "no certificate\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(file.path(), text).unwrap();
            assert!(matches!(connector(Some(file.path())), Err(TargetError::Authorities { .. })), "{text:?}");
        }
    }
}
