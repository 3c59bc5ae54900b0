//! `tidegate key`: makes API keys, and the hashes by which a keys file knows them. Owns what a new key looks like; what a key may do is
//! the door's. It writes no file and logs nothing.

use std::io::{self, Read, Write};

use clap::{Args, Subcommand};
use data_encoding::BASE64URL_NOPAD;
use tidegate_api::{KEY_CHARACTERS_MAX, KeyHash, Role, key_name};

/// What every new key begins with, so that people and scanners of source code know one when they see it.
const PREFIX: &str = "tg_";

/// Random bytes of a new key. As many as make guessing hopeless however fast a guess is, which is what the plain hash rests on.
const SECRET_BYTES: usize = 32;

/// Fewest characters of a key that is hashed: texts that people choose are shorter, and a plain hash does not protect those.
const KEY_CHARACTERS_MIN: usize = 32;

/// What can be done about keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a new key and prints it, with the entry for the keys file below it.
    ///
    /// The first line of the standard output is the key: 256 random bits behind `tg_`. It is shown once and kept nowhere. What follows
    /// the empty line goes to the end of the file that `auth.keys_file` names; a running node takes it over by itself. Give the key an
    /// end with a line such as `expires_at = 2027-01-31T00:00:00Z` in its entry.
    New(NewKeyOptions),
    /// Reads a key from the standard input and prints its hash, as a keys file has it.
    ///
    /// For a key that another program made. It must be random, because its hash is a plain SHA-256: one of fewer than 32 characters is
    /// not taken.
    Hash,
}

/// What a new key is.
#[derive(Debug, Args)]
pub(crate) struct NewKeyOptions {
    /// The key's name, as the log of decisions tells who acted: 1 to 128 characters of A-Z a-z 0-9 . _ : ~ -
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: String,

    /// What it may do: read (everything), frontend (reserve, confirm, release, return, extend), operator (stocks), admin (everything);
    /// may be repeated
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
    roles: Vec<Role>,
}

/// Why there is no key or no hash.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The operating system gives no random bytes.
    #[error("no random bytes can be had")]
    Random(#[from] getrandom::Error),
    /// The standard input or output fails.
    #[error("the key cannot be read, or the answer not be written")]
    Stream(#[from] io::Error),
    /// What was read is no key.
    #[error("the key has {characters} characters where {KEY_CHARACTERS_MIN} to {KEY_CHARACTERS_MAX} visible ASCII ones are needed")]
    NoKey {
        /// Its characters; of a far too long one, those that were read.
        characters: usize,
    },
}

/// Runs what was asked for.
pub(crate) fn run(command: &KeyCommand) -> Result<(), KeyError> {
    let mut output = io::stdout().lock();
    match command {
        KeyCommand::New(options) => {
            let mut secret = [0; SECRET_BYTES];
            getrandom::fill(&mut secret)?;
            let key = key_of(&secret);
            writeln!(output, "{key}\n\n{}", entry(options, KeyHash::of(key.as_bytes())))?;
        }
        KeyCommand::Hash => writeln!(output, "{}", hash(io::stdin().lock())?)?,
    }
    Ok(output.flush()?)
}

fn key_of(secret: &[u8; SECRET_BYTES]) -> String {
    PREFIX.to_owned() + &BASE64URL_NOPAD.encode(secret)
}

/// The entry of a keys file. Names and roles need no escapes in TOML.
fn entry(options: &NewKeyOptions, hash: KeyHash) -> String {
    let roles: Vec<String> = options.roles.iter().map(|role| format!("\"{}\"", role.word())).collect();
    format!("[[key]]\nname = \"{}\"\nroles = [{}]\nsha256 = \"{hash}\"", options.name, roles.join(", "))
}

/// The hash of the key that `input` holds, with white space around it or not.
fn hash(input: impl Read) -> Result<KeyHash, KeyError> {
    let mut text = Vec::new();
    // One byte more than can be a key with a line's end behind it.
    input.take(KEY_CHARACTERS_MAX as u64 + 3).read_to_end(&mut text)?;
    let key = text.trim_ascii();
    if !(KEY_CHARACTERS_MIN..=KEY_CHARACTERS_MAX).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        return Err(KeyError::NoKey { characters: key.len() });
    }
    Ok(KeyHash::of(key))
}

fn name(text: &str) -> Result<String, String> {
    key_name(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

fn role(text: &str) -> Result<Role, String> {
    Role::of(text).ok_or_else(|| format!("one of {} is needed", Role::ALL.map(Role::word).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_prefix_and_43_characters_of_base64url() {
        assert_eq!(key_of(&[0; 32]), format!("tg_{}", "A".repeat(43)));
        assert_eq!(key_of(&[0xff; 32]), format!("tg_{}8", "_".repeat(42)));
    }

    #[test]
    fn a_hash_is_the_sha_256_of_the_key_without_the_white_space_around_it() {
        // As `printf %s abcdefghijklmnopqrstuvwxyz012345 | sha256sum` says.
        let expected = "653bb1245e828fcda4fa53fcd5a3def5bd7654e651f54b4132b73d74e64435c4";
        let key = "abcdefghijklmnopqrstuvwxyz012345";
        for text in [key.to_owned(), format!("{key}\n"), format!(" {key}\r\n")] {
            assert_eq!(hash(text.as_bytes()).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_key_is_not_hashed() {
        for (text, characters) in [
            (String::new(), 0),
            ("short".to_owned(), 5),
            ("x".repeat(KEY_CHARACTERS_MAX + 1), KEY_CHARACTERS_MAX + 1),
            (format!("{} {}", "x".repeat(20), "x".repeat(20)), 41),
            ("é".repeat(20), 40),
        ] {
            assert!(matches!(hash(text.as_bytes()), Err(KeyError::NoKey { characters: told }) if told == characters), "{text}");
        }
        assert!(hash("x".repeat(KEY_CHARACTERS_MAX).as_bytes()).is_ok());
    }
}
