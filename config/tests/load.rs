//! Layers, bounds and messages: what overrides what, and what is said when something is wrong.

use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;
use tidegate_config::{Count, Durability, LogFormat, PeerAddress, Settings, SettingsError};

fn from_file(text: &str) -> Result<Settings, SettingsError> {
    let folder = TempDir::new().expect("a temporary folder can be written");
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, text).expect("a temporary folder can be written");
    Settings::load(Some(&path), [], [])
}

fn from_variables(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(None, variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), [])
}

fn from_flags(flags: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(None, [], flags.iter().copied())
}

/// Checks that every part of `expect` is in what is said.
#[track_caller]
fn refused(settings: Result<Settings, SettingsError>, expect: &[&str]) {
    let said = settings.expect_err("the settings are wrong").to_string();
    for part in expect {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(Settings::load(None, [], []).unwrap(), Settings::default());
}

#[test]
fn a_file_sets_every_kind_of_value() {
    let settings = from_file(
        "[node]\ndata_dir = \"/srv/tidegate\"\nshards = 3\nworker_threads = \"auto\"\n[http]\nlisten = \"[::1]:9000\"\n\
         [engine]\nring_slots = 1_024\n[log]\ndurability = \"none\"\n[output]\nformat = \"json\"\nfilter = \"warn\"\n",
    )
    .unwrap();
    let mut expected = Settings::default();
    expected.node.data_dir = PathBuf::from("/srv/tidegate");
    expected.node.shards = Count::Fixed(3);
    expected.http.listen = "[::1]:9000".parse().unwrap();
    expected.engine.ring_slots = 1_024;
    expected.log.durability = Durability::None;
    expected.output.format = LogFormat::Json;
    expected.output.filter = "warn".to_owned();
    assert_eq!(settings, expected);
}

#[test]
fn a_variable_overrides_the_file_and_a_flag_overrides_both() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, "[engine]\nring_slots = 64\nbatch_commands_max = 10\ngroup_events_max = 20\n").unwrap();
    let variables = [("TIDEGATE_ENGINE_RING_SLOTS", "128"), ("TIDEGATE_ENGINE_BATCH_COMMANDS_MAX", "11"), ("PATH", "/bin")];
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let settings = Settings::load(Some(&path), variables, [("engine.ring_slots", "256")]).unwrap();
    assert_eq!((settings.engine.ring_slots, settings.engine.batch_commands_max, settings.engine.group_events_max), (256, 11, 20));
}

#[test]
fn every_setting_has_a_variable() {
    let mut wrong = Vec::new();
    for key in Settings::keys() {
        let name = format!("TIDEGATE_{}", key.replace('.', "_").to_uppercase());
        // An empty text is no value of any setting, so the message tells which setting the variable is.
        match from_variables(&[(&name, "")]) {
            Err(error) if error.to_string().contains(&format!("variable {name}: {key} is ")) => {}
            other => wrong.push((key, other)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn an_unknown_key_is_named_with_its_path() {
    refused(from_file("[engine]\nring_slot = 64\n"), &["settings.toml", "unknown setting engine.ring_slot"]);
    refused(from_file("[engines]\nring_slots = 64\n"), &["unknown setting engines"]);
    refused(from_file("ring_slots = 64\n"), &["unknown setting ring_slots"]);
    refused(from_file("[http.tls]\nkey = 1\n"), &["unknown setting http.tls"]);
    refused(from_flags(&[("engine.slots", "64")]), &["command line", "unknown setting engine.slots"]);
    refused(from_flags(&[("engine", "64")]), &["unknown setting engine"]);
}

#[test]
fn an_unknown_variable_is_named() {
    refused(from_variables(&[("TIDEGATE_HTTP_LISTENS", "127.0.0.1:1")]), &["TIDEGATE_HTTP_LISTENS"]);
    refused(from_variables(&[("TIDEGATE_", "")]), &["TIDEGATE_"]);
}

#[test]
fn the_variable_of_the_settings_file_is_no_setting() {
    assert_eq!(from_variables(&[("TIDEGATE_CONFIG", "somewhere.toml")]).unwrap(), Settings::default());
}

#[test]
fn a_section_that_is_a_value_is_refused() {
    refused(from_file("engine = 5\n"), &["engine is 5", "section"]);
}

#[test]
fn a_value_outside_its_bounds_is_named_with_both() {
    refused(from_file("[engine]\nring_slots = 32\n"), &["engine.ring_slots is 32 ", "power of two of 64 to 1048576"]);
    refused(from_file("[engine]\nring_slots = 1000\n"), &["engine.ring_slots is 1000 ", "power of two of 64 to 1048576"]);
    refused(from_file("[engine]\nbatch_commands_max = 8193\n"), &["engine.batch_commands_max is 8193 ", "1 to 8192"]);
    refused(from_file("[engine]\nbatch_commands_max = -1\n"), &["engine.batch_commands_max is -1 ", "1 to 8192"]);
    refused(from_file("[rules]\nidempotency_seconds = 0\n"), &["rules.idempotency_seconds is 0 ", "1 to 31536000"]);
    refused(from_file("[node]\nshards = 1025\n"), &["node.shards is 1025 ", "auto or a whole number of 1 to 1024"]);
    refused(from_file("[log]\ndurability = \"fsync\"\n"), &["log.durability is \"fsync\" ", "power_loss, process_crash, none"]);
    refused(
        from_variables(&[("TIDEGATE_ENGINE_RING_SLOTS", "many")]),
        &["TIDEGATE_ENGINE_RING_SLOTS", "engine.ring_slots is many "],
    );
    refused(from_flags(&[("http.listen", "localhost")]), &["command line", "http.listen is localhost ", "IP address with a port"]);
    refused(from_flags(&[("node.data_dir", "")]), &["node.data_dir is ", "path of a folder"]);
}

#[test]
fn both_ends_of_a_bound_are_allowed() {
    for value in ["1", "8192"] {
        assert!(from_flags(&[("engine.batch_commands_max", value)]).is_ok(), "{value}");
    }
    for value in ["64", "1048576"] {
        assert!(from_flags(&[("engine.ring_slots", value)]).is_ok(), "{value}");
    }
}

#[test]
fn a_number_in_quotes_is_no_number_in_a_file() {
    refused(from_file("[engine]\nring_slots = \"64\"\n"), &["engine.ring_slots is \"64\" "]);
    refused(from_file("[node]\ndata_dir = 5\n"), &["node.data_dir is 5 "]);
}

#[test]
fn only_loopback_is_listened_on() {
    for address in ["0.0.0.0:8700", "192.0.2.1:8700", "[::]:8700", "[2001:db8::1]:8700"] {
        refused(from_flags(&[("http.listen", address)]), &["http.listen is ", address, "loopback", "no API keys"]);
    }
    for address in ["127.0.0.1:0", "127.1.2.3:80", "[::1]:0"] {
        assert!(from_flags(&[("http.listen", address)]).is_ok(), "{address}");
    }
}

#[test]
fn with_keys_any_address_is_listened_on() {
    for address in ["0.0.0.0:8700", "[2001:db8::1]:8700"] {
        assert!(from_flags(&[("http.listen", address), ("auth.keys_file", "keys.toml")]).is_ok(), "{address}");
        refused(
            from_flags(&[("http.listen", address), ("auth.keys_file", "none")]),
            &["http.listen is ", "auth.keys_file is none"],
        );
    }
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let settings = from_file("[tls]\ncertificate_file = \"a.pem\"\nprivate_key_file = \"b.pem\"\n").unwrap();
    assert_eq!(settings.tls.certificate_file, Some(PathBuf::from("a.pem")));
    assert_eq!(settings.tls.private_key_file, Some(PathBuf::from("b.pem")));
    refused(from_flags(&[("tls.certificate_file", "a.pem")]), &["tls.private_key_file is none ", "go together"]);
    refused(from_flags(&[("tls.private_key_file", "b.pem")]), &["tls.certificate_file is none ", "go together"]);
    refused(from_file("[tls]\ncertificate_file = true\n"), &["tls.certificate_file is true ", "none or the path of a file"]);
}

#[test]
fn a_member_of_a_cluster_has_a_secret_and_an_address_that_others_can_reach() {
    let member = [("cluster.listen", "127.0.0.1:8701"), ("cluster.secret_file", "secret")];
    let settings = from_flags(&member).unwrap();
    assert_eq!(settings.cluster.listen, Some("127.0.0.1:8701".parse().unwrap()));
    assert_eq!(settings.cluster.secret_file, Some(PathBuf::from("secret")));
    refused(from_flags(&member[..1]), &["cluster.secret_file is none ", "the secret that they share"]);
    for listen in ["0.0.0.0:8701", "[::]:8701", "127.0.0.1:0"] {
        let everywhere = [("cluster.listen", listen), ("cluster.secret_file", "secret")];
        refused(from_flags(&everywhere), &["cluster.advertise is none ", listen]);
        let named = [everywhere[0], everywhere[1], ("cluster.advertise", "node-1:8701")];
        assert_eq!(from_flags(&named).unwrap().cluster.advertise, PeerAddress::new("node-1:8701"));
    }
    refused(from_flags(&[("cluster.listen", "node-1:8701")]), &["cluster.listen is node-1:8701 ", "none or an IP address"]);
    refused(from_flags(&[("cluster.advertise", "node-1")]), &["cluster.advertise is node-1 ", "with a port"]);
}

#[test]
fn a_nodes_certificate_its_key_and_its_authorities_go_together() {
    let names = ["cluster.certificate_file", "cluster.private_key_file", "cluster.authorities_file"];
    for lacking in names {
        let given: Vec<_> = names.into_iter().filter(|name| *name != lacking).map(|name| (name, "a.pem")).collect();
        refused(from_flags(&given), &[&format!("{lacking} is none "), "go together"]);
    }
    assert!(from_flags(&names.map(|name| (name, "a.pem"))).is_ok());
}

#[test]
fn elections_begin_after_several_heartbeats_and_at_different_times() {
    let times = |heartbeat, min, max| {
        from_flags(&[("cluster.heartbeat_ms", heartbeat), ("cluster.election_ms_min", min), ("cluster.election_ms_max", max)])
    };
    assert!(times("100", "500", "501").is_ok());
    refused(times("100", "499", "501"), &["cluster.election_ms_min is 499 ", "at least 500", "cluster.heartbeat_ms is 100"]);
    refused(times("100", "500", "500"), &["cluster.election_ms_max is 500 ", "more than 500"]);
    refused(times("9", "500", "501"), &["cluster.heartbeat_ms is 9 ", "10 to 10000"]);
    refused(times("10", "50", "120001"), &["cluster.election_ms_max is 120001 ", "51 to 120000"]);
}

#[test]
fn a_switch_is_true_or_false() {
    assert!(from_file("[auth]\nmetrics_without_key = true\n").unwrap().auth.metrics_without_key);
    assert!(from_variables(&[("TIDEGATE_AUTH_METRICS_WITHOUT_KEY", "true")]).unwrap().auth.metrics_without_key);
    refused(from_file("[auth]\nmetrics_without_key = 1\n"), &["auth.metrics_without_key is 1 ", "true or false"]);
    refused(from_flags(&[("auth.metrics_without_key", "yes")]), &["auth.metrics_without_key is yes ", "true or false"]);
}

#[test]
fn a_group_and_its_last_batch_fit_the_log() {
    // 16 MiB, less 1,024 commands of 1 KiB and 64 more of the last one's batch, less 512 KiB of lapses.
    assert!(from_flags(&[("engine.group_bytes_max", "15138816")]).is_ok());
    refused(
        from_flags(&[("engine.group_bytes_max", "15138817")]),
        &["engine.group_bytes_max is 15138817 ", "1 to 15138816", "engine.batch_commands_max at 1024"],
    );
    assert!(from_flags(&[("engine.group_bytes_max", "15138817"), ("engine.batch_commands_max", "1023")]).is_ok());
}

#[test]
fn all_bodies_together_have_room_for_one() {
    let body = [("http.body_bytes_max", "2048"), ("http.batch_body_bytes_max", "1024"), ("http.bodies_bytes_max", "2048")];
    assert!(from_flags(&body).is_ok());
    let batch = [("http.body_bytes_max", "1024"), ("http.batch_body_bytes_max", "4096"), ("http.bodies_bytes_max", "4095")];
    refused(
        from_flags(&batch),
        &["http.bodies_bytes_max is 4095 ", "at least 4096", "http.body_bytes_max at 1024", "http.batch_body_bytes_max at 4096"],
    );
    refused(from_flags(&[("http.body_bytes_max", "67108864"), ("http.bodies_bytes_max", "67108863")]), &["at least 67108864"]);
}

#[test]
fn reservations_that_hold_nothing_leave_room_for_new_ones() {
    let settings =
        |resolved, all| from_flags(&[("engine.resolved_in_memory_max", resolved), ("rules.reservations_in_memory_max", all)]);
    for (resolved, all) in [("500", "1000"), ("500", "1001"), ("0", "1"), ("50000000", "100000000")] {
        assert!(settings(resolved, all).is_ok(), "{resolved} of {all}");
    }
    refused(
        settings("501", "1001"),
        &["engine.resolved_in_memory_max is 501 ", "0 to 500", "rules.reservations_in_memory_max, which is 1001"],
    );
    // The default of the one against the other alone.
    refused(from_flags(&[("rules.reservations_in_memory_max", "199999")]), &["engine.resolved_in_memory_max is 100000 ", "199999"]);
}

#[test]
fn users_in_memory_have_a_bound() {
    assert_eq!(from_flags(&[("rules.users_in_memory_max", "34000000")]).unwrap().rules.users_in_memory_max, 34_000_000);
    for users in ["0", "34000001"] {
        refused(from_flags(&[("rules.users_in_memory_max", users)]), &["rules.users_in_memory_max is ", users, "1 to 34000000"]);
    }
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let missing = TempDir::new().unwrap().path().join("none.toml");
    refused(Settings::load(Some(&missing), [], []), &["none.toml", "cannot be read"]);
    refused(from_file("[engine\n"), &["settings.toml", "is not TOML"]);
    refused(from_file("[engine]\nring_slots = 64\nring_slots = 128\n"), &["is not TOML"]);
}

#[test]
fn a_file_far_too_long_is_not_read() {
    refused(from_file(&"#".repeat(1024 * 1024 + 1)), &["1048577 bytes", "1048576"]);
}

#[test]
fn the_variable_with_the_tools_key_is_no_setting() {
    let variables = [("TIDEGATE_KEY", "tg_secret"), ("TIDEGATE_HTTP_IDLE_SECONDS_MAX", "9")];
    let settings = Settings::load(None, variables.map(|(name, value)| (name.into(), value.into())), []).unwrap();
    assert_eq!(settings.http.idle_seconds_max, 9);
}
