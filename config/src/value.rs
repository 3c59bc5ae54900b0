//! The kinds of value that a setting can have, and how each is read from a settings file or from a text.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::telemetry::{CollectorUrl, Ratio};

/// A number that the program works out where none is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Worked out at start; written `"auto"`.
    Automatic,
    /// This many.
    Fixed(u64),
}

impl Count {
    /// The number, or `automatic` where none is set.
    pub const fn or(self, automatic: u64) -> u64 {
        match self {
            Self::Automatic => automatic,
            Self::Fixed(count) => count,
        }
    }
}

/// How deep a change is on the disk before its answer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a loss of power; written `"power_loss"`.
    PowerLoss,
    /// It survives the end of the process, but not a loss of power; written `"process_crash"`.
    ProcessCrash,
    /// Nothing is promised; written `"none"`.
    None,
}

/// What a member of a cluster does whose ledger differs from that of the node that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDivergence {
    /// It stops, and does not start again on its directory; written `"stop"`.
    Stop,
    /// It says so and goes on; written `"warn"`.
    Warn,
}

/// How the program's own log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people; written `"human"`.
    Human,
    /// One JSON object a line; written `"json"`.
    Json,
}

/// Where a node is reached by others: a name or an IP address, an IPv6 address in brackets, and a port that is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress(String);

impl PeerAddress {
    /// Longest address in bytes: the longest name, and its port.
    pub const BYTES_MAX: usize = 253 + 6;

    /// `text`, if it is such an address.
    pub fn new(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let is_good_port = port.parse::<u16>().is_ok_and(|port| port != 0) && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_good_host = if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            address.parse::<Ipv6Addr>().is_ok_and(|address| !address.is_unspecified())
        } else {
            let is_unspecified = host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_unspecified());
            !host.is_empty() && !is_unspecified && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        (is_good_port && is_good_host && text.len() <= Self::BYTES_MAX).then(|| Self(text.to_owned()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A setting that is one of a few words.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Every word with what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

impl Choice for Durability {
    const WORDS: &'static [(&'static str, Self)] =
        &[("power_loss", Self::PowerLoss), ("process_crash", Self::ProcessCrash), ("none", Self::None)];
}

impl Choice for OnDivergence {
    const WORDS: &'static [(&'static str, Self)] = &[("stop", Self::Stop), ("warn", Self::Warn)];
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("human", Self::Human), ("json", Self::Json)];
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(word_of(*self))
    }
}

fn word_of<T: Choice>(choice: T) -> &'static str {
    T::WORDS.iter().find(|(_, known)| *known == choice).map_or("", |(word, _)| word)
}

/// Where a setting's value is kept while settings are read, with its bounds.
pub(crate) enum Slot<'a> {
    /// A whole number.
    Number(&'a mut u64, RangeInclusive<u64>),
    /// A whole number that is a power of two.
    PowerOfTwo(&'a mut u64, RangeInclusive<u64>),
    /// A whole number, or `auto`.
    Count(&'a mut Count, RangeInclusive<u64>),
    /// An IP address with a port.
    Address(&'a mut SocketAddr),
    /// An IP address with a port, or `none`.
    OptionalAddress(&'a mut Option<SocketAddr>),
    /// Where other nodes reach this one, or `none`.
    Peer(&'a mut Option<PeerAddress>),
    /// A path; relative ones start at the working directory.
    Path(&'a mut PathBuf),
    /// A path, or `none`.
    OptionalPath(&'a mut Option<PathBuf>),
    /// `true` or `false`.
    Switch(&'a mut bool),
    /// Any text but an empty one.
    Text(&'a mut String),
    /// A share from 0 to 1.
    Ratio(&'a mut Ratio),
    /// Where a collector is, or `none`.
    Collector(&'a mut Option<CollectorUrl>),
    /// One of the durabilities.
    Durability(&'a mut Durability),
    /// One of its words.
    OnDivergence(&'a mut OnDivergence),
    /// One of the log formats.
    LogFormat(&'a mut LogFormat),
}

/// A value as it was given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'a> {
    /// From a settings file, where a number and its text differ.
    Toml(&'a toml::Value),
    /// From a variable or a flag, where everything is text.
    Text(&'a str),
}

impl Given<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Toml(toml::Value::String(text)) => Some(text),
            Self::Toml(_) => None,
            Self::Text(text) => Some(text),
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Toml(toml::Value::Integer(number)) => u64::try_from(*number).ok(),
            Self::Toml(_) => None,
            Self::Text(text) => text.parse().ok(),
        }
    }

    fn switch(&self) -> Option<bool> {
        match self {
            Self::Toml(toml::Value::Boolean(switch)) => Some(*switch),
            Self::Toml(_) => None,
            Self::Text(text) => text.parse().ok(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "whoever writes no point writes 0 or 1")]
    fn decimal(&self) -> Option<f64> {
        match self {
            Self::Toml(toml::Value::Float(number)) => Some(*number),
            Self::Toml(toml::Value::Integer(number)) => Some(*number as f64),
            Self::Toml(_) => None,
            Self::Text(text) => text.parse().ok(),
        }
    }
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toml(value) => value.fmt(formatter),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

impl Slot<'_> {
    /// The value, as a settings file has it.
    pub(crate) fn value(&self) -> toml::Value {
        let text = |text: &str| toml::Value::String(text.to_owned());
        let number = |number: u64| toml::Value::Integer(i64::try_from(number).expect("no bounds reach beyond TOML's numbers"));
        match self {
            Self::Number(place, _) | Self::PowerOfTwo(place, _) => number(**place),
            Self::Count(Count::Automatic, _) => text("auto"),
            Self::Count(Count::Fixed(count), _) => number(*count),
            Self::Address(place) => text(&place.to_string()),
            Self::OptionalAddress(place) => text(&place.map_or_else(|| "none".to_owned(), |address| address.to_string())),
            Self::Peer(place) => text(place.as_ref().map_or("none", PeerAddress::as_str)),
            Self::Path(place) => text(place.to_str().expect("a path is read from a text")),
            Self::OptionalPath(place) => {
                text(place.as_ref().map_or("none", |path| path.to_str().expect("a path is read from a text")))
            }
            Self::Switch(place) => toml::Value::Boolean(**place),
            Self::Text(place) => text(place),
            Self::Ratio(place) => toml::Value::Float(place.get()),
            Self::Collector(place) => text(&place.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
            Self::Durability(place) => text(word_of(**place)),
            Self::OnDivergence(place) => text(word_of(**place)),
            Self::LogFormat(place) => text(word_of(**place)),
        }
    }

    /// Puts `given` into its place; otherwise leaves the place alone and says what is allowed there.
    pub(crate) fn set(self, given: Given<'_>) -> Result<(), String> {
        match self {
            Self::Number(place, bounds) => {
                let number = given.number().filter(|number| bounds.contains(number));
                put(place, number, || format!("a whole number of {} to {}", bounds.start(), bounds.end()))
            }
            Self::PowerOfTwo(place, bounds) => {
                let number = given.number().filter(|number| bounds.contains(number) && number.is_power_of_two());
                put(place, number, || format!("a power of two of {} to {}", bounds.start(), bounds.end()))
            }
            Self::Count(place, bounds) => {
                let fixed = given.number().filter(|number| bounds.contains(number)).map(Count::Fixed);
                let count = fixed.or_else(|| (given.text()? == "auto").then_some(Count::Automatic));
                put(place, count, || format!("auto or a whole number of {} to {}", bounds.start(), bounds.end()))
            }
            Self::Address(place) => put(place, given.text().and_then(|text| text.parse().ok()), || {
                "an IP address with a port, such as 127.0.0.1:8700,".to_owned()
            }),
            Self::OptionalAddress(place) => {
                let address = given.text().and_then(|text| match text {
                    "none" => Some(None),
                    text => text.parse().ok().map(Some),
                });
                put(place, address, || "none or an IP address with a port, such as 10.0.0.1:8701,".to_owned())
            }
            Self::Peer(place) => {
                let address = given.text().and_then(|text| match text {
                    "none" => Some(None),
                    text => PeerAddress::new(text).map(Some),
                });
                put(place, address, || "none or a name or an IP address with a port, such as node-1.shop:8701,".to_owned())
            }
            Self::Path(place) => {
                put(place, given.text().filter(|text| !text.is_empty()).map(PathBuf::from), || "the path of a folder".to_owned())
            }
            Self::OptionalPath(place) => {
                let path = given.text().filter(|text| !text.is_empty()).map(|text| (text != "none").then(|| PathBuf::from(text)));
                put(place, path, || "none or the path of a file".to_owned())
            }
            Self::Switch(place) => put(place, given.switch(), || "true or false".to_owned()),
            Self::Text(place) => put(place, given.text().filter(|text| !text.is_empty()).map(str::to_owned), || {
                "a text of at least 1 character".to_owned()
            }),
            Self::Ratio(place) => put(place, given.decimal().and_then(Ratio::new), || "a number of 0 to 1".to_owned()),
            Self::Collector(place) => {
                let collector = given.text().and_then(|text| match text {
                    "none" => Some(None),
                    text => CollectorUrl::new(text).map(Some),
                });
                put(place, collector, || "none or an address over plain HTTP, such as http://127.0.0.1:4318,".to_owned())
            }
            Self::Durability(place) => put_choice(place, given),
            Self::OnDivergence(place) => put_choice(place, given),
            Self::LogFormat(place) => put_choice(place, given),
        }
    }
}

fn put<T>(place: &mut T, value: Option<T>, allowed: impl FnOnce() -> String) -> Result<(), String> {
    *place = value.ok_or_else(allowed)?;
    Ok(())
}

fn put_choice<T: Choice>(place: &mut T, given: Given<'_>) -> Result<(), String> {
    let known = given.text().and_then(|text| T::WORDS.iter().find(|(word, _)| *word == text)).map(|(_, choice)| *choice);
    put(place, known, || {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_reached_by_a_name_or_an_address_and_a_port() {
        for text in ["10.0.0.1:8701", "node-1.shop:8701", "node_1:1", "[2001:db8::1]:65535", "127.0.0.1:1"] {
            assert_eq!(PeerAddress::new(text).map(|address| address.to_string()).as_deref(), Some(text));
        }
        let long = format!("{}:8701", "x".repeat(255));
        for text in [
            "",
            "node",
            "node:",
            ":8701",
            "node:0",
            "node:65536",
            "node:+1",
            "a b:1",
            "http://a:1",
            "::1:1",
            "[::]:1",
            "0.0.0.0:1",
            &long,
        ] {
            assert_eq!(PeerAddress::new(text), None, "{text}");
        }
    }
}
