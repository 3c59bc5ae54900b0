//! The settings: what can be set, within which bounds, with which defaults, and where a value comes from.
//!
//! [`Settings::load`] reads the settings file, then `TIDEGATE_*` variables, then flags, each over what came before. Nothing is silently
//! clamped and nothing unknown is skipped. This crate owns names, bounds and defaults; it knows no other room: what a value does is for
//! the room that gets it, and the assembly hands it over.

mod agreement;
mod effective;
mod load;
mod settings;
mod telemetry;
mod value;

pub use effective::EffectiveSetting;
pub use load::{CONFIG_VARIABLE, KEY_VARIABLE, Origin, SettingsError};
pub use settings::{
    AuthSettings, ClusterSettings, EVENT_BYTES_MAX, EngineSettings, FeedSettings, GROUP_PAYLOAD_BYTES_MAX, HistorySettings,
    HttpSettings, LAPSE_BYTES_MAX, LogSettings, NodeSettings, OutputSettings, RulesSettings, Settings, SnapshotSettings,
    TelemetrySettings, TlsSettings, WORK_COMMANDS_MAX,
};
pub use telemetry::{CollectorUrl, Ratio};
pub use value::{Count, Durability, LogFormat, OnDivergence, PeerAddress};

/// The shipped settings file: every setting at its default, with what it means. A good start for one's own.
pub const SHIPPED_FILE: &str = include_str!("../tidegate.toml");
