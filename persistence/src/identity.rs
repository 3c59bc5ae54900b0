//! Who a data directory belongs to, and what must never change about it.
//!
//! The identity is one JSON file with a checksum, always written whole and durable, readable by this user only: it holds the secret that
//! keys reservation ids and fingerprints. This file knows nothing of the log.

use std::fmt::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_stock::Timestamp;

use crate::directory::OpenError;
use crate::disk;
use crate::record::NodeId;

/// Version of the directory's layout and of everything in it that this code writes, and the only one that it reads.
pub const DIRECTORY_FORMAT: u32 = 1;

/// How a sku is given its partition.
pub const PARTITION_HASH: &str = "siphash-2-4-zero-key";

/// Number of partitions.
pub const PARTITIONS: u16 = 1_024;

/// The file's name in the directory.
pub const IDENTITY_FILE: &str = "identity.json";

/// 256 random bits, made with the directory. Never shown: its debug form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The bits.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// What a data directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, 32 hexadecimal digits unless it was named when the directory was made.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// The number of shards that the partitions are mapped to.
    pub shards: u16,
    /// When the directory was made.
    pub created_at: Timestamp,
    /// The shortest time for which idempotency keys were ever remembered here, in seconds: what whoever audits the log may count on.
    /// The only field that changes, and it only falls.
    pub idempotency_seconds_min: u32,
    /// Keys reservation ids, fingerprints and the seeds of tables.
    pub secret: Secret,
}

/// What the directory must say where it exists; `None` takes what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityExpectation {
    /// The cluster.
    pub cluster: Option<String>,
    /// The node. A directory that is made without one gets 1.
    pub node: Option<NodeId>,
    /// The number of shards. A directory that is made without one gets 1.
    pub shards: Option<u16>,
}

/// The file's fields, in its order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    format_version: u32,
    cluster_id: String,
    node_id: u64,
    partition_hash: String,
    partition_count: u16,
    shard_count: u16,
    created_at_unix_ms: u64,
    idempotency_seconds_min: u32,
    secret: String,
    checksum: String,
}

/// The one field that every version of the file has and means alike.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl Identity {
    /// A new identity that meets `expectation`, in which no key has been remembered yet.
    pub(crate) fn generate(expectation: &IdentityExpectation, now: Timestamp) -> Result<Self, getrandom::Error> {
        let mut random = [0; 48];
        getrandom::fill(&mut random)?;
        let (cluster, secret) = random.split_at(16);
        Ok(Self {
            cluster: expectation.cluster.clone().unwrap_or_else(|| to_hex(cluster)),
            node: expectation.node.unwrap_or(NodeId(1)),
            shards: expectation.shards.unwrap_or(1),
            created_at: now,
            idempotency_seconds_min: u32::MAX,
            secret: Secret(secret.try_into().expect("48 - 16 bytes are 32")),
        })
    }

    /// Writes it to `directory`. Durable at return.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), OpenError> {
        let written = disk::write_file(directory, IDENTITY_FILE, &self.encode());
        written.map_err(|source| OpenError::io(&directory.join(IDENTITY_FILE), source))
    }

    /// Reads the identity of `directory`; `None` when it has none.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, OpenError> {
        let path = directory.join(IDENTITY_FILE);
        match std::fs::read(&path) {
            Ok(text) => Self::decode(&path, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::io(&path, source)),
        }
    }

    /// The file's text.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(&self.fields()).expect("numbers and texts always make JSON");
        text.push(b'\n');
        text
    }

    /// The identity that `text` is, which was found at `place`.
    pub(crate) fn decode(place: &Path, text: &[u8]) -> Result<Self, OpenError> {
        let damaged = |what: String| OpenError::Damaged { place: place.to_owned(), what };
        let version: Version = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if version.format_version != DIRECTORY_FORMAT {
            return Err(OpenError::Format { found: version.format_version, known: DIRECTORY_FORMAT });
        }
        let fields: Fields = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        let checksum = fields.checksum();
        if fields.checksum != checksum {
            return Err(damaged(format!("checksum is {}, its fields give {checksum}", fields.checksum)));
        }
        expect("partition_hash", &fields.partition_hash.as_str(), &PARTITION_HASH)?;
        expect("partition_count", &fields.partition_count, &PARTITIONS)?;
        let secret = from_hex(&fields.secret).ok_or_else(|| damaged("secret is not 64 hexadecimal digits".to_owned()))?;
        Ok(Self {
            cluster: fields.cluster_id,
            node: NodeId(fields.node_id),
            shards: fields.shard_count,
            created_at: Timestamp::from_unix_ms(fields.created_at_unix_ms),
            idempotency_seconds_min: fields.idempotency_seconds_min,
            secret: Secret(secret),
        })
    }

    /// Refuses what does not match, naming the field and both values.
    pub(crate) fn check(&self, expectation: &IdentityExpectation) -> Result<(), OpenError> {
        if let Some(cluster) = &expectation.cluster {
            expect("cluster_id", &self.cluster, cluster)?;
        }
        if let Some(node) = expectation.node {
            expect("node_id", &self.node, &node)?;
        }
        if let Some(shards) = expectation.shards {
            expect("shard_count", &self.shards, &shards)?;
        }
        Ok(())
    }

    /// Notes in `directory` that keys are remembered for `seconds`, if that is shorter than ever before. Durable at return.
    pub(crate) fn note_idempotency_seconds(&mut self, directory: &Path, seconds: u32) -> Result<(), OpenError> {
        if seconds >= self.idempotency_seconds_min {
            return Ok(());
        }
        self.idempotency_seconds_min = seconds;
        self.write(directory)
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields {
            format_version: DIRECTORY_FORMAT,
            cluster_id: self.cluster.clone(),
            node_id: self.node.0,
            partition_hash: PARTITION_HASH.to_owned(),
            partition_count: PARTITIONS,
            shard_count: self.shards,
            created_at_unix_ms: self.created_at.unix_ms(),
            idempotency_seconds_min: self.idempotency_seconds_min,
            secret: to_hex(&self.secret.0),
            checksum: String::new(),
        };
        fields.checksum = fields.checksum();
        fields
    }
}

impl Fields {
    /// crc32c over the values of all other fields, each followed by a line feed.
    fn checksum(&self) -> String {
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n",
            self.format_version,
            self.cluster_id,
            self.node_id,
            self.partition_hash,
            self.partition_count,
            self.shard_count,
            self.created_at_unix_ms,
            self.idempotency_seconds_min,
            self.secret
        );
        format!("{:08x}", crc32c::crc32c(text.as_bytes()))
    }
}

fn expect<T: PartialEq + fmt::Display>(field: &'static str, found: &T, expected: &T) -> Result<(), OpenError> {
    if found == expected {
        return Ok(());
    }
    Err(OpenError::IdentityMismatch { field, found: found.to_string(), expected: expected.to_string() })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a text does not fail");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != bytes.len() * 2 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
