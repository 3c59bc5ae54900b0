//! The numbers that the HTTP contract promises where nobody sets them.

use tidegate_config::Settings;

const MIB: u64 = 1024 * 1024;

#[test]
fn every_default_is_the_number_that_the_contract_names() {
    let Settings { http, rules, .. } = Settings::default();
    for (what, default, promised) in [
        ("a body", http.body_bytes_max, MIB),
        ("a batch's body", http.batch_body_bytes_max, 8 * MIB),
        ("the time to send a header", http.header_seconds_max, 10),
        ("the time to send a body", http.body_seconds_max, 30),
        ("the time without a request", http.idle_seconds_max, 75),
        ("the time from a complete request to its answer", http.answer_seconds_max, 10),
        ("the time for which keys are remembered", rules.idempotency_seconds, 86_400),
        ("the time for which resolved reservations stay readable", rules.retention_seconds, 7 * 24 * 60 * 60),
    ] {
        assert_eq!(default, promised, "{what}");
    }
    assert!(http.listen.ip().is_loopback(), "without keys only the loopback is listened on");
}
