//! What the settings say of a member: who it is to other nodes, how they know it, and when a leader is taken for gone.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tidegate_cluster::GroupTimes;
use tidegate_cluster::network::{Endpoint, EndpointError, NetworkLimits};
use tidegate_cluster::transport::{
    ClusterSecret, ClusterTls, ClusterTlsError, ClusterTlsFiles, Greeting, SECRET_BYTES_MAX, SecretError,
};
use tidegate_config::ClusterSettings;
use tidegate_persistence::Identity;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointFault {
    /// The secret's file cannot be read.
    #[error("cluster.secret_file {}: cannot be read", .path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The secret is none.
    #[error("cluster.secret_file {}: {source}", .path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SecretError,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] ClusterTlsError),
    /// The endpoint cannot be as it is wanted.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// What the settings say where they name a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    /// Where to listen for other nodes.
    pub(crate) listen: SocketAddr,
    /// Where other nodes reach this one.
    pub(crate) advertise: String,
    /// When a leader is taken for gone.
    pub(crate) times: GroupTimes,
}

/// What `settings` say, if they name a cluster.
pub(crate) fn membership(settings: &ClusterSettings) -> Option<Membership> {
    let listen = settings.listen?;
    let advertise = settings.advertise.as_ref().map_or_else(|| listen.to_string(), ToString::to_string);
    let ClusterSettings { heartbeat_ms, election_ms_min, election_ms_max, .. } = *settings;
    Some(Membership { listen, advertise, times: GroupTimes { heartbeat_ms, election_ms_min, election_ms_max } })
}

/// The node of `identity` as others come to know it. Reads the files that `settings` name.
pub(crate) fn endpoint(settings: &ClusterSettings, identity: &Identity) -> Result<Endpoint, EndpointFault> {
    // The settings' own check leaves none in that lacks one.
    let secret = secret(settings.secret_file.as_deref().unwrap_or(Path::new("none")))?;
    let files = (&settings.certificate_file, &settings.private_key_file, &settings.authorities_file);
    let tls = if let (Some(certificate), Some(private_key), Some(authorities)) = files {
        let files = ClusterTlsFiles {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
            authorities: authorities.clone(),
        };
        Some(ClusterTls::read(&files)?)
    } else {
        None
    };
    let us = Greeting { cluster: identity.cluster.clone(), node: identity.node };
    Ok(Endpoint::new(us, secret, tls, NetworkLimits::default())?)
}

fn secret(path: &Path) -> Result<ClusterSecret, EndpointFault> {
    let mut bytes = Vec::new();
    // One more than the longest, so that it is seen to be too long.
    let limit = SECRET_BYTES_MAX as u64 + 2;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|source| EndpointFault::SecretFile { path: path.to_owned(), source })?;
    ClusterSecret::new(bytes.trim_ascii_end()).map_err(|source| EndpointFault::Secret { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_stands_in_the_file_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let write = |text: &[u8]| std::fs::write(&path, text).unwrap();
        write(&[b"x".repeat(32), b"\n".to_vec()].concat());
        assert!(secret(&path).is_ok());
        write(&[b"x".repeat(31), b"\n".to_vec()].concat());
        assert!(secret(&path).unwrap_err().to_string().contains("31 bytes where 32 to 4096 are allowed"));
        write(&b"x".repeat(5_000));
        assert!(matches!(secret(&path), Err(EndpointFault::Secret { .. })));
        assert!(matches!(secret(&folder.path().join("none")), Err(EndpointFault::SecretFile { .. })));
    }
}
