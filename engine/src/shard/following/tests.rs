//! What a ledger that is installed makes of work that waits for the history.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use tidegate_persistence::GroupSequence;
use tidegate_stock::{
    Allotment, Command, GrantSequence, HoldSeconds, Ledger, Partition, Quantity, Recall, Request, ReservationId, ReservationRecord,
    Rules, Sku, StockTerms, UserId, decide,
};

use super::*;
use crate::changes::Changes;
use crate::clock::ManualClock;
use crate::commit::{CommitLog, CommitProgress};
use crate::historian::{HistoryAnswer, Message, line_to};
use crate::inbox::Inbox;
use crate::metrics::EngineMetrics;
use crate::options::EngineOptions;
use crate::published::Published;
use crate::quorum::{QuorumVoice, quorum_line};
use crate::ring::{RingSender, ring};
use crate::router::ShardNumber;
use crate::shard::ShardParts;
use crate::sync::oneshot;
use crate::work::{Job, Recalled, Work};

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 100,
    retention_seconds: 86_400,
    reservations_in_memory_max: 100,
    users_in_memory_max: 100,
};

/// Keeps what is proposed.
#[derive(Clone, Default)]
struct Proposals(Arc<Mutex<Vec<Group>>>);

impl CommitLog for Proposals {
    fn propose(&mut self, _: Term, group: Group) {
        self.0.lock().unwrap().push(group);
    }
}

fn sku() -> Sku {
    Sku::new("lamp").unwrap()
}

fn done(ledger: &mut Ledger, command: Command) {
    let decision = decide(ledger, &Request { command, idempotency: None }, NOW, Recall::NotTried).unwrap();
    for event in decision.before.iter().chain(&decision.event) {
        drop(ledger.apply(event, NOW));
    }
}

/// A ledger in which three units were sold, of which `returned` came back, to a reservation that has left memory since; and its record.
fn sold_and_gone(returned: u32) -> (Ledger, ReservationRecord) {
    let mut ledger = Ledger::new(RULES, 1);
    let hold_seconds = HoldSeconds::new(60).unwrap();
    let terms = StockTerms {
        per_user_limit: None,
        hold_seconds,
        hold_seconds_max: hold_seconds.default_max(),
        opens_at: None,
        closes_at: None,
    };
    let (partition, quantity) = (Partition(0), Allotment::new(10).unwrap());
    done(&mut ledger, Command::CreateStock { partition, sku: sku(), quantity, terms });
    let (user, quantity) = (UserId::new("ann").unwrap(), Quantity::new(3).unwrap());
    done(&mut ledger, Command::Reserve { sku: sku(), user, quantity, hold_seconds: None, reference: None });
    let stock = ledger.stocks().next().unwrap().id;
    let id = ReservationId { stock, sequence: GrantSequence(1) };
    done(&mut ledger, Command::Confirm { reservation: id, quantity: None });
    for _ in 0..returned {
        done(&mut ledger, Command::Return { reservation: id, quantity: Some(Quantity::ONE) });
    }
    // What was changed on its way out comes up a second time.
    let leaving = (0..2).flat_map(|_| ledger.take_leaving(Timestamp::from_unix_ms(u64::MAX), 1)).collect::<Vec<_>>();
    let [record] = leaving.try_into().unwrap();
    ledger.has_left(id);
    (ledger, record)
}

struct Bench {
    shard: ShardActor,
    ring: RingSender<Work>,
    voice: QuorumVoice,
    proposals: Proposals,
    asked: Receiver<Message>,
}

impl Bench {
    fn new(ledger: Ledger, at: GroupSequence) -> Self {
        let progress = CommitProgress::new(at);
        let (voice, line) = quorum_line(&progress);
        let (ring, receiver) = ring(64, Arc::clone(progress.wake()));
        let (history, asked) = line_to(Inbox::new(Arc::clone(progress.wake())));
        let proposals = Proposals::default();
        let shard = ShardActor::new(ShardParts {
            number: ShardNumber(0),
            ledger,
            ring: receiver,
            log: Box::new(proposals.clone()),
            quorum: Some(line),
            progress,
            published: Arc::new(Published::new(1)),
            known: Arc::default(),
            history: Some(history),
            changes: Arc::<Changes>::default(),
            options: EngineOptions { resolved_in_memory_max: 0, ..EngineOptions::default() },
            clock: Arc::new(ManualClock::new(NOW)),
            metrics: Arc::new(EngineMetrics::default()),
        });
        Self { shard, ring, voice, proposals, asked }
    }

    /// Has it do what there is to do.
    fn turns(&mut self) {
        for _ in 0..16 {
            self.shard.turn();
        }
    }

    fn give_one_back(&mut self, reservation: ReservationId) {
        let (reply, receiver) = oneshot::channel();
        // Nobody waits for the answer.
        drop(receiver);
        let command = Command::Return { reservation, quantity: Some(Quantity::ONE) };
        let request = Request { command, idempotency: None };
        let actor = tidegate_persistence::ActorName::new("tests").unwrap();
        let work = Work { job: Job::One { request, actor, under_way: None, reply }, recalled: None };
        assert!(self.ring.try_send(work).is_ok());
        self.turns();
    }

    /// The next look-up that it has asked for.
    fn next_look_up(&self) -> (Work, Arc<Inbox<HistoryAnswer>>) {
        match self.asked.try_recv() {
            Ok(Message::Recall(_, work, inbox)) => (*work, inbox),
            Ok(Message::Keep(_)) => panic!("something goes to the history"),
            Err(error) => panic!("nothing is looked up: {error}"),
        }
    }

    fn events(&self) -> Vec<Event> {
        let proposals = self.proposals.0.lock().unwrap();
        proposals.iter().flat_map(|group| group.entries().unwrap().map(|entry| entry.unwrap().event).collect::<Vec<_>>()).collect()
    }
}

fn found(mut work: Work, record: &ReservationRecord) -> HistoryAnswer {
    work.recalled = Some(Box::new(Recalled { id: record.id, record: Some(record.clone()) }));
    HistoryAnswer::Recalled(work)
}

#[test]
fn what_was_looked_up_for_a_ledger_that_is_gone_is_looked_up_again() {
    // The answer comes before or after the new ledger, or is there already and not used yet.
    for answered in ["before", "after", "not used yet"] {
        let (old, stale) = sold_and_gone(0);
        let (new, fresh) = sold_and_gone(1);
        let mut bench = Bench::new(old, GroupSequence(3));
        bench.voice.tell(Told::Lead(Term(1)));
        bench.turns();
        bench.give_one_back(stale.id);
        let (work, inbox) = bench.next_look_up();
        let answer = found(work, &stale);
        bench.voice.tell(Told::Follow);
        if answered == "not used yet" {
            bench.shard.hear_quorum();
            inbox.put(answer);
            assert!(bench.shard.hear_history());
            bench.install_and_lead(new);
            bench.turns();
        } else if answered == "before" {
            bench.install_and_lead(new);
            inbox.put(answer);
            bench.turns();
        } else {
            bench.install_and_lead(new);
            bench.turns();
            inbox.put(answer);
            bench.turns();
        }
        assert_eq!(bench.events(), [], "{answered}: nothing is decided by what is out of date");
        let (work, inbox) = bench.next_look_up();
        inbox.put(found(work, &fresh));
        bench.turns();
        let events = bench.events();
        assert!(matches!(&events[..], [Event::Recalled { record }, Event::Returned { .. }] if **record == fresh), "{events:?}");
    }
}

impl Bench {
    fn install_and_lead(&self, ledger: Ledger) {
        self.voice.tell(Told::Install(Box::new(Installed { ledger, at: GroupSequence(4) })));
        self.voice.tell(Told::Lead(Term(2)));
    }
}
