//! The comparison in its short form, with those peers that are installed: every side does the same work and keeps the same rules. How
//! fast it was is no matter.

use std::path::PathBuf;

use tidegate_benches::server::build_node;
use tidegate_compare::compare::{self, Parameters, Subject, sides};
use tidegate_compare::node::Places;
use tidegate_compare::plot;
use tidegate_compare::programs::Programs;

fn compare_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tidegate-compare"))
}

#[test]
fn every_side_sells_exactly_the_stock() {
    let programs = Programs::find();
    for missing in programs.missing() {
        println!("{missing}");
    }
    let (has_redis, has_nginx) = (programs.redis.is_some(), programs.redis.is_some() && programs.nginx.is_some());
    let has_postgres = programs.postgres.is_some();
    let places = Places { tidegate: build_node(&compare_program()).unwrap(), compare: compare_program(), directory: None };
    let parameters = Parameters::short(places, programs);
    let outcomes = compare::run(&parameters, &mut |line| println!("{line}")).unwrap();

    let names: Vec<_> = outcomes.iter().map(|outcome| outcome.contest).collect();
    assert_eq!(names, ["reserve", "sold out", "batches", "database", "latency"]);
    for outcome in &outcomes {
        for entry in outcome.entries.iter().filter(|entry| entry.side != sides::SYNC) {
            let [run] = &entry.runs[..] else { panic!("{entry:?}") };
            // The floor repeats one answer; everybody else has 300 units, or none.
            let granted = match (outcome.contest == Subject::SoldOut.name(), entry.side) {
                (true, _) => 0,
                (false, sides::AXUM) => 800,
                (false, _) => 300,
            };
            assert_eq!((run.buyers, run.granted), (800, granted), "{}: {entry:?}", outcome.contest);
            assert!(run.rate > 0.0 && run.rate.is_finite() && run.latency.p50_us > 0.0, "{entry:?}");
        }
    }
    let sides_of = |side: &str| outcomes.iter().flat_map(|outcome| &outcome.entries).filter(|entry| entry.side == side).count();
    assert_eq!(sides_of(sides::TIDEGATE), 5);
    assert_eq!((sides_of(sides::AXUM), sides_of(sides::SYNC)), (2, 1));
    assert_eq!(sides_of(sides::REDIS), if has_redis { 9 } else { 0 });
    assert_eq!((sides_of(sides::NGINX), sides_of(sides::DICTIONARY)), if has_nginx { (5, 1) } else { (0, 0) });
    assert_eq!((sides_of(sides::HOT_ROW), sides_of(sides::ROW_PER_UNIT)), if has_postgres { (1, 1) } else { (0, 0) });
    assert!(plot::svg(&outcomes, "").starts_with("<svg"));
}
