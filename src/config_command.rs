//! `tidegate config`: the settings that a node would run with, and where each of them was given.
//!
//! It owns how they are printed. It must not know any setting by name, nor what a secret is: what may be seen is config's to say.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tidegate_config::{EffectiveSetting, Origin};

/// The settings as a settings file that gives the same settings when it is loaded, except for secrets: those are comments. Behind each
/// value stands where it was given.
pub(crate) fn as_toml(settings: &[EffectiveSetting]) -> String {
    let mut text = "# The effective settings. Behind each stands where it was given.\n".to_owned();
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = setting.section;
            let _ = writeln!(text, "\n[{section}]");
        }
        let origin = one_line(&setting.origin.to_string());
        let _ = match &setting.value {
            Some(value) => writeln!(text, "{} = {value} # {origin}", setting.name),
            None => writeln!(text, "# {} is a secret and not shown # {origin}", setting.name),
        };
    }
    text
}

/// The settings as one JSON object by section and name. A secret that was given has the value null.
pub(crate) fn as_json(settings: &[EffectiveSetting]) -> Value {
    let mut sections = Map::new();
    for setting in settings {
        let shown = json!({
            "value": setting.value,
            "secret": setting.value.is_none(),
            "origin": OriginShown::of(&setting.origin),
            "variable": setting.variable,
        });
        let section = sections.entry(setting.section).or_insert_with(|| json!({}));
        section[setting.name] = shown;
    }
    Value::Object(sections)
}

/// Where a value was given, for programs.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum OriginShown<'a> {
    Default,
    File { path: String },
    Variable { name: &'a str },
    Flag,
}

impl<'a> OriginShown<'a> {
    fn of(origin: &'a Origin) -> Self {
        match origin {
            Origin::Default => Self::Default,
            Origin::File(path) => Self::File { path: path.display().to_string() },
            Origin::Variable(name) => Self::Variable { name },
            Origin::Flag => Self::Flag,
        }
    }
}

/// A text that cannot end the comment that it stands in: a path may hold anything.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> EffectiveSetting {
        let given = ("path\n[http]".to_owned(), "TIDEGATE_DOOR_KEY".to_owned());
        EffectiveSetting { section: "door", name: "key", value: None, origin: Origin::File(given.0.into()), variable: given.1 }
    }

    #[test]
    fn a_secret_is_a_comment_and_a_path_cannot_leave_its_own() {
        let text = as_toml(&[secret()]);
        let said: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(said, ["[door]"], "{text}");
        assert!(text.contains("# key is a secret and not shown # settings file path?[http]"), "{text}");
    }

    #[test]
    fn a_secret_is_null_in_json() {
        let said = as_json(&[secret()]);
        assert_eq!((&said["door"]["key"]["value"], &said["door"]["key"]["secret"]), (&Value::Null, &true.into()), "{said}");
    }
}
