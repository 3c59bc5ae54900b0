//! Every bench in its tiny form: the same work as for figures, judged by what it did and never by how fast.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_benches::cluster::{self, ClusterParameters};
use tidegate_benches::compaction::{self, CompactionParameters};
use tidegate_benches::engine::{self, EngineParameters, Log};
use tidegate_benches::eviction::{self, EvictionParameters};
use tidegate_benches::expiry::{self, ExpiryParameters};
use tidegate_benches::figure::Figure;
use tidegate_benches::floor::FixedAnswer;
use tidegate_benches::groups::{self, GroupsParameters};
use tidegate_benches::history::{self, HistoryParameters};
use tidegate_benches::http::{self, HttpParameters};
use tidegate_benches::load::{LoadPlan, RequestTemplate, load};
use tidegate_benches::machine::Machine;
use tidegate_benches::memory::{self, MemoryParameters};
use tidegate_benches::past::{self, PastParameters};
use tidegate_benches::picture::{self, Picture, PictureParameters, Subject};
use tidegate_benches::recovery::{self, RecoveryParameters};
use tidegate_benches::report::Report;
use tidegate_benches::rules::{self, RulesParameters};
use tidegate_benches::sample::SEED;
use tidegate_benches::server::{Server, build_node};
use tidegate_benches::snapshot::{self, SnapshotParameters};

fn bench_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tidegate-bench"))
}

fn assert_measured(figures: &[Figure]) {
    assert!(!figures.is_empty());
    for figure in figures {
        assert!(figure.rate > 0.0 && figure.rate.is_finite(), "{figure:?}");
        if let Some(latency) = figure.latency {
            assert!(0.0 < latency.p50_us && latency.p50_us <= latency.p99_us && latency.p99_us <= latency.p999_us, "{figure:?}");
        }
    }
}

#[test]
fn http_sells_exactly_the_stock() {
    let figures = http::run(&HttpParameters::tiny(build_node(&bench_program()).unwrap(), bench_program(), None)).unwrap();
    let told: Vec<_> = figures.iter().map(|(_, told)| (told.granted, told.sold_out)).collect();
    // Node and floor with units on sale, then node and floor sold out; the floor repeats the status it was given.
    assert_eq!(told, [(300, 200), (500, 0), (0, 500), (0, 500)]);
    assert_measured(&figures.into_iter().map(|(figure, _)| figure).collect::<Vec<_>>());
}

#[test]
fn a_node_alone_one_voter_and_three_nodes_grant_what_they_are_asked_for() {
    let figures = cluster::run(&ClusterParameters::tiny(build_node(&bench_program()).unwrap(), None)).unwrap();
    assert_eq!(figures.len(), 3);
    assert_measured(&figures);
    let ratios: Vec<_> = figures.iter().map(|figure| figure.against.as_ref().map(|against| against.ratio)).collect();
    // Of one run the ratio is that of its rates, and the node alone is what the others are held against.
    let due = |place: usize| figures[place].rate / figures[0].rate;
    assert_eq!(ratios[0], None);
    for (place, ratio) in ratios.iter().enumerate().skip(1) {
        assert!(ratio.is_some_and(|ratio| (ratio - due(place)).abs() < 1e-9), "{ratios:?}");
    }
}

#[test]
fn engine_sells_exactly_the_stock() {
    let figures = engine::run(&EngineParameters::tiny(None)).unwrap();
    assert_eq!(figures.len(), 2);
    for (figure, told) in &figures {
        assert_eq!((told.granted, told.sold_out), (2_000, 1_000), "{figure:?}");
    }
    assert_measured(&figures.into_iter().map(|(figure, _)| figure).collect::<Vec<_>>());
}

#[test]
fn engine_with_one_caller_has_groups_of_one() {
    let parameters = EngineParameters {
        logs: vec![Log::Instant],
        in_flight: vec![1],
        units: 100,
        commands_max: 100,
        ..EngineParameters::tiny(None)
    };
    let figures = engine::run(&parameters).unwrap();
    let (figure, told) = &figures[0];
    assert_eq!((told.granted, told.sold_out), (100, 0));
    assert!(figure.group_events.is_some_and(|events| (events - 1.0).abs() < 1e-9), "{figure:?}");
}

#[test]
fn groups_of_every_size_are_committed() {
    let figures = groups::run(&GroupsParameters::tiny(None)).unwrap();
    assert_eq!(figures.len(), 6);
    assert_measured(&figures);
}

#[test]
fn history_finds_what_was_put_and_forgets_half_of_it() {
    let figures = history::run(&HistoryParameters::tiny(None)).unwrap();
    assert_eq!(figures.len(), 1);
    assert_measured(&figures);
}

#[test]
fn recovery_brings_every_reservation_back() {
    assert_measured(&[recovery::run(&RecoveryParameters::tiny(None)).unwrap()]);
}

fn detail(figure: &Figure, name: &str) -> f64 {
    let found = figure.more.iter().find(|detail| detail.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {figure:?}")).value
}

#[test]
fn memory_holds_every_reservation_in_a_node_and_in_the_bare_ledger() {
    for ledger_only in [false, true] {
        let parameters = MemoryParameters { ledger_only, ..MemoryParameters::tiny(bench_program(), None) };
        let figures = memory::run(&parameters).unwrap();
        assert_eq!(figures.len(), 3);
        assert_measured(&figures);
        for figure in &figures {
            // A record of 64 bytes, at the least.
            assert!(detail(figure, "bytes_per_reservation") > 64.0, "{figure:?}");
        }
    }
}

#[test]
fn a_snapshot_under_load_brings_every_reservation_back() {
    let figures = snapshot::run(&SnapshotParameters::tiny(bench_program(), None)).unwrap();
    assert_eq!(figures.len(), 3);
    assert_measured(&figures);
    assert!(detail(&figures[1], "snapshot_mib") > 0.0, "{figures:?}");
    assert!(detail(&figures[1], "holds_at_end") >= 22_000.0, "{figures:?}");
}

#[test]
fn holds_that_fall_due_together_all_come_back() {
    let figures = expiry::run(&ExpiryParameters::tiny(None)).unwrap();
    assert_eq!(figures.len(), 3);
    assert!(figures[0].rate > 0.0 && detail(&figures[0], "back_seconds") > 0.0, "{figures:?}");
}

#[test]
fn what_has_left_memory_can_still_be_returned() {
    let figures = eviction::run(&EvictionParameters::tiny(None)).unwrap();
    assert_eq!(figures.len(), 6);
    assert_measured(&figures);
}

#[test]
fn the_log_gives_space_back_under_load() {
    let figures = compaction::run(&CompactionParameters::tiny(None)).unwrap();
    assert_measured(&figures);
    let figure = &figures[0];
    assert!(detail(figure, "given_back_mib") > 0.0 && detail(figure, "snapshots") >= 2.0, "{figure:?}");
}

#[test]
fn a_sale_with_a_past_sells_what_one_without_does() {
    let parameters = PastParameters::tiny(build_node(&bench_program()).unwrap(), None);
    let figures = past::run(&parameters, &mut |line| println!("{line}")).unwrap();
    assert_measured(&figures);
    let [grown, empty] = &figures[..] else { panic!("{figures:?}") };
    assert!(grown.against.is_some() && detail(grown, "history_mib") > 0.0, "{grown:?}");
    assert!(detail(grown, "resident_ratio") > 0.0 && detail(empty, "resident_mib") > 0.0, "{figures:?}");
}

fn picture_of(subjects: &[Subject]) -> Picture {
    let own = PictureParameters::tiny(build_node(&bench_program()).expect("the node builds"), None);
    let parameters = PictureParameters { subjects: subjects.to_vec(), ..own };
    let picture = picture::run(&parameters, Machine::look(&std::env::temp_dir()), &mut |line| println!("{line}"));
    let picture = picture.expect("the books agree");
    assert_measured(&picture.figures());
    picture
}

/// Commands and grants of each run of a point.
type Runs = Vec<(u64, u64)>;

/// What the buyers of each point were told, by sweep, and how many there were of what varied.
fn told(picture: &Picture) -> Vec<Vec<(f64, Runs)>> {
    let runs = |point: &picture::Point| point.runs.iter().map(|run| (run.commands, run.granted)).collect();
    picture.sweeps.iter().map(|sweep| sweep.points.iter().map(|point| (point.at, runs(point))).collect()).collect()
}

#[test]
fn the_picture_of_connections_batches_and_products_sells_what_there_is() {
    let picture = picture_of(&[Subject::Connections, Subject::Batch, Subject::Products]);
    let (few, many) = (vec![(400, 300); 2], vec![(400, 400); 2]);
    let expected = [
        vec![(1.0, few.clone()), (8.0, few.clone())],
        vec![(1.0, few.clone()), (10.0, few)],
        vec![(1.0, many.clone()), (20.0, many)],
    ];
    assert_eq!(told(&picture), expected);

    let folder = tempfile::tempdir().unwrap();
    let files = picture.write(&folder.path().join("made")).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["picture.json", "connections.svg", "batch.svg", "products.svg"]);
    for plot in &files[1..] {
        let plot = std::fs::read_to_string(plot).unwrap();
        for word in ["reservations a second", "p99.9", "processor time", "power_loss", "cores that node", "medians of 2 runs"] {
            assert!(plot.contains(word), "{word} in {plot}");
        }
        assert_eq!(plot.contains("Flat over the whole width?"), plot.contains("by the number of products"), "{plot}");
        // Throughput, three percentiles, processor time; a dot for each of two points.
        assert_eq!((plot.matches("<polyline").count(), plot.matches("<circle").count()), (5, 10), "{plot}");
    }
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&files[0]).unwrap()).unwrap();
    assert_eq!(json["sweeps"][2]["points"][1]["runs"].as_array().unwrap().len(), 2);
    assert!(json["machine"]["cores"].as_u64().unwrap() > 0);
}

#[test]
fn the_picture_of_a_growing_node_keeps_all_that_is_open_and_moves_all_that_is_over() {
    let picture = picture_of(&[Subject::Open, Subject::History]);
    let stages = told(&picture);
    let places: Vec<f64> = stages[0].iter().map(|(at, _)| *at).collect();
    assert_eq!(places, [500.0, 1_500.0, 2_500.0]);
    assert!(stages[0].iter().all(|(_, runs)| *runs == vec![(1_000, 1_000); 2]), "{stages:?}");
    assert!(stages[1].iter().all(|(_, runs)| *runs == vec![(3_000, 3_000); 2]), "{stages:?}");
    // Of the first 3,000 all have left but the 500 that stay and those that do not leave alone.
    assert!(stages[1][0].0 < 1.0 && (1_476.0..=2_500.0).contains(&stages[1][1].0), "{stages:?}");

    let folder = tempfile::tempdir().unwrap();
    for plot in &picture.write(folder.path()).unwrap()[1..] {
        assert!(std::fs::read_to_string(plot).unwrap().contains("resident memory"));
    }
}

#[test]
fn rules_sell_confirm_and_lapse_exactly_the_stock() {
    let figures = rules::run(RulesParameters::TINY).unwrap();
    assert_eq!(figures.len(), 4);
    assert_measured(&figures);
}

#[test]
fn the_load_generator_sends_as_many_requests_as_planned_and_hears_every_answer() {
    let answer = FixedAnswer { status: 201, body_bytes: 417 };
    let server = Server::floor(&bench_program(), answer).unwrap();
    for (connections, threads, requests_max) in [(1, 1, 7), (8, 1, 1_000), (9, 2, 1_001), (8, 2, 3)] {
        let plan = LoadPlan {
            address: server.address(),
            connections,
            threads,
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(20),
            requests_max,
        };
        let load = load(&plan, &RequestTemplate::reserve("lamp")).unwrap();
        assert_eq!((load.total(), load.with_status(201), load.answers), (requests_max, requests_max, requests_max));
        assert_eq!(load.latencies.count(), requests_max);
        assert!(load.samples.iter().all(|(status, body)| *status == 201 && body.len() == 417), "{:?}", load.samples);
    }
}

#[test]
fn a_report_is_one_table_and_the_same_as_json() {
    let figures = rules::run(RulesParameters { reservations: 1_000, runs: 1 }).unwrap();
    let report = Report { machine: Machine::look(&std::env::temp_dir()), seed: SEED, figures };
    let table = report.to_string();
    assert_eq!(table.lines().filter(|line| line.starts_with('|')).count(), 2 + report.figures.len(), "{table}");
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["figures"].as_array().unwrap().len(), report.figures.len());
}

#[test]
fn a_program_that_is_no_node_is_an_error_with_what_it_said() {
    let error = Server::node(&bench_program(), None).unwrap_err().to_string();
    assert!(error.contains("instead of its address") && error.contains("unrecognized subcommand"), "{error}");
}
