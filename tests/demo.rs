//! `tidegate demo` from the outside: a small sale with a kill in its middle, and what the demo leaves behind.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod support;

use std::io::{BufRead, BufReader};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Finished, finish, program, run};
use tempfile::TempDir;

const SMALL: [&str; 9] = ["demo", "--buyers", "4000", "--units", "500", "--products", "3", "--rate", "800"];

fn report(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

#[test]
fn a_small_sale_survives_a_kill_with_grants_on_both_sides_of_it() {
    let finished = run(&[&SMALL[..], &["--seed", "7", "--json"]].concat()).expect(0, &["SIGKILL", "Nothing was oversold"]);
    let report = report(&finished);
    assert_eq!(report["passed"], true, "{report:#}");

    let [before, after] = report["grants"]["by_life"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert!(number(before) > 0 && number(after) > 0, "{report:#}");
    let kill = &report["kills"][0];
    assert!(number(&kill["grants_just_before"]) > 0, "{report:#}");
    assert!(kill["first_grant_ms"].as_f64().unwrap() > 0.0, "{report:#}");

    // The same numbers from the other end: every unit is sold or available, and of every grant it is known how it ended.
    let products = report["products"].as_array().unwrap();
    assert_eq!(products.iter().map(|product| number(&product["allotted"])).sum::<u64>(), 500);
    for product in products {
        assert_eq!(number(&product["sold"]) + number(&product["available"]), number(&product["allotted"]), "{report:#}");
    }
    let sold: u64 = products.iter().map(|product| number(&product["sold"])).sum();
    assert_eq!(number(&report["paid"]["units"]), sold);
    let ends = ["paid", "cancelled", "lapsed"].map(|kind| number(&report[kind]["reservations"]));
    assert!(ends.iter().all(|count| *count > 0), "{report:#}");
    assert_eq!(ends.iter().sum::<u64>(), number(&report["grants"]["total"]));

    // Units that came back were sold again, buyers were turned away, and repeats got the same answer.
    for count in [&report["resold_units"], &report["answers"]["sold_out"], &report["answers"]["repeats_alike"]] {
        assert!(number(count) > 0, "{report:#}");
    }
    assert_eq!(number(&report["answers"]["buyers_done"]), 4_000);
    assert_eq!(number(&report["latency_ms"]["with_outage"]["count"]), 4_000);
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 14 && checks.iter().all(|check| check["kept"] == true), "{report:#}");
}

#[test]
fn a_small_sale_of_a_cluster_goes_on_when_its_leader_is_killed() {
    let words = "demo --nodes 3 --buyers 2000 --units 200 --products 2 --rate 400 --kills 1 --seed 3 --json";
    let finished = run(&words.split(' ').collect::<Vec<_>>());
    let finished = finished.expect(0, &["which led, was killed (SIGKILL)", "the others go on without it", "Nothing was oversold"]);
    let report = report(&finished);
    assert_eq!((&report["passed"], number(&report["sale"]["nodes"])), (&Value::Bool(true), 3), "{report:#}");

    let [kill] = report["kills"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert!((1..=3).contains(&number(&kill["node"])), "{report:#}");
    assert!(number(&kill["grants_just_before"]) > 0 && number(&kill["grants_after"]) > 0, "{report:#}");
    // Nobody stands for election before a leader has been silent for the shortest election, 500 ms.
    assert!(kill["pause_ms"].as_f64().unwrap() > 400.0, "{report:#}");
    // Others granted before the killed node was started again.
    assert_eq!(kill["first_grant_ms"], Value::Null, "{report:#}");
    assert!(kill["ready_ms"].as_f64().unwrap() > 0.0, "{report:#}");

    let promises: Vec<&str> = report["checks"].as_array().unwrap().iter().map(|check| check["promise"].as_str().unwrap()).collect();
    for promise in ["went on without the killed node", "all 3 nodes have the same stocks", "every node's log whole"] {
        assert!(promises.iter().any(|of| of.contains(promise)), "{promises:?}");
    }
    let products = report["products"].as_array().unwrap();
    for product in products {
        assert_eq!(number(&product["sold"]) + number(&product["available"]), number(&product["allotted"]), "{report:#}");
    }
    let sold: u64 = products.iter().map(|product| number(&product["sold"])).sum();
    assert_eq!((number(&report["paid"]["units"]), number(&report["answers"]["buyers_done"])), (sold, 2_000));
}

#[test]
fn a_demo_that_is_asked_to_end_leaves_no_node_behind_and_keeps_its_directory() {
    let directory = TempDir::new().unwrap();
    let home = directory.path().join("demo");
    let mut command = program(&[&SMALL[..], &["--data-dir", home.to_str().unwrap()]].concat());
    let mut process = command.spawn().unwrap();
    let stderr = process.stderr.as_mut().unwrap();
    // The first line about the rush: the node is up and buyers come.
    let line = BufReader::with_capacity(1, stderr).lines().map(Result::unwrap).find(|line| line.starts_with("rush"));
    assert!(line.is_some());
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    finish(process).expect(1, &["interrupted", home.to_str().unwrap()]);

    // The node would hold the lock of its directory. What it had acknowledged when it was ended is whole.
    let verified = run(&["verify", home.join("data").to_str().unwrap(), "--json"]).expect(0, &[]);
    assert_eq!(report(&verified)["good"], true);
    assert!(home.join("node.log").exists());
}

#[test]
fn a_directory_in_use_and_impossible_sales_are_refused() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("mine"), "x").unwrap();
    run(&["demo", "--data-dir", directory.path().to_str().unwrap()]).expect(1, &["is not empty"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    run(&["demo", "--buyers", "0"]).expect(2, &["buyers is 0 where at least 1 is needed"]);
    run(&["demo", "--nodes", "2"]).expect(2, &["1, 3 or 5 are possible"]);
    run(&["demo", "--units", "3"]).expect(2, &["units is 3 where 8 products need at least one each"]);
}
