//! API keys: the file that lists them, what each may do, and which one a request brings. The door of SHA-256.
//!
//! A key is a random text of 256 bits, made by `tidegate key new`; the file holds its SHA-256 alone. A plain fast hash is right for
//! that: nobody guesses 256 random bits, however fast each guess is. A slow password hash protects texts that people choose, and would
//! cost its time on every request here. Keys are looked up by the whole hash of what was presented, so the time that takes tells
//! nothing about any key. This module never repeats a key, nor anything of the file but the names in it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;
use tidegate_engine::ActorName;
use tidegate_stock::Timestamp;
use toml::Spanned;
use toml::value::Datetime;

use crate::reload::{FileError, Source, read_bounded, warn_if_open};
use crate::time;

/// Who acts while no keys are configured: whoever reaches the loopback address.
pub const LOOPBACK_ACTOR: &str = "loopback";

/// Names that no key may have: events carry them for other causes.
const NAMES_RESERVED: [&str; 2] = ["clock", LOOPBACK_ACTOR];

/// Longest keys file that is read, in bytes: thousands of keys.
const KEYS_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest key that is looked up, in characters. `tidegate key new` makes keys of 46.
pub const KEY_CHARACTERS_MAX: usize = 512;

/// What a key may do. Every role may read; an admin may do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads everything; written `read`.
    Read,
    /// Reserves, confirms, releases, returns and extends; written `frontend`.
    Frontend,
    /// Opens, changes, pauses and closes stocks; written `operator`.
    Operator,
    /// Everything, and alone what belongs to the node as a whole; written `admin`.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Read, Self::Frontend, Self::Operator, Self::Admin];

    /// Its word in a keys file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Frontend => "frontend",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role with this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }

    /// Whether whoever has this role may do what `needed` is needed for.
    const fn includes(self, needed: Self) -> bool {
        matches!(
            (self, needed),
            (Self::Admin, _) | (_, Self::Read) | (Self::Frontend, Self::Frontend) | (Self::Operator, Self::Operator)
        )
    }
}

/// The SHA-256 of a key: all that is kept of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; SHA256_OUTPUT_LEN]);

impl KeyHash {
    /// The hash of `key`, which should be random: see the head of this file.
    pub fn of(key: &[u8]) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(hash)
    }

    fn parse(hexadecimal: &str) -> Option<Self> {
        let bytes = HEXLOWER_PERMISSIVE.decode(hexadecimal.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER_PERMISSIVE.encode_write(&self.0, formatter)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A text that cannot be the name of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyNameError {
    /// It is no identifier.
    #[error("name {0}")]
    NoIdentifier(#[from] tidegate_stock::IdentifierError),
    /// It means something else in events.
    #[error("name is {0:?}, which is reserved")]
    Reserved(String),
}

/// The name of a key, as events carry it: an identifier, and neither `clock` nor `loopback`.
pub fn key_name(name: &str) -> Result<ActorName, KeyNameError> {
    if NAMES_RESERVED.contains(&name) {
        return Err(KeyNameError::Reserved(name.to_owned()));
    }
    Ok(ActorName::new(name)?)
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("keys file {path}", path = .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// Something in it is wrong.
    #[error("keys file {path}, line {line}: {what}", path = .path.display())]
    Wrong {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field, and what is wrong with it.
        what: String,
    },
}

/// A key's entry, as far as a request is concerned.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name; all events by this key share it.
    pub(crate) actor: ActorName,
    roles: Vec<Role>,
    expires_at: Option<Timestamp>,
}

impl Key {
    /// Whether it may do what `needed` is needed for.
    pub(crate) fn may(&self, needed: Role) -> bool {
        self.roles.iter().any(|role| role.includes(needed))
    }

    /// The moment from which on it opens nothing.
    pub(crate) const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }
}

/// All keys of a file: at least one.
#[derive(Debug)]
pub(crate) struct Keys(HashMap<KeyHash, Key>);

impl Keys {
    /// The entry of `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Key> {
        // So long a text is nobody's key, and its hash would cost more than the rest of a request.
        if key.len() > KEY_CHARACTERS_MAX {
            return None;
        }
        self.0.get(&KeyHash::of(key))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn parse(path: &Path, text: &str) -> Result<Self, KeysError> {
        // The reader's own message would show the whole line, which a key may have been put into by mistake.
        let wrong = |at: usize, what: String| KeysError::Wrong { path: path.to_owned(), line: line_of(text, at), what };
        let file: FileFields =
            toml::from_str(text).map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        let mut names = HashMap::with_capacity(file.key.len());
        let mut keys = HashMap::with_capacity(file.key.len());
        for fields in &file.key {
            let (name, hash, key) = fields.get_ref().read().map_err(|(at, what)| wrong(at, what))?;
            let at = fields.get_ref().name.span().start;
            if let Some(first) = names.insert(name, at) {
                return Err(wrong(at, format!("name is {name:?}, as in line {}", line_of(text, first))));
            }
            if keys.insert(hash, key).is_some() {
                return Err(wrong(fields.get_ref().sha256.span().start, "sha256 is that of another key above".to_owned()));
            }
        }
        if keys.is_empty() {
            // More likely a file that is being written than one that should let nobody in.
            return Err(wrong(0, "there is no [[key]]".to_owned()));
        }
        Ok(Self(keys))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileFields {
    #[serde(default)]
    key: Vec<Spanned<KeyFields>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    name: Spanned<String>,
    roles: Spanned<Vec<Spanned<String>>>,
    sha256: Spanned<String>,
    expires_at: Option<Spanned<Datetime>>,
}

impl KeyFields {
    /// The entry; otherwise the place of what is wrong, and what it is.
    fn read(&self) -> Result<(&str, KeyHash, Key), (usize, String)> {
        let name = self.name.get_ref().as_str();
        let actor = key_name(name).map_err(|error| (self.name.span().start, error.to_string()))?;
        let hash = KeyHash::parse(self.sha256.get_ref()).ok_or_else(|| {
            let characters = 2 * SHA256_OUTPUT_LEN;
            (self.sha256.span().start, format!("sha256 is not {characters} hexadecimal digits"))
        })?;
        let role = |word: &Spanned<String>| {
            Role::of(word.get_ref()).ok_or_else(|| {
                let known = Role::ALL.map(Role::word).join(", ");
                (word.span().start, format!("roles holds what is none of {known}"))
            })
        };
        let roles: Vec<Role> = self.roles.get_ref().iter().map(role).collect::<Result<_, _>>()?;
        if roles.is_empty() {
            return Err((self.roles.span().start, "roles is empty where at least one is needed".to_owned()));
        }
        let moment = |moment: &Spanned<Datetime>| {
            time::parse(&moment.get_ref().to_string()).map_err(|_| {
                let needed = "where a date and time with an offset is needed, as in 2027-01-31T00:00:00Z";
                (moment.span().start, format!("expires_at is {} {needed}", moment.get_ref()))
            })
        };
        let expires_at = self.expires_at.as_ref().map(moment).transpose()?;
        Ok((name, hash, Key { actor, roles, expires_at }))
    }
}

/// The line of the byte at `at`, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Where keys are read from.
#[derive(Debug)]
pub(crate) struct KeysFile(pub(crate) PathBuf);

impl Source for KeysFile {
    type Value = Keys;
    type Error = KeysError;

    fn paths(&self) -> Vec<&Path> {
        vec![&self.0]
    }

    fn read(&self) -> Result<Keys, KeysError> {
        let text = read_bounded(&self.0, KEYS_FILE_BYTES_MAX).and_then(|bytes| String::from_utf8(bytes).map_err(FileError::from));
        let text = text.map_err(|source| KeysError::File { path: self.0.clone(), source })?;
        warn_if_open("keys", &self.0);
        Keys::parse(&self.0, &text)
    }
}

/// The key that a request brings, or what is wrong with how it brings it.
pub(crate) fn presented(headers: &HeaderMap) -> Result<&[u8], &'static str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or("an API key is needed, as in authorization: Bearer KEY")?;
    if values.next().is_some() {
        return Err("the authorization header is there more than once");
    }
    let malformed = "the authorization header is not of the form Bearer KEY";
    let (scheme, rest) = value.as_bytes().split_at_checked("Bearer ".len()).ok_or(malformed)?;
    let key = rest.trim_ascii_start();
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || key.is_empty() || !key.iter().all(u8::is_ascii_graphic) {
        return Err(malformed);
    }
    Ok(key)
}
