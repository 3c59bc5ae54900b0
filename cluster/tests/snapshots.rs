//! Members of a cluster in directories, which let go of what is over: who was away too long, or is new, goes on with another's snapshot and with all
//! that had left memory; and whatever a crash leaves of that is the old or the new.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::STREAM;
use common::members::{
    Running, ask, begin, buy, create, deciding, directory_options, give_one_back, hand_over, lamp, read, reserve, settle,
    within_patience,
};
use common::wired::{SHARD, listener};
use openraft::ChangeMembers;
use tempfile::TempDir;
use tidegate_cluster::network::{IncomingSnapshot, SnapshotTransfer};
use tidegate_cluster::{SnapshotFiles, SnapshotParts, Snapshots, recover_member};
use tidegate_engine::Engine;
use tidegate_persistence::{
    DataDirectory, GroupSequence, History, HistoryKey, HistoryOptions, LogIndex, NodeId, Promises, Purged, Wal, WalOptions,
    remove_unfinished, snapshot_path,
};
use tidegate_stock::{Command, Ledger, Quantity, Rejection, ReservationId, ReservationState, StockView};
use tokio::io::AsyncReadExt;

const UNITS: u64 = 10_000;

/// A cluster of three, the stock of which is open.
async fn three() -> (Vec<TempDir>, Vec<Running>) {
    let folders: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let mut nodes = Vec::new();
    for (id, folder) in (1..).zip(&folders) {
        nodes.push(Running::start(folder.path(), id, listener().await.0).await);
    }
    begin(&nodes).await;
    deciding(&nodes).await;
    ask(&engines(&nodes), create(UNITS), None).await.unwrap();
    (folders, nodes)
}

fn engines(nodes: &[Running]) -> Vec<Engine> {
    nodes.iter().map(|node| node.engine.clone()).collect()
}

fn place_of(nodes: &[Running], id: NodeId) -> usize {
    nodes.iter().position(|node| node.id == id).unwrap()
}

fn stock(node: &Running) -> StockView {
    node.engine.stock(&lamp()).unwrap().view
}

/// Checks that `node`, which decides, knows each of `sold` with what came back of it, whether in memory or not.
async fn check_sold(node: &Running, sold: &[(ReservationId, u32)]) {
    let engine = [node.engine.clone()];
    for (id, returned) in sold {
        let shown = read(&engine, *id).await;
        let expected = (3 - returned, *returned, ReservationState::Confirmed);
        assert_eq!((shown.confirmed, shown.returned, shown.state), expected, "grant {} on node {}", id.sequence.0, node.id);
    }
}

/// Buyers who buy three lamps each until they are told to stop; what they have bought comes back.
struct Load {
    stop: Arc<AtomicBool>,
    bought: Arc<AtomicU64>,
    buyers: Vec<tokio::task::JoinHandle<Vec<ReservationId>>>,
}

impl Load {
    fn start(engines: &[Engine], first: u64) -> Self {
        let (stop, bought) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let buyers = (0..4)
            .map(|buyer| {
                let (engines, stop, bought) = (engines.to_vec(), Arc::clone(&stop), Arc::clone(&bought));
                tokio::spawn(async move {
                    let mut sold = Vec::new();
                    for number in (first + buyer..).step_by(4) {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        sold.push(buy(&engines, number, 3).await);
                        bought.fetch_add(1, Ordering::Relaxed);
                    }
                    sold
                })
            })
            .collect();
        Self { stop, bought, buyers }
    }

    /// Waits until so many more have bought.
    async fn go_on(&self, more: u64) {
        let until = self.bought.load(Ordering::Relaxed) + more;
        within_patience("the sale goes on", async {
            while self.bought.load(Ordering::Relaxed) < until {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn stop(self) -> Vec<ReservationId> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sold = Vec::new();
        for buyer in self.buyers {
            sold.extend(within_patience("every buyer is answered", buyer).await.unwrap());
        }
        sold
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_until_the_log_was_purged_catches_up_by_a_snapshot_under_load_and_then_leads() {
    let (folders, mut nodes) = three().await;
    let mut sold = Vec::new();
    for buyer in 0..20 {
        sold.push((buy(&engines(&nodes), buyer, 3).await, 0));
    }
    settle(&nodes).await;
    for node in &nodes {
        node.until_in_memory(0).await;
    }
    // One that follows goes.
    let leading = deciding(&nodes).await;
    let away = nodes.remove((leading + 1) % 3);
    let (id, seen) = (away.id, away.metrics().last_log_index.unwrap());
    let address = away.stop().await;

    // Meanwhile lamps come back of what it has let go of, more are sold, and the log goes.
    for (place, returned) in [(0, 1), (0, 2), (7, 1)] {
        let back = give_one_back(&engines(&nodes), sold[place].0, &format!("back-{place}-{returned}")).await;
        assert_eq!(back.returned, returned);
        sold[place].1 = returned;
    }
    for buyer in 20..40 {
        sold.push((buy(&engines(&nodes), buyer, 3).await, 0));
    }
    settle(&nodes).await;
    for node in &nodes {
        node.until_in_memory(0).await;
        assert!(node.purge().await > LogIndex(seen + 1), "what it lacks is gone");
    }

    let load = Load::start(&engines(&nodes), 1_000);
    load.go_on(10).await;
    let folder = &folders[usize::try_from(id.0 - 1).unwrap()];
    let back = Running::restart(folder.path(), id.0, &address).await;
    assert!(back.snapshots().is_empty());
    back.wait("it has caught up", |metrics| metrics.last_applied.is_some_and(|applied| applied.index > seen)).await;
    assert_eq!(back.snapshots().len(), 1, "by a snapshot, which it keeps");
    load.go_on(10).await;
    nodes.push(back);
    let mut more = load.stop().await;
    sold.extend(more.drain(..).map(|id| (id, 0)));
    settle(&nodes).await;

    let back = place_of(&nodes, id);
    hand_over(&nodes, back).await;
    check_sold(&nodes[back], &sold).await;
    // It decides by what came with the snapshot, and everybody follows.
    let again = give_one_back(&[nodes[back].engine.clone()], sold[0].0, "back-0-2").await;
    assert_eq!(again.returned, 2, "a repeat is told what was done");
    let last = give_one_back(&engines(&nodes), sold[0].0, "back-0-3").await;
    assert_eq!((last.returned, last.state), (3, ReservationState::Returned));
    let beyond = Command::Return { reservation: sold[0].0, quantity: Some(Quantity::ONE) };
    let beyond = ask(&engines(&nodes), beyond, None).await;
    assert_eq!(beyond.map(drop), Err(Rejection::QuantityOverRemaining { asked: 1, remaining: 0 }));
    settle(&nodes).await;
    let view = stock(&nodes[back]);
    assert_eq!((view.sold, view.reserved), (sold.len() as u64 * 3 - 4, 0));
    for node in &nodes {
        node.until_in_memory(0).await;
        assert_eq!(stock(node), view, "node {}", node.id);
    }
    let first = nodes[0].holds().await;
    for node in &nodes[1..] {
        assert_eq!(node.holds().await, first, "node {}", node.id);
    }
    // Its own snapshot stands behind the one that it took, and a start takes it.
    let purged = nodes[back].purge().await;
    assert_eq!(nodes[back].snapshots().len(), 2);
    let node = nodes.remove(back);
    let address = node.stop().await;
    let directory = DataDirectory::open(folder.path(), &directory_options(id.0)).unwrap();
    let recovered = recover_member(&directory, SHARD, common::members::RULES, 1).unwrap();
    assert_eq!(recovered.standing.position.index, purged);
    drop(directory);
    nodes.push(Running::restart(folder.path(), id.0, &address).await);
    settle(&nodes).await;
    hand_over(&nodes, 2).await;
    check_sold(&nodes[2], &sold[1..]).await;
    for node in nodes {
        node.stop().await;
    }
}

/// What a ledger says of its stocks, and how many keys it knows. Reservations leave it in each node's own time.
type Told = (Vec<StockView>, usize);

fn told(ledger: &Ledger) -> Told {
    (ledger.stocks().collect(), ledger.key_count())
}

/// What the log of `node` says up to group `at`, from its beginning.
fn replayed(node: &Running, at: GroupSequence) -> Told {
    let mut ledger = Ledger::new(common::members::RULES, 5);
    node.log
        .read_groups(STREAM, GroupSequence(1), at, |group| {
            for entry in group.entries().unwrap() {
                let entry = entry.unwrap();
                drop(ledger.apply(&entry.event, entry.at));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    told(&ledger)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_made_under_load_stands_at_a_committed_entry_and_holds_what_the_log_says_up_to_there() {
    let (_folders, nodes) = three().await;
    let load = Load::start(&engines(&nodes), 1);
    let (mut made, mut of_leaders) = (0, 0);
    for round in 0..12 {
        load.go_on(3).await;
        let node = &nodes[round % 3];
        let leads = node.progress.leads();
        // A change of leaders may cost a copy.
        let Some(info) = node.snapshot().await else { continue };
        (made, of_leaders) = (made + 1, of_leaders + u64::from(leads));
        let (standing, snapshot) = node.files.clone().current().await.unwrap().unwrap();
        assert_eq!(standing.position.sequence, info.group_sequence);
        assert!(standing.position.sequence <= node.progress.committed());
        let known = node.log.position_and_leader(STREAM, info.group_sequence).unwrap();
        assert_eq!(known, Some((standing.position, standing.leader)));
        assert_eq!(standing.membership.membership().nodes().count(), 3);
        let index = standing.position.index.0;
        node.wait("consensus hears of it", |metrics| metrics.snapshot.is_some_and(|snapshot| snapshot.index + 1 >= index)).await;
        // One that is kept makes a ledger, as at a start.
        let installed = node.files.clone().install(standing, snapshot).await.unwrap();
        assert_eq!(told(&installed.ledger), replayed(node, info.group_sequence));
    }
    drop(load.stop().await);
    assert!(made >= 6 && of_leaders >= 2, "{made} snapshots, {of_leaders} of a leader");
    settle(&nodes).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_joins_by_a_snapshot_and_finds_every_reservation_there_is() {
    let (_folders, mut nodes) = three().await;
    let mut sold = Vec::new();
    for buyer in 0..30 {
        sold.push((buy(&engines(&nodes), buyer, 3).await, 0));
    }
    give_one_back(&engines(&nodes), sold[3].0, "back").await;
    sold[3].1 = 1;
    let held = ask(&engines(&nodes), reserve(500, 2), Some("held")).await.unwrap();
    settle(&nodes).await;
    for node in &nodes {
        node.until_in_memory(1).await;
        node.purge().await;
    }

    let folder = TempDir::new().unwrap();
    let new = Running::start(folder.path(), 4, listener().await.0).await;
    let leading = deciding(&nodes).await;
    let raft = nodes[leading].raft.clone();
    within_patience("it learns", raft.add_learner(new.id, new.member(), true)).await.unwrap();
    let change = raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([new.id])), false);
    within_patience("it votes", change).await.unwrap();
    nodes.push(new);
    settle(&nodes).await;
    let new = &nodes[3];
    assert_eq!(new.snapshots().len(), 1);
    // What is over is in its history, and nowhere else.
    new.until_in_memory(1).await;
    for (id, _) in &sold {
        let key = HistoryKey { stock: id.stock, sequence: id.sequence };
        assert!(new.history.get(key).unwrap().is_some(), "grant {}", id.sequence.0);
    }
    hand_over(&nodes, 3).await;
    check_sold(&nodes[3], &sold).await;
    let again = ask(&[nodes[3].engine.clone()], reserve(500, 2), Some("held")).await.unwrap();
    assert!(again.replayed && again.content == held.content, "{again:?}");

    // It is a member of its own: a start finds all of it on its disk, who the members are included.
    let members = nodes[3].metrics().membership_config;
    let new = nodes.remove(3);
    let address = new.stop().await;
    let directory = DataDirectory::open(folder.path(), &directory_options(4)).unwrap();
    let recovered = recover_member(&directory, SHARD, common::members::RULES, 1).unwrap();
    assert_eq!(recovered.standing.membership.membership().nodes().count(), 3, "as of the snapshot it was not there yet");
    assert_eq!(recovered.set_aside, [""; 0].map(std::path::PathBuf::from));
    drop(directory);
    let new = Running::restart(folder.path(), 4, &address).await;
    new.wait("it knows who they are", |metrics| metrics.membership_config == members).await;
    nodes.push(new);
    settle(&nodes).await;
    hand_over(&nodes, 3).await;
    check_sold(&nodes[3], &sold).await;
    for node in nodes {
        node.stop().await;
    }
}

/// All bytes that `node` hands over for its newest snapshot.
async fn bytes_of(node: &Running) -> Vec<u8> {
    let mut files = node.files.clone();
    let (_, snapshot) = files.current().await.unwrap().unwrap();
    let mut bytes = Vec::new();
    files.open(snapshot).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_of_taking_a_snapshot_leaves_the_old_or_the_new() {
    let (folders, mut nodes) = three().await;
    let mut sold = Vec::new();
    for buyer in 0..20 {
        sold.push((buy(&engines(&nodes), buyer, 3).await, 0));
    }
    settle(&nodes).await;
    let leading = deciding(&nodes).await;
    let away = nodes.remove((leading + 1) % 3);
    let id = away.id;
    // It has a snapshot of its own, and some of its log behind that.
    away.until_in_memory(0).await;
    away.purge().await;
    sold.push((buy(&engines(&nodes), 20, 3).await, 0));
    away.wait("it has that too", |metrics| metrics.last_applied == nodes[0].metrics().last_applied).await;
    let old = away.snapshots();
    let address = away.stop().await;
    let folder = folders[usize::try_from(id.0 - 1).unwrap()].path();
    for buyer in 21..40 {
        sold.push((buy(&engines(&nodes), buyer, 3).await, 0));
    }
    give_one_back(&engines(&nodes), sold[2].0, "back").await;
    sold[2].1 = 1;
    settle(&nodes).await;
    for node in &nodes {
        node.until_in_memory(0).await;
        node.purge().await;
    }
    let leading = deciding(&nodes).await;
    let bytes = bytes_of(&nodes[leading]).await;
    let new = nodes[leading].snapshots()[0];
    let (identity, mut files) = (nodes[leading].identity(), nodes[leading].files.clone());
    let (told, _) = files.current().await.unwrap().unwrap();

    // What the history takes comes first, durably; then the file is cut off and named, then older ones go, then what was purged is promised, and
    // at last the log goes.
    let incoming = |path: &Path, bytes: &[u8]| fs::write(path.join("snapshots/0.incoming"), bytes).unwrap();
    let take = async |path: &Path| {
        // As far as a node goes before consensus hears of it.
        let directory = DataDirectory::open(path, &directory_options(id.0)).unwrap();
        let standing = recover_member(&directory, SHARD, common::members::RULES, 1).unwrap();
        let wal =
            Wal::start(directory, [standing.replica.log, standing.replica.votes], WalOptions::default(), Arc::new(common::Deaf));
        let wal = wal.unwrap();
        let history = History::open(&path.join("history"), &HistoryOptions::default());
        let files = SnapshotFiles::new(SnapshotParts {
            directory: path.to_owned(),
            identity: identity.clone(),
            shard: SHARD,
            rules: common::members::RULES,
            seed: 1,
            history: Some(Arc::new(history.unwrap())),
            log: wal.reader(),
            writer: wal.writer(),
            disk_free_bytes_min: 0,
        });
        let mut receiving = files.receive(SHARD).await.unwrap();
        receiving.write(&bytes).await.unwrap();
        let snapshot = receiving.finish().await.unwrap();
        let installed = files.clone().install(told.clone(), snapshot).await.unwrap();
        assert_eq!(installed.at, new);
        (wal, standing.replica.promises.vote)
    };
    for step in [
        "half of it has come",
        "all of it has come",
        "the history knows of it",
        "it has its name",
        "the older one is gone",
        "the purge is promised",
    ] {
        let crashed = TempDir::new().unwrap();
        let path = crashed.path();
        copy(folder, path);
        match step {
            "half of it has come" => incoming(path, &bytes[..bytes.len() / 2]),
            "all of it has come" => incoming(path, &bytes),
            "the history knows of it" => {
                let (wal, ..) = take(path).await;
                wal.stop().unwrap();
                // The snapshots are as they were before.
                fs::remove_dir_all(path.join("snapshots")).unwrap();
                copy(&folder.join("snapshots"), &path.join("snapshots"));
                incoming(path, &bytes);
            }
            "it has its name" => {
                let (wal, ..) = take(path).await;
                wal.stop().unwrap();
                let older = snapshot_path(path, STREAM, old[0]);
                fs::copy(snapshot_path(folder, STREAM, old[0]), older).unwrap();
            }
            "the older one is gone" => take(path).await.0.stop().unwrap(),
            _ => {
                let (wal, vote) = take(path).await;
                let purged = Some(Purged { leader: told.leader, position: told.position });
                let (sender, done) = std::sync::mpsc::channel();
                let promises = Promises { vote, purged };
                wal.writer().promise(SHARD, promises, Box::new(move || sender.send(()).unwrap())).unwrap();
                done.recv_timeout(common::PATIENCE).unwrap();
                wal.stop().unwrap();
            }
        }
        let is_new = !["half of it has come", "all of it has come", "the history knows of it"].contains(&step);
        {
            remove_unfinished(path).unwrap();
            let directory = DataDirectory::open(path, &directory_options(id.0)).unwrap();
            let recovered = recover_member(&directory, SHARD, common::members::RULES, 1).unwrap();
            let expected = if is_new { new } else { old[0] };
            assert_eq!(recovered.standing.position.sequence, expected, "{step}");
            assert_eq!(recovered.set_aside.len(), 0, "{step}");
        }
        // Its disk is as it was before, which consensus takes for a broken promise otherwise.
        let leading = deciding(&nodes).await;
        nodes[leading].raft.trigger().allow_next_revert(&id, true).await.unwrap().unwrap();
        let back = Running::restart(path, id.0, &address).await;
        nodes.push(back);
        settle(&nodes).await;
        assert!(nodes[2].snapshots().contains(&new), "{step}: it takes it once more, or has it");
        hand_over(&nodes, 2).await;
        check_sold(&nodes[2], &sold).await;
        assert_eq!(stock(&nodes[2]), stock(&nodes[0]), "{step}");
        let back = nodes.remove(2);
        hand_over_to_any(&nodes, &back).await;
        back.stop().await;
    }
    for node in nodes {
        node.stop().await;
    }
}

/// Has another than `leader` decide.
async fn hand_over_to_any(nodes: &[Running], leader: &Running) {
    within_patience("another decides", async {
        while !nodes.iter().any(|node| node.progress.leads()) {
            drop(leader.raft.trigger().transfer_leader(nodes[0].id).await);
            let until = tokio::time::Instant::now() + std::time::Duration::from_secs(2);
            while !nodes.iter().any(|node| node.progress.leads()) && tokio::time::Instant::now() < until {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_passed_over_at_a_start_and_named() {
    let (folders, mut nodes) = three().await;
    let mut sold = Vec::new();
    for round in 0..2 {
        for buyer in 0..10 {
            sold.push((buy(&engines(&nodes), round * 100 + buyer, 3).await, 0));
        }
        settle(&nodes).await;
        nodes[2].until_in_memory(0).await;
        nodes[2].purge().await;
    }
    let damaged = snapshot_path(folders[2].path(), STREAM, nodes[2].snapshots()[0]);
    let node = nodes.remove(2);
    let (purged, members) = (node.metrics().purged.unwrap(), node.metrics().membership_config);
    let address = node.stop().await;
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();

    let directory = DataDirectory::open(folders[2].path(), &directory_options(3)).unwrap();
    let recovered = recover_member(&directory, SHARD, common::members::RULES, 1).unwrap();
    drop(directory);
    let [aside] = &recovered.set_aside[..] else { panic!("{:?}", recovered.set_aside) };
    assert!(aside.to_str().unwrap().ends_with(".snapshot.damaged"));
    // The older one, and what of the log was purged since, is where it goes on; and others can by the snapshot that is made of it.
    assert!(damaged.exists());
    assert_eq!(recovered.standing.position.index, LogIndex(purged.index + 1));
    assert_eq!(recovered.standing.membership.membership(), members.membership());
    let node = Running::restart(folders[2].path(), 3, &address).await;
    nodes.push(node);
    settle(&nodes).await;
    hand_over(&nodes, 2).await;
    check_sold(&nodes[2], &sold).await;
    for node in nodes {
        node.stop().await;
    }
}
