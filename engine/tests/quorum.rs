//! Shards whose log a quorum keeps, with the test as the quorum: who leads decides, what turns out otherwise is taken back, and whoever follows has
//! the same ledger.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use support::{
    HeldLog, PATIENCE, RULES, START, answer, confirm, create, give_back, is_ready, keyed, loaded, read, release, reservation,
    reserve, reserve_units, sealing, sku,
};
use tempfile::TempDir;
use tidegate_engine::{
    Answer, CommitProgress, Content, Cursor, Diverged, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, Fault, Feed,
    HistoryStart, Installed, LocalCommits, ManualClock, OnDivergence, Pending, QuorumVoice, Refusal, ShardReport, ShardStart,
    Submission, Told, quorum_line,
};
use tidegate_persistence::{
    Group, GroupBuilder, GroupSequence, History, HistoryKey, HistoryOptions, LogIndex, MemoryStore, NodeId, RecoveredStream,
    StreamId, Term, Wal, WalOptions,
};
use tidegate_stock::{Event, Ledger, LedgerSum, Rejection, ReservationId, ReservationState, ReservationView, StockView};
use tokio::time::Instant;

const STREAM: StreamId = StreamId::log(0);

/// A node with one shard; its log only keeps what is proposed.
struct Node {
    engine: Engine,
    clock: Arc<ManualClock>,
    log: HeldLog,
    progress: Arc<CommitProgress>,
    quorum: QuorumVoice,
    /// Proposals that were told as committed, or are not to be.
    told: usize,
}

impl Node {
    fn start() -> Self {
        // Sums are for the tests that ask for them.
        Self::start_with(EngineOptions { sum_seconds: 86_400, ..EngineOptions::default() }, None)
    }

    /// A node that lets go of what is over at once.
    fn start_tiered(history: &Arc<History>) -> Self {
        let options = EngineOptions { resolved_in_memory_max: 0, sum_seconds: 86_400, ..EngineOptions::default() };
        let on_failure = Box::new(|error: &_| panic!("the history failed: {error}"));
        Self::start_with(options, Some(HistoryStart { store: Arc::clone(history), on_failure }))
    }

    fn start_with(options: EngineOptions, history: Option<HistoryStart>) -> Self {
        let progress = CommitProgress::new(GroupSequence(0));
        let (quorum, line) = quorum_line(&progress);
        let (log, clock) = (HeldLog::default(), Arc::new(ManualClock::new(START)));
        let engine = Engine::start(EngineParts {
            options,
            sealing: sealing(),
            clock: Arc::<ManualClock>::clone(&clock),
            metrics: Arc::new(EngineMetrics::default()),
            disk_low: Arc::new(AtomicBool::new(false)),
            history,
            shards: vec![ShardStart {
                ledger: Ledger::new(RULES, sealing().table_seed()),
                log: Box::new(log.clone()),
                progress: Arc::clone(&progress),
                quorum: Some(line),
            }],
        });
        Self { engine: engine.unwrap(), clock, log, progress, quorum, told: 0 }
    }

    async fn lead(&mut self, term: u64) {
        // What it proposed before is not told any more as its own.
        self.told = self.log.len();
        self.quorum.tell(Told::Lead(Term(term)));
        self.until(|node| node.progress.leads()).await;
    }

    async fn follow(&self) {
        self.quorum.tell(Told::Follow);
        // Nobody is let in from now on; the shard itself has it to hear.
        assert!(!self.progress.leads());
        let hears = async { while self.report().await.leads {} };
        tokio::time::timeout(PATIENCE, hears).await.expect("the shard hears it within the tests' patience");
    }

    async fn report(&self) -> ShardReport {
        self.engine.inspect().await.pop().unwrap()
    }

    async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let looks = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looks).await.expect("it comes about within the tests' patience");
    }

    fn submit(&self, submission: Submission) -> Pending {
        self.engine.try_submit(submission).unwrap()
    }

    /// Waits for the next proposal, and says that it is committed: to this node as its own, to the others as another's.
    async fn commit_next(&mut self, others: &[&Self]) -> Group {
        let group = self.next();
        let shared = Arc::new(group.clone());
        self.quorum.tell_committed(self.quorum.room().await, Arc::clone(&shared), LogIndex(group.sequence.0), true);
        for other in others {
            other.hear(&group).await;
        }
        group
    }

    /// The next proposal that nothing was said of.
    fn next(&mut self) -> Group {
        self.told += 1;
        self.log.wait_proposed(self.told);
        self.log.groups()[self.told - 1].clone()
    }

    /// Tells it of a group of another node, and waits until it has applied it.
    async fn hear(&self, group: &Group) {
        self.quorum.tell_committed(self.quorum.room().await, Arc::new(group.clone()), LogIndex(group.sequence.0), false);
        self.until(|node| node.progress.committed() >= group.sequence).await;
        self.report().await;
    }

    /// Submits, and has what comes of it committed.
    async fn call(&mut self, submission: Submission, others: &[&Self]) -> Result<Answer, Failure> {
        let pending = self.submit(submission);
        self.commit_next(others).await;
        answer(pending).await
    }

    fn view(&self) -> StockView {
        self.engine.stock(&sku("lamp")).unwrap().view
    }

    /// All that its ledger holds, by a copy of it.
    async fn holds(&self) -> (Vec<StockView>, Vec<ReservationView>, usize, usize) {
        let copy = self.engine.copy_ledger(STREAM).await.unwrap();
        assert_eq!(copy.is_committed(), Ok(true));
        let (ledger, _) = loaded(copy).await;
        (ledger.stocks().collect(), ledger.reservations().collect(), ledger.key_count(), ledger.user_count())
    }
}

fn unknown() -> Result<Answer, Failure> {
    Err(Fault::OutcomeUnknown.into())
}

#[tokio::test]
async fn a_node_decides_nothing_until_it_is_told_to_lead() {
    let mut node = Node::start();
    let refused = node.engine.try_submit(create("lamp", 3, 600)).map(drop);
    assert_eq!(refused, Err(Refusal::NotLeader));
    node.lead(1).await;
    node.call(create("lamp", 3, 600), &[]).await.unwrap();
    node.follow().await;
    assert_eq!(node.engine.try_submit(reserve("lamp", "ann")).map(drop), Err(Refusal::NotLeader));
    let outcomes = node.engine.submit_batch([reserve("lamp", "ann"), reserve("lamp", "bob")]).outcomes().await;
    assert_eq!(outcomes, [Err(Refusal::NotLeader.into()), Err(Refusal::NotLeader.into())]);
    // What is committed is shown all the same.
    assert_eq!(node.view().available, 3);
    node.engine.stop().await;
}

#[tokio::test]
async fn a_node_whose_lease_is_over_answers_nothing_though_nobody_has_told_it_to_follow() {
    let mut node = Node::start();
    node.lead(1).await;
    node.call(create("lamp", 3, 600), &[]).await.unwrap();
    let ann = reservation(node.call(reserve("lamp", "ann"), &[]).await);
    node.quorum.set_lease(Some(Instant::now()));
    assert!(!node.progress.leads());
    for submission in [reserve("lamp", "bob"), release(ann.id), read(ann.id)] {
        assert_eq!(node.engine.try_submit(submission).map(drop), Err(Refusal::NotLeader));
    }
    // Its quorum was heard of again, and nobody else was elected meanwhile.
    node.quorum.set_lease(Some(Instant::now() + PATIENCE));
    assert_eq!(reservation(answer(node.submit(read(ann.id))).await), ann);
    node.call(release(ann.id), &[]).await.unwrap();
    node.engine.stop().await;
}

#[tokio::test]
async fn whoever_follows_has_the_same_ledger_and_goes_on_with_it() {
    let (mut first, mut second) = (Node::start(), Node::start());
    first.lead(1).await;
    first.call(create("lamp", 3, 600), &[&second]).await.unwrap();
    let ann = reservation(first.call(keyed(reserve("lamp", "ann"), "a"), &[&second]).await);
    let bob = reservation(first.call(reserve("lamp", "bob"), &[&second]).await);
    first.call(release(bob.id), &[&second]).await.unwrap();
    assert_eq!(second.view(), first.view());
    assert_eq!(second.holds().await, first.holds().await);
    first.follow().await;
    second.lead(2).await;
    // The key's answer is the same wherever it is asked for, and nothing is decided for it.
    let again = answer(second.submit(keyed(reserve("lamp", "ann"), "a"))).await.unwrap();
    assert!(again.replayed, "{again:?}");
    assert_eq!(again.content, Content::Reservation(ann));
    let carl = reservation(second.call(reserve("lamp", "carl"), &[&first]).await);
    assert_eq!(carl.id.sequence.0, 3, "grants are numbered on");
    assert_eq!(second.holds().await, first.holds().await);
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn what_is_not_committed_is_taken_back_and_its_callers_are_told_that_nobody_knows() {
    let (mut first, mut second) = (Node::start(), Node::start());
    first.lead(1).await;
    first.call(create("lamp", 2, 600), &[&second]).await.unwrap();
    let before = first.holds().await;
    // Decided, proposed and never committed: the last two units, and a rejection that saw them gone.
    let lost = ["ann", "bob"].map(|user| first.submit(keyed(reserve("lamp", user), user)));
    let rejected = first.submit(reserve("lamp", "carl"));
    first.next();
    let report = first.report().await;
    assert!(report.proposed > report.committed && report.open_holds > 0, "{report:?}");
    let copy = first.engine.copy_ledger(STREAM).await.unwrap();
    first.follow().await;
    for pending in lost.into_iter().chain([rejected]) {
        assert_eq!(answer(pending).await, unknown());
    }
    assert!(copy.is_committed().is_err(), "what the copy stands at may have been taken back");
    assert_eq!(first.holds().await, before);
    assert_eq!(first.view().available, 2);
    // Another node decides otherwise; the numbers are used again.
    second.lead(2).await;
    for user in ["dora", "emil"] {
        second.call(reserve("lamp", user), &[&first]).await.unwrap();
    }
    assert_eq!(first.holds().await, second.holds().await);
    // The keys of what was taken back are unknown: who asks again is told the truth.
    second.follow().await;
    first.lead(3).await;
    let truth = answer(first.submit(keyed(reserve("lamp", "ann"), "ann"))).await;
    assert!(matches!(truth, Err(Failure::Rejection(Rejection::SoldOut { .. }))), "{truth:?}");
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn a_copy_at_a_group_of_nothing_that_is_taken_back_is_given_up() {
    let mut node = Node::start();
    node.lead(1).await;
    node.call(create("lamp", 2, 600), &[]).await.unwrap();
    node.engine.mark_log(STREAM).await.unwrap();
    let mark = node.next();
    assert_eq!(mark.events, 0);
    let copy = node.engine.copy_ledger(STREAM).await.unwrap();
    assert_eq!((copy.at(), copy.is_committed()), (mark.sequence, Ok(false)));
    node.follow().await;
    assert!(copy.is_committed().is_err(), "another group may have its number");
    node.engine.stop().await;
}

#[tokio::test]
async fn a_proposal_that_turns_out_committed_after_its_leader_gave_up_counts_once() {
    let mut node = Node::start();
    node.lead(1).await;
    node.call(create("lamp", 5, 600), &[]).await.unwrap();
    let pending = node.submit(keyed(reserve("lamp", "ann"), "a"));
    let group = node.next();
    node.follow().await;
    assert_eq!(answer(pending).await, unknown());
    assert_eq!(node.view().available, 5);
    // The next leader had it in its log.
    node.hear(&group).await;
    assert_eq!((node.view().available, node.view().reserved), (4, 1));
    node.lead(2).await;
    let again = answer(node.submit(keyed(reserve("lamp", "ann"), "a"))).await.unwrap();
    assert!(again.replayed && again.created, "{again:?}");
    let next = reservation(node.call(reserve("lamp", "bob"), &[]).await);
    assert_eq!(next.id.sequence.0, 2);
    node.engine.stop().await;
}

#[tokio::test]
async fn what_was_answered_before_stays_and_what_was_not_is_undone_group_by_group() {
    let mut node = Node::start();
    node.lead(1).await;
    node.call(create("lamp", 1_000, 600), &[]).await.unwrap();
    let mut pending = Vec::new();
    let mut groups = Vec::new();
    for round in 0..6 {
        pending.push(node.submit(reserve("lamp", &format!("user{round}"))));
        if groups.len() < EngineOptions::default().groups_in_flight_max {
            groups.push(node.next());
        }
    }
    // The first is committed, nothing is known of the others.
    node.quorum.tell_committed(node.quorum.room().await, Arc::new(groups[0].clone()), LogIndex(1), true);
    node.follow().await;
    let mut outcomes = Vec::new();
    for pending in pending {
        outcomes.push(answer(pending).await);
    }
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    // Those that no group had room for yet were decided or refused.
    let rest = &outcomes[1..];
    assert!(rest.iter().all(|outcome| *outcome == unknown() || *outcome == Err(Refusal::NotLeader.into())), "{rest:?}");
    assert_eq!((node.view().reserved, node.holds().await.1.len()), (1, 1));
    assert_eq!(node.report().await.proposed, groups[0].sequence);
    node.engine.stop().await;
}

#[tokio::test]
async fn only_who_leads_lapses_holds() {
    let (mut first, second) = (Node::start(), Node::start());
    first.lead(1).await;
    first.call(create("lamp", 1, 60), &[&second]).await.unwrap();
    first.call(reserve("lamp", "ann"), &[&second]).await.unwrap();
    for node in [&first, &second] {
        node.clock.set(START.plus_seconds(61));
    }
    let lapse = first.commit_next(&[]).await;
    assert_eq!(lapse.events, 1);
    assert_eq!(second.report().await.proposed, GroupSequence(2));
    assert_eq!((second.log.len(), second.view().reserved), (0, 1));
    second.hear(&lapse).await;
    assert_eq!((second.view().reserved, second.view().available), (0, 1));
    assert_eq!(second.holds().await, first.holds().await);
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn time_does_not_run_backwards_with_a_change_of_leaders() {
    let (mut first, mut second) = (Node::start(), Node::start());
    first.clock.set(START.plus_seconds(100));
    first.lead(1).await;
    first.call(create("lamp", 2, 600), &[&second]).await.unwrap();
    first.follow().await;
    second.lead(2).await;
    let ann = reservation(second.call(reserve("lamp", "ann"), &[&first]).await);
    assert_eq!(ann.reserved_at, START.plus_seconds(100));
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn a_ledger_that_is_installed_takes_the_place_of_the_old_one() {
    let (mut first, mut late) = (Node::start(), Node::start());
    first.lead(1).await;
    first.call(create("lamp", 3, 600), &[&late]).await.unwrap();
    for user in ["ann", "bob"] {
        first.call(keyed(reserve("lamp", user), user), &[]).await.unwrap();
    }
    let copy = first.engine.copy_ledger(STREAM).await.unwrap();
    let at = copy.at();
    let (ledger, _) = loaded(copy).await;
    assert_eq!(late.view().available, 3);
    late.quorum.tell(Told::Install(Box::new(Installed { ledger, at })));
    late.until(|node| node.progress.committed() == at).await;
    late.report().await;
    assert_eq!(late.view(), first.view());
    assert_eq!(late.holds().await, first.holds().await);
    first.follow().await;
    late.lead(2).await;
    let again = answer(late.submit(keyed(reserve("lamp", "ann"), "ann"))).await.unwrap();
    assert!(again.replayed, "{again:?}");
    late.call(reserve("lamp", "carl"), &[&first]).await.unwrap();
    let mut gone = late.submit(reserve("lamp", "dora"));
    assert!(matches!(answer_now(&mut gone).await, Err(Failure::Rejection(Rejection::SoldOut { .. }))));
    assert_eq!(late.holds().await, first.holds().await);
    first.engine.stop().await;
    late.engine.stop().await;
}

/// The answer to what writes nothing.
async fn answer_now(pending: &mut Pending) -> Result<Answer, Failure> {
    tokio::time::timeout(PATIENCE, pending).await.expect("an answer within the tests' patience")
}

#[tokio::test]
async fn a_leader_that_is_told_to_lead_again_takes_back_what_was_refused() {
    let mut node = Node::start();
    node.lead(1).await;
    node.call(create("lamp", 1, 600), &[]).await.unwrap();
    let mut refused = node.submit(reserve("lamp", "ann"));
    node.next();
    assert!(!is_ready(&mut refused));
    node.quorum.tell(Told::Lead(Term(1)));
    assert_eq!(answer(refused).await, unknown());
    // It says so while it takes things back, and lets others in behind that.
    node.until(|node| node.progress.leads()).await;
    node.told = node.log.len();
    let bob = reservation(node.call(reserve("lamp", "bob"), &[]).await);
    assert_eq!(bob.id.sequence.0, 1);
    node.engine.stop().await;
}

fn history(folder: &TempDir) -> Arc<History> {
    Arc::new(History::open(folder.path(), &HistoryOptions::default()).unwrap())
}

const fn key(id: ReservationId) -> HistoryKey {
    HistoryKey { stock: id.stock, sequence: id.sequence }
}

impl Node {
    /// Waits until so many reservations are in memory.
    async fn until_in_memory(&self, count: usize) {
        let looks = async {
            while self.report().await.reservations != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looks).await.expect("what is over leaves within the tests' patience");
    }

    /// Sells three lamps to ann, and has it told to `others`.
    async fn sell_to_ann(&mut self, others: &[&Self]) -> ReservationId {
        self.call(create("lamp", 10, 600), others).await.unwrap();
        let ann = reservation(self.call(reserve_units("lamp", "ann", 3), others).await);
        reservation(self.call(confirm(ann.id), others).await);
        ann.id
    }
}

#[tokio::test]
async fn who_follows_lets_go_in_its_own_time_and_answers_as_who_led() {
    let folder = TempDir::new().unwrap();
    // The first keeps everything in memory, the second nothing that is over.
    let (mut first, mut second) = (Node::start(), Node::start_tiered(&history(&folder)));
    first.lead(1).await;
    let id = first.sell_to_ann(&[&second]).await;
    second.until_in_memory(0).await;
    for returned in 1..=2 {
        let given_back = reservation(first.call(keyed(give_back(id, Some(1)), &format!("back-{returned}")), &[&second]).await);
        assert_eq!((given_back.confirmed, given_back.returned), (3 - returned, returned));
        assert_eq!(first.log.groups().last().unwrap().events, 2, "the record comes along, though it is in memory there");
        second.until_in_memory(0).await;
        assert_eq!(second.view(), first.view());
    }
    first.follow().await;
    second.lead(2).await;
    let shown = reservation(answer_now(&mut second.submit(read(id))).await);
    assert_eq!((shown.confirmed, shown.returned, shown.state), (1, 2, ReservationState::Confirmed));
    let again = answer_now(&mut second.submit(keyed(give_back(id, Some(1)), "back-2"))).await.unwrap();
    assert_eq!((again.replayed, again.content), (true, Content::Reservation(shown)));
    let returned = reservation(second.call(give_back(id, None), &[&first]).await);
    assert_eq!((returned.returned, returned.state), (3, ReservationState::Returned));
    second.follow().await;
    first.lead(3).await;
    assert_eq!(reservation(answer_now(&mut first.submit(read(id))).await), returned);
    assert_eq!((first.view().available, first.view().sold), (10, 0));
    assert_eq!(first.view(), second.view());
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn what_a_node_alone_has_logged_is_applied_by_who_has_let_go_of_it() {
    let folder = TempDir::new().unwrap();
    let alone = support::instant(EngineOptions::default());
    let call = async |submission| reservation(answer(alone.engine.try_submit(submission).unwrap()).await);
    answer(alone.engine.try_submit(create("lamp", 10, 600)).unwrap()).await.unwrap();
    let id = call(reserve_units("lamp", "ann", 3)).await.id;
    call(confirm(id)).await;
    call(give_back(id, Some(1))).await;
    call(give_back(id, Some(1))).await;
    let groups = alone.log.groups();
    let events: Vec<u32> = groups.iter().map(|group| group.events).collect();
    assert_eq!(events, [1, 1, 1, 1, 1], "it was in memory, so nothing of it is logged but what was done");

    let mut node = Node::start_tiered(&history(&folder));
    for group in &groups {
        node.hear(group).await;
        // While it is held it is in memory.
        node.until_in_memory(usize::from(group.sequence == GroupSequence(2))).await;
    }
    node.lead(1).await;
    let shown = reservation(answer_now(&mut node.submit(read(id))).await);
    assert_eq!((shown.confirmed, shown.returned), (1, 2));
    assert_eq!(Some(node.view()), alone.engine.stock(&sku("lamp")).map(|answer| answer.view));
    node.engine.stop().await;
    alone.engine.stop().await;
}

#[tokio::test]
async fn what_comes_with_a_ledger_that_is_installed_is_not_overwritten_by_what_the_old_one_lets_go_of() {
    let folders = [(); 2].map(|()| TempDir::new().unwrap());
    let [of_first, of_late] = folders.each_ref().map(history);
    let (mut first, late) = (Node::start_tiered(&of_first), Node::start_tiered(&of_late));
    first.lead(1).await;
    let id = first.sell_to_ann(&[&late]).await;
    assert!(late.quorum.prepare_install().await);
    assert_eq!(late.report().await.reservations, 0, "what was on its way has arrived");
    assert!(of_late.get(key(id)).unwrap().is_some());
    // From now on nothing leaves, however often it might.
    let bob = reservation(first.call(reserve("lamp", "bob"), &[&late]).await).id;
    first.call(release(bob), &[&late]).await.unwrap();
    for turn in 0..1_000 {
        assert_eq!(late.report().await.reservations, 1, "turn {turn}");
    }
    assert_eq!(of_late.get(key(bob)).unwrap(), None);

    // Meanwhile the first goes on, and what it has let go of comes along with its ledger.
    first.call(give_back(id, Some(1)), &[]).await.unwrap();
    first.until_in_memory(0).await;
    let copy = first.engine.copy_ledger(STREAM).await.unwrap();
    let at = copy.at();
    let (ledger, _) = loaded(copy).await;
    of_first
        .for_each(&mut |_, record| {
            of_late.put(&[record]).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    late.quorum.tell(Told::Install(Box::new(Installed { ledger, at })));
    late.until(|node| node.progress.committed() == at).await;
    first.follow().await;
    let mut late = late;
    late.lead(2).await;
    let shown = reservation(answer_now(&mut late.submit(read(id))).await);
    assert_eq!((shown.confirmed, shown.returned), (2, 1));
    assert_eq!(reservation(answer_now(&mut late.submit(read(bob))).await).state, ReservationState::Released);
    // And it lets go again.
    let carl = reservation(late.call(reserve("lamp", "carl"), &[&first]).await).id;
    late.call(release(carl), &[&first]).await.unwrap();
    late.until_in_memory(0).await;
    assert!(of_late.get(key(carl)).unwrap().is_some());
    first.engine.stop().await;
    late.engine.stop().await;
    assert!(!late.quorum.prepare_install().await, "a shard that is gone is never ready");
}

#[tokio::test]
async fn the_feed_of_a_node_ends_where_its_log_does_and_goes_on_when_it_has_more() {
    let (mut leader, other) = (Node::start(), Node::start());
    leader.lead(1).await;
    let commits = Arc::new(LocalCommits::new([], Arc::default(), |error| panic!("{error}")));
    let tails = [RecoveredStream::empty(STREAM)];
    let wal = Wal::start_on(Box::new(MemoryStore::new()), NodeId(1), tails, WalOptions::default(), commits).unwrap();
    let feed = Feed::new(other.engine.clone(), wal.reader());
    let changes = |after: Option<&Cursor>| {
        let page = feed.read(after, 100).unwrap();
        (page.events.len(), page.next)
    };
    let mut groups = Vec::new();
    for submission in [create("lamp", 5, 600), reserve("lamp", "ann"), reserve("lamp", "bob")] {
        let pending = leader.submit(submission);
        groups.push(leader.commit_next(&[&other]).await);
        answer(pending).await.unwrap();
    }
    wal.writer().append(STREAM, groups[0].clone());
    wal.writer().sync().unwrap();
    let (count, behind_first) = changes(None);
    assert_eq!((count, changes(Some(&behind_first)).0), (1, 0));
    for group in &groups[1..] {
        wal.writer().append(STREAM, group.clone());
    }
    wal.writer().sync().unwrap();
    assert_eq!(changes(Some(&behind_first)).0, 2);
    wal.stop().unwrap();
}

/// Options with which every second group ends with the ledger's sum.
fn with_sums(on_divergence: OnDivergence) -> EngineOptions {
    EngineOptions { sum_groups: 2, on_divergence, ..EngineOptions::default() }
}

/// The sum that a group ends with, if it does.
fn sum_in(group: &Group) -> Option<LedgerSum> {
    let events: Vec<Event> = group.entries().unwrap().map(|entry| entry.unwrap().event).collect();
    match events.last() {
        Some(Event::Summed { sum }) => Some(*sum),
        _ => None,
    }
}

/// `group`, whose sum is `sum`.
fn with_sum(group: &Group, sum: LedgerSum) -> Group {
    let mut made = GroupBuilder::new(group.sequence, group.time);
    for entry in group.entries().unwrap() {
        let mut entry = entry.unwrap();
        if let Event::Summed { sum: said } = &mut entry.event {
            *said = sum;
        }
        made.push(&entry.event, &entry.actor, entry.at, entry.image);
    }
    made.finish()
}

#[tokio::test]
async fn every_so_often_whoever_decides_says_what_its_ledger_comes_to_and_the_others_find_it_so() {
    let (mut first, second) =
        (Node::start_with(with_sums(OnDivergence::Stop), None), Node::start_with(with_sums(OnDivergence::Stop), None));
    first.lead(1).await;
    let mut sums = Vec::new();
    for submission in [create("lamp", 9, 600), reserve("lamp", "ann"), reserve("lamp", "bob"), reserve("lamp", "carl")] {
        let pending = first.submit(submission);
        let group = first.commit_next(&[&second]).await;
        answer(pending).await.unwrap();
        sums.push(sum_in(&group));
    }
    let open_holds: Vec<_> = sums.iter().map(|sum| sum.map(|sum| (sum.stocks, sum.open_holds))).collect();
    assert_eq!(open_holds, [None, Some((1, 1)), None, Some((1, 3))]);
    assert_eq!(second.holds().await, first.holds().await);
    // By time as well, however few groups there were.
    first.clock.set(START.plus_seconds(10));
    let pending = first.submit(reserve("lamp", "dora"));
    assert!(sum_in(&first.commit_next(&[&second]).await).is_some());
    answer(pending).await.unwrap();
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn whoever_comes_to_another_sum_shows_nothing_more_and_says_so() {
    let (mut first, second) =
        (Node::start_with(with_sums(OnDivergence::Stop), None), Node::start_with(with_sums(OnDivergence::Stop), None));
    first.lead(1).await;
    first.call(create("lamp", 9, 600), &[&second]).await.unwrap();
    let pending = first.submit(reserve("lamp", "ann"));
    let group = first.commit_next(&[]).await;
    answer(pending).await.unwrap();
    let own = sum_in(&group).unwrap();
    let logged = LedgerSum { hash: own.hash ^ 1, ..own };
    assert_eq!(second.quorum.divergence(), None);
    let room = second.quorum.room().await;
    second.quorum.tell_committed(room, Arc::new(with_sum(&group, logged)), LogIndex(7), false);
    tokio::time::timeout(PATIENCE, second.quorum.stopped_by_divergence()).await.expect("it says so");
    assert_eq!(second.quorum.divergence(), Some(Diverged { index: LogIndex(7), sequence: group.sequence, logged, own }));
    second.until(|node| node.progress.has_failed()).await;
    assert_eq!((second.progress.committed(), second.view().available), (GroupSequence(1), 9), "nothing of it is shown");
    first.engine.stop().await;
    second.engine.stop().await;
}

#[tokio::test]
async fn whoever_is_told_that_its_ledger_is_the_right_one_goes_on() {
    let (mut first, second) =
        (Node::start_with(with_sums(OnDivergence::Stop), None), Node::start_with(with_sums(OnDivergence::Warn), None));
    first.lead(1).await;
    first.call(create("lamp", 9, 600), &[&second]).await.unwrap();
    let pending = first.submit(reserve("lamp", "ann"));
    let group = first.commit_next(&[]).await;
    answer(pending).await.unwrap();
    let sum = sum_in(&group).unwrap();
    second.hear(&with_sum(&group, LedgerSum { open_holds: 2, ..sum })).await;
    first.call(reserve("lamp", "bob"), &[&second]).await.unwrap();
    assert_eq!(second.holds().await, first.holds().await);
    first.engine.stop().await;
    second.engine.stop().await;
}
