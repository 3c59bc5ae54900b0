//! What the settings came to: every one with its value and where it was given, fit to be shown.
//!
//! It owns which values may be seen. It must not know how they are printed.

use std::ffi::OsString;
use std::path::Path;

use crate::load::{Layers, Origin, SettingsError, variable_of};
use crate::settings::{Field, Settings, Sight};

/// One setting as a process with these layers would have it.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveSetting {
    /// Its section.
    pub section: &'static str,
    /// Its name within the section.
    pub name: &'static str,
    /// Its value, as a settings file has it; nothing for a secret that was given, which is not shown.
    pub value: Option<toml::Value>,
    /// Where it was given.
    pub origin: Origin,
    /// The variable that sets it.
    pub variable: String,
}

impl EffectiveSetting {
    /// Every setting, section by section, from the same layers as [`Settings::load`].
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn all<'a>(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<Self>, SettingsError> {
        let Layers { mut settings, mut origins } = Layers::read(path, variables, flags)?;
        let mut origin_of = |key: &str| origins.remove(key).unwrap_or(Origin::Default);
        Ok(settings.fields().iter().map(|field| Self::of(field, &mut origin_of)).collect())
    }

    /// Every setting at its default.
    pub fn defaults() -> Vec<Self> {
        Settings::default().fields().iter().map(|field| Self::of(field, |_| Origin::Default)).collect()
    }

    /// Its name with its section: `http.listen`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    fn of((section, name, sight, slot): &Field<'_>, origin_of: impl FnOnce(&str) -> Origin) -> Self {
        let key = format!("{section}.{name}");
        let origin = origin_of(&key);
        // A default stands in the manual, so it is no secret.
        let visible = *sight == Sight::Open || origin == Origin::Default;
        Self { section, name, value: visible.then(|| slot.value()), origin, variable: variable_of(&key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::told;
    use crate::value::{Given, Slot};

    #[test]
    fn a_secret_is_shown_only_while_it_is_the_default() {
        let shown = |sight, origin: &Origin| {
            let mut text = "token".to_owned();
            EffectiveSetting::of(&("door", "key", sight, Slot::Text(&mut text)), |_| origin.clone()).value
        };
        let token = Some(toml::Value::String("token".to_owned()));
        for origin in [Origin::File("settings.toml".into()), Origin::Variable("TIDEGATE_DOOR_KEY".to_owned()), Origin::Flag] {
            assert_eq!(shown(Sight::Secret, &origin), None, "{origin}");
            assert_eq!(shown(Sight::Open, &origin), token, "{origin}");
        }
        assert_eq!(shown(Sight::Secret, &Origin::Default), token);
    }

    #[test]
    fn an_error_tells_no_secret() {
        assert!(told(Sight::Open, Given::Text("token")).contains("token"));
        assert!(!told(Sight::Secret, Given::Text("token")).contains("token"));
    }
}
