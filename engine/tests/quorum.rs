//! Shards whose log a quorum keeps, with the test as the quorum: who leads decides, what turns out otherwise is taken back, and whoever follows has
//! the same ledger.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use support::{
    HeldLog, PATIENCE, RULES, START, answer, create, is_ready, keyed, loaded, release, reservation, reserve, sealing, sku,
};
use tidegate_engine::{
    Answer, CommitProgress, Content, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, Fault, Installed, ManualClock,
    Pending, QuorumVoice, Refusal, ShardReport, ShardStart, Submission, Told, quorum_line,
};
use tidegate_persistence::{Group, GroupSequence, StreamId, Term};
use tidegate_stock::{Ledger, Rejection, ReservationView, StockView};

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
        let progress = CommitProgress::new(GroupSequence(0));
        let (quorum, line) = quorum_line(&progress);
        let (log, clock) = (HeldLog::default(), Arc::new(ManualClock::new(START)));
        let engine = Engine::start(EngineParts {
            options: EngineOptions::default(),
            sealing: sealing(),
            clock: Arc::<ManualClock>::clone(&clock),
            metrics: Arc::new(EngineMetrics::default()),
            disk_low: Arc::new(AtomicBool::new(false)),
            history: None,
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
        self.until(|node| !node.progress.leads()).await;
        // The shard says so before it takes anything back; what it reports comes after.
        self.report().await;
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
        self.quorum.tell_committed(self.quorum.room().await, Arc::clone(&shared), true);
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
        self.quorum.tell_committed(self.quorum.room().await, Arc::new(group.clone()), false);
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
    node.quorum.tell_committed(node.quorum.room().await, Arc::new(groups[0].clone()), true);
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
    node.told = node.log.len();
    let bob = reservation(node.call(reserve("lamp", "bob"), &[]).await);
    assert_eq!(bob.id.sequence.0, 1);
    node.engine.stop().await;
}
