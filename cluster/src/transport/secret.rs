//! The secret that the nodes of a cluster share, and the proof of knowing it. The door of ring.
//!
//! It knows nothing of connections: what is proved is bytes, and who compares them is the handshake.

use std::fmt;
use std::io;

use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// Shortest secret in bytes. Whoever pretends to be a node gets a proof to guess the secret by, so it must not be a word.
pub const SECRET_BYTES_MIN: usize = 32;

/// Longest secret in bytes.
pub const SECRET_BYTES_MAX: usize = 4096;

/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = 32;

/// Bytes that were never used before, and that nobody could foresee.
pub type Nonce = [u8; 32];

/// A secret has a length that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's secret of {0} bytes where {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} are allowed")]
pub struct SecretError(usize);

/// What the nodes of one cluster know and nobody else does. Is never shown.
#[derive(Clone)]
pub struct ClusterSecret(hmac::Key);

impl ClusterSecret {
    /// Takes `bytes`, [`SECRET_BYTES_MIN`] to [`SECRET_BYTES_MAX`] of them, best drawn at random.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        let is_allowed = (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len());
        if is_allowed { Ok(Self(hmac::Key::new(HMAC_SHA256, bytes))) } else { Err(SecretError(bytes.len())) }
    }

    /// HMAC-SHA256 over `statement`.
    pub(crate) fn prove(&self, statement: &[u8]) -> [u8; PROOF_BYTES] {
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(hmac::sign(&self.0, statement).as_ref());
        proof
    }

    /// Whether `proof` is that of somebody who knows the secret. Takes as long for every wrong one.
    pub(crate) fn is_proved(&self, statement: &[u8], proof: &[u8; PROOF_BYTES]) -> bool {
        hmac::verify(&self.0, statement, proof).is_ok()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClusterSecret")
    }
}

/// A new nonce, from the operating system.
pub fn draw_nonce() -> io::Result<Nonce> {
    let mut nonce = [0; 32];
    SystemRandom::new().fill(&mut nonce).map_err(|_| io::Error::other("the operating system gives no random bytes"))?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 7: a key and data longer than a block.
    #[test]
    fn a_proof_is_hmac_sha256() {
        let secret = ClusterSecret::new(&[0xaa; 131]).unwrap();
        let data = b"This is a test using a larger than block-size key and a larger than block-size data. \
            The key needs to be hashed before being used by the HMAC algorithm.";
        let expected = [
            0x9b, 0x09, 0xff, 0xa7, 0x1b, 0x94, 0x2f, 0xcb, 0x27, 0x63, 0x5f, 0xbc, 0xd5, 0xb0, 0xe9, 0x44, 0xbf, 0xdc, 0x63, 0x64,
            0x4f, 0x07, 0x13, 0x93, 0x8a, 0x7f, 0x51, 0x53, 0x5c, 0x3a, 0x35, 0xe2,
        ];
        assert_eq!(secret.prove(data), expected);
        assert!(secret.is_proved(data, &expected));
        for bit in 0..PROOF_BYTES * 8 {
            let mut other = expected;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret.is_proved(data, &other), "bit {bit}");
        }
    }

    #[test]
    fn a_secret_is_neither_short_nor_shown() {
        assert_eq!(ClusterSecret::new(&[1; 31]).unwrap_err(), SecretError(31));
        assert_eq!(ClusterSecret::new(&[1; 4097]).unwrap_err(), SecretError(4097));
        assert_eq!(format!("{:?}", ClusterSecret::new(&[b'x'; 32]).unwrap()), "ClusterSecret");
    }
}
