//! Where values come from: the settings file, then variables, then flags; and what is said when one is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::settings::{Settings, Sight};
use crate::value::Given;

/// What every variable of ours starts with.
const VARIABLE_PREFIX: &str = "TIDEGATE_";

/// The path of the settings file, where no flag names it. No setting.
pub const CONFIG_VARIABLE: &str = "TIDEGATE_CONFIG";

/// Names the API key that the tools send. No setting, though a shell that exports it for them may start a node as well.
pub const KEY_VARIABLE: &str = "TIDEGATE_KEY";

/// Longest settings file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In the settings file at this path.
    File(PathBuf),
    /// In this variable.
    Variable(String),
    /// On the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "settings file {}", path.display()),
            Self::Variable(name) => write!(formatter, "variable {name}"),
            Self::Flag => formatter.write_str("command line"),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("settings file {path}: cannot be read", path = .path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is far longer than settings can be.
    #[error("settings file {path}: has {bytes} bytes where at most {FILE_BYTES_MAX} are allowed", path = .path.display())]
    TooLong {
        /// Its path.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file is no TOML.
    #[error("settings file {path}: is not TOML", path = .path.display())]
    NotToml {
        /// Its path.
        path: PathBuf,
        /// What the reader says, with line and column.
        source: Box<toml::de::Error>,
    },
    /// There is no such setting.
    #[error("{origin}: unknown setting {key}")]
    UnknownKey {
        /// Where it was given.
        origin: Origin,
        /// Its name with its section.
        key: String,
    },
    /// A variable starts as ours do and names no setting.
    #[error("variable {0}: names no setting")]
    UnknownVariable(String),
    /// A section's name stands where a section is not.
    #[error("{origin}: {key} is {given} where a section is needed")]
    NoSection {
        /// Where it was given.
        origin: Origin,
        /// The section.
        key: String,
        /// What was given.
        given: String,
    },
    /// A value is outside its bounds, or of another kind.
    #[error("{origin}: {key} is {given} where {allowed} is needed")]
    BadValue {
        /// Where it was given.
        origin: Origin,
        /// The setting with its section.
        key: String,
        /// What was given.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// A value is impossible together with the others, wherever each of them was given.
    #[error("setting {key} is {given} where {allowed} is needed: {reason}")]
    Contradiction {
        /// The setting with its section.
        key: &'static str,
        /// Its value.
        given: String,
        /// What is allowed.
        allowed: String,
        /// Why.
        reason: String,
    },
}

impl Settings {
    /// The settings: defaults, then the file at `path` if there is one, then the `TIDEGATE_*` among `variables`, then `flags`, which are
    /// pairs of a setting with its section (`http.listen`) and a value.
    ///
    /// # Errors
    /// On the first thing that is wrong, with its place, name, value and bounds.
    pub fn load<'a>(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, SettingsError> {
        Layers::read(path, variables, flags).map(|layers| layers.settings)
    }
}

/// Settings while layer after layer is laid over them, with where each value that is no default was given.
pub(crate) struct Layers {
    pub(crate) settings: Settings,
    /// By a setting with its section.
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// As [`Settings::load`].
    pub(crate) fn read<'a>(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, SettingsError> {
        let mut layers = Self { settings: Settings::default(), origins: BTreeMap::new() };
        if let Some(path) = path {
            layers.take_file(path)?;
        }
        layers.take_variables(variables)?;
        for (key, value) in flags {
            layers.set(key, Given::Text(value), &Origin::Flag)?;
        }
        layers.settings.check()?;
        Ok(layers)
    }

    fn take_file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
        let bytes = fs::metadata(path).map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(SettingsError::TooLong { path: path.to_owned(), bytes });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let table: toml::Table =
            text.parse().map_err(|error| SettingsError::NotToml { path: path.to_owned(), source: Box::new(error) })?;
        let origin = Origin::File(path.to_owned());
        for (section, content) in &table {
            if !self.settings.fields().iter().any(|(known, ..)| known == section) {
                return Err(SettingsError::UnknownKey { origin, key: section.clone() });
            }
            let toml::Value::Table(fields) = content else {
                return Err(SettingsError::NoSection { origin, key: section.clone(), given: content.to_string() });
            };
            for (name, value) in fields {
                self.set(&format!("{section}.{name}"), Given::Toml(value), &origin)?;
            }
        }
        Ok(())
    }

    fn take_variables(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), SettingsError> {
        let mut ours: Vec<(String, OsString)> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX) && name != CONFIG_VARIABLE && name != KEY_VARIABLE)
            .collect();
        // The environment has no order of its own, and the first error should be the same each time.
        ours.sort_unstable();
        for (name, value) in ours {
            let key = Settings::keys().into_iter().find(|key| variable_of(key) == name);
            let key = key.ok_or_else(|| SettingsError::UnknownVariable(name.clone()))?;
            let origin = Origin::Variable(name);
            let Some(value) = value.to_str() else {
                let (given, allowed) = (value.to_string_lossy().into_owned(), "a text in UTF-8".to_owned());
                return Err(SettingsError::BadValue { origin, key, given, allowed });
            };
            self.set(&key, Given::Text(value), &origin)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, given: Given<'_>, origin: &Origin) -> Result<(), SettingsError> {
        let field = self.settings.fields().into_iter().find(|(section, name, ..)| key.split_once('.') == Some((section, name)));
        let Some((_, _, sight, slot)) = field else {
            return Err(SettingsError::UnknownKey { origin: origin.clone(), key: key.to_owned() });
        };
        slot.set(given).map_err(|allowed| SettingsError::BadValue {
            origin: origin.clone(),
            key: key.to_owned(),
            given: told(sight, given),
            allowed,
        })?;
        self.origins.insert(key.to_owned(), origin.clone());
        Ok(())
    }
}

/// A value as an error tells it.
pub(crate) fn told(sight: Sight, given: Given<'_>) -> String {
    match sight {
        Sight::Open => given.to_string(),
        Sight::Secret => "(a secret, not shown)".to_owned(),
    }
}

/// The variable of a setting: `http.listen` is `TIDEGATE_HTTP_LISTEN`.
pub(crate) fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "_").to_uppercase())
}
