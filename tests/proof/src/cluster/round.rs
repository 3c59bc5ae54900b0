//! One round: clients at work, a harm in the middle of it, its end, and the judgement. Owns who asks what, and when the harm comes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::feeds::{Feeds, differences};
use super::fleet::Fleet;
use super::harm::{self, Harm, LAG_MAX, Struck};
use super::judge::{self, Pause, Sale, judge};
use super::probe::{Grant, Heard, Probe, ask_at, reserve};
use crate::history::{large_plan, small_plan};
use crate::machine::wait;
use tidegate_witness::clients::{Client, Plan, Recorded, Shared};
use tidegate_witness::node::{NodeError, Target};
use tidegate_witness::record::{Answer, Call, Moment, Op};
use tidegate_witness::wire::Wire;

/// Clients of the large histories; those of the small one are as many as its plan says. Both use the first keys.
const CLIENTS_LARGE: usize = 6;
const STOCKS_LARGE: usize = 2;

/// The first number of the probes, of whom each node has so many.
const PROBES_FROM: usize = 20;
const PROBES_EACH: usize = 2;

/// The first number of those that ask once: newcomers, of whom one comes so often while a grant is waited for, so many at most; and those that ask
/// a frozen node.
const NEW_FROM: usize = 40;
const NEW_NUMBERS: usize = 6;
const NEW_EVERY: Duration = Duration::from_millis(100);
const NEW_MAX: usize = 300;

/// How many keys there must be.
pub(crate) const CLIENTS: usize = NEW_FROM + NEW_NUMBERS;

/// Grants to the probes before the harm comes.
const GRANTS_BEFORE: u64 = 40;

/// From the harm to its end, at least: longer than a lease and two elections, where no grant says that they are over.
const HARM_MIN: Duration = Duration::from_millis(2_500);

/// From the first grant of the others to the end of the harm.
const AFTER_GRANT: Duration = Duration::from_millis(700);

/// Longest wait for a grant, where a majority is there. What is longer is broken, however busy the machine is.
const GRANT_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it is looked how an election stands.
const WATCH_EVERY: Duration = Duration::from_millis(5);

/// Units of a probe's stock.
const PROBE_UNITS: i64 = 1_000_000_000;

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    /// Its number in the run: names are made of it.
    pub(crate) number: u64,
    pub(crate) seed: u64,
    pub(crate) harm: Harm,
    /// How often.
    pub(crate) strikes: u64,
    /// Whether those clients are there that leave no processor to others. Pauses are measured without them.
    pub(crate) is_crowded: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) strikes: u64,
    pub(crate) calls: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) changes: u64,
    pub(crate) histories: u64,
    pub(crate) searched: u64,
    pub(crate) undecided: u64,
    pub(crate) pauses: Vec<Pause>,
    /// From a harm that leaves a majority to the next grant.
    pub(crate) gaps: Vec<Duration>,
    pub(crate) kinds: BTreeMap<String, u64>,
    pub(crate) broken: Vec<String>,
    /// The place where another node sits now.
    replaced: Option<usize>,
}

/// Everything that was asked in a round, by stock.
type Asked = HashMap<String, Vec<Call>>;

/// Plays one round, and judges it.
pub(crate) fn play(fleet: &Fleet, feeds: &mut Feeds, course: Course) -> Result<Outcome, NodeError> {
    let number = course.number;
    let (small, large) = (small_of(number), large_of(number));
    let steady = format!("probe-{number}");
    for plan in [&small, &large] {
        for sku in &plan.skus {
            let body =
                serde_json::json!({ "quantity": plan.quantity, "per_user_limit": plan.per_user_limit, "hold_seconds_max": 3_600 });
            fleet.put_stock(sku, &body.to_string())?;
        }
    }
    let body = serde_json::json!({ "quantity": PROBE_UNITS, "hold_seconds_max": super::probe::HOLD_SECONDS });
    fleet.put_stock(&steady, &body.to_string())?;

    let mut outcome = Outcome::default();
    let (mut asked, heard) = at_work(fleet, course, &small, &large, &steady, &mut outcome)?;
    outcome.refused += heard.refused;
    outcome.kinds = heard.kinds;
    if course.harm.is_in_order() {
        outcome.broken.extend(judge::in_order(course.harm.name(), &outcome.kinds, heard.without_retry));
    }
    asked.entry(steady.clone()).or_default().extend(heard.calls);

    fleet.wait_whole(0)?;
    let settled = fleet.now();
    if let Some(place) = outcome.replaced {
        feeds.forget(place);
    }
    outcome.broken.extend(feeds.read(fleet)?);
    for place in 1..fleet.len() {
        let (one, other) = (&feeds.nodes[0].changes, &feeds.nodes[place].changes);
        outcome.broken.extend(differences((fleet.number(0), one), (fleet.number(place), other)));
    }
    for sku in small.skus.iter().chain(&large.skus).chain([&steady]) {
        let Some(changes) = feeds.whole(sku) else {
            outcome.broken.push(format!("no node has all changes of {sku}"));
            continue;
        };
        let calls = asked.remove(sku).unwrap_or_default();
        outcome.calls += calls.len() as u64;
        outcome.unknown += calls.iter().filter(|call| call.answer == Answer::Unknown).count() as u64;
        outcome.changes += changes.len() as u64;
        outcome.histories += 1;
        let searched = small.skus.contains(sku).then_some((small.quantity, small.per_user_limit));
        outcome.searched += u64::from(searched.is_some());
        let judged = judge(Sale { sku, searched, settled }, calls, &changes);
        outcome.undecided += u64::from(judged.is_undecided);
        outcome.broken.extend(judged.findings.iter().map(ToString::to_string));
        feeds.close(sku, &changes);
    }
    Ok(outcome)
}

fn small_of(number: u64) -> Plan {
    // Every other one is for the search that cannot take batches.
    Plan { skus: vec![format!("small-{number}")], batches: number % 2 == 1, ..small_plan() }
}

fn large_of(number: u64) -> Plan {
    let skus = (0..STOCKS_LARGE).map(|stock| format!("large-{number}-{stock}")).collect();
    Plan { skus, clients: CLIENTS_LARGE, ..large_plan(usize::MAX, false) }
}

/// All clients at once, and the harm in the middle of it.
fn at_work(
    fleet: &Fleet,
    course: Course,
    small: &Plan,
    large: &Plan,
    steady: &str,
    outcome: &mut Outcome,
) -> Result<(Asked, Heard), NodeError> {
    let mut rng = SmallRng::seed_from_u64(course.seed);
    let shared = |plan: &Plan| -> Vec<Mutex<Shared>> { plan.skus.iter().map(|_| Mutex::default()).collect() };
    let (shared_small, shared_large) = (shared(small), shared(large));
    let (granted, grants) = mpsc::channel();
    let (new_calls, new_count) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let ends = AtomicBool::new(false);
    fleet.set_over(false);
    thread::scope(|scope| {
        let crowd = if course.is_crowded { CLIENTS_LARGE } else { 0 };
        let of_large = begin(scope, (fleet, large, &shared_large), rng.random(), crowd);
        let probes: Vec<_> = (0..PROBES_EACH * fleet.len())
            .map(|probe| {
                // Every node is the first that some of them ask.
                let number = PROBES_FROM + probe;
                let (granted, ends) = (granted.clone(), &ends);
                scope.spawn(move || Probe { fleet, number, sku: steady, granted }.work(ends))
            })
            .collect();
        // Asks the node at a place once, whoever else is waiting there.
        let newcomer = |place: usize| {
            let count = new_count.fetch_add(1, Ordering::Relaxed);
            let (granted, new_calls, number) = (granted.clone(), &new_calls, NEW_FROM + count % NEW_NUMBERS);
            scope.spawn(move || {
                let name = format!("new-{count}");
                let (op, key) = if count % 2 == 0 { (reserve(&name), Some(name.as_str())) } else { (Op::ReadStock, None) };
                let call = ask_at(fleet, place, number, steady, &op, key);
                if let Some(Call { began, ended, answer: Answer::Reservation { .. }, .. }) = &call {
                    // Nobody listens once the round is over.
                    let _ = granted.send(Grant { began: *began, ended: *ended });
                }
                new_calls.lock().unwrap_or_else(PoisonError::into_inner).extend(call);
            });
        };
        let began = fleet.now();
        let mut of_small = Vec::new();
        let went = await_grants(fleet, &grants, began, GRANTS_BEFORE).and_then(|()| {
            of_small = begin(scope, (fleet, small, &shared_small), rng.random(), small.clients);
            for _ in 0..course.strikes {
                strike(fleet, course, &grants, &mut rng, outcome, &newcomer)?;
            }
            Ok(())
        });
        if went.is_err() {
            fleet.set_over(true);
        }
        let mut asked = Asked::new();
        let mut record = |plan: &Plan, (recorded, refused): (Vec<Recorded>, u64)| {
            outcome.refused += refused;
            for Recorded { sku, call, .. } in recorded {
                asked.entry(plan.skus[sku].clone()).or_default().push(call);
            }
        };
        // They come to their end by themselves; the others do not.
        for client in of_small {
            record(small, client.join().expect("a client does not panic"));
        }
        fleet.set_over(true);
        ends.store(true, Ordering::Relaxed);
        for client in of_large {
            record(large, client.join().expect("a client does not panic"));
        }
        let mut heard = Heard::default();
        for probe in probes {
            heard.add(probe.join().expect("a probe does not panic"));
        }
        went.map(|()| (asked, heard))
    })
    .map(|(mut asked, heard)| {
        asked.entry(steady.to_owned()).or_default().extend(new_calls.into_inner().unwrap_or_else(PoisonError::into_inner));
        (asked, heard)
    })
}

/// Whom clients ask, what they do, and what they know of each other.
type Work<'a> = (&'a Fleet, &'a Plan, &'a [Mutex<Shared>]);

/// Has so many clients begin.
fn begin<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    (fleet, plan, shared): Work<'env>,
    seed: u64,
    count: usize,
) -> Vec<ScopedJoinHandle<'scope, (Vec<Recorded>, u64)>> {
    let client = |number| {
        // Nobody counts their answers.
        let mut client = Client::new(number, seed, fleet, plan, shared, mpsc::channel().0);
        scope.spawn(move || {
            client.work();
            client.take()
        })
    };
    (0..count).map(client).collect()
}

/// Waits for `count` grants that were asked for after `since`.
fn await_grants(fleet: &Fleet, grants: &Receiver<Grant>, since: Moment, count: u64) -> Result<(), NodeError> {
    let (began, mut seen) = (Instant::now(), 0);
    while began.elapsed() < GRANT_WAIT_MAX {
        let grant = grants.recv_timeout(WATCH_EVERY);
        seen += u64::from(grant.is_ok_and(|grant| grant.began > since));
        if seen >= count {
            return Ok(());
        }
    }
    Err(fleet.trouble(0, &format!("{seen} of {count} grants within {} s", GRANT_WAIT_MAX.as_secs())))
}

/// Does the harm, waits until the others have gone on without whom it hit, undoes it, and waits until all is well.
fn strike(
    fleet: &Fleet,
    Course { harm, is_crowded, .. }: Course,
    grants: &Receiver<Grant>,
    rng: &mut SmallRng,
    outcome: &mut Outcome,
    newcomer: &impl Fn(usize),
) -> Result<(), NodeError> {
    let struck = harm::strike(fleet, harm, rng)?;
    let began = Instant::now();
    outcome.strikes += 1;
    outcome.replaced = (harm == Harm::DamagedDirectory).then_some(struck.victim);
    if !harm.is_in_order() {
        if harm.leaves_majority() {
            match watch(fleet, &struck, grants, newcomer) {
                Some(pause) => {
                    outcome.gaps.push(pause.grants);
                    if harm == Harm::KillLeader && !is_crowded {
                        outcome.pauses.push(pause);
                    }
                }
                None => outcome.broken.push(format!(
                    "{}: the others granted nothing within {} s",
                    harm.name(),
                    GRANT_WAIT_MAX.as_secs()
                )),
            }
        }
        if matches!(harm, Harm::StopLeader | Harm::StopFollower) {
            // What they ask reaches a node that does not know yet that it was deposed.
            (0..NEW_NUMBERS).for_each(|_| newcomer(struck.victim));
        }
        if harm != Harm::KillLeader {
            wait(AFTER_GRANT.max(HARM_MIN.saturating_sub(began.elapsed())));
            if harm.leaves_majority() && await_grants(fleet, grants, fleet.now(), GRANTS_BEFORE).is_err() {
                outcome.broken.push(format!("{}: the others do not go on", harm.name()));
            }
        }
    }
    outcome.broken.extend(harm::mend(fleet, &struck, rng)?);
    fleet.wait_whole(LAG_MAX)?;
    // And on it goes, through whoever came back too.
    await_grants(fleet, grants, fleet.now(), GRANTS_BEFORE)
}

/// Waits for the first grant that was asked for after the harm, and looks meanwhile how its election goes. `None` if there is none in time.
fn watch(fleet: &Fleet, struck: &Struck, grants: &Receiver<Grant>, newcomer: &impl Fn(usize)) -> Option<Pause> {
    let others: Vec<usize> = (0..fleet.len()).filter(|place| *place != struck.victim).collect();
    let mut wires: Vec<Wire> = others.iter().map(|place| Wire::new(fleet.address(*place))).collect();
    let victim = fleet.number(struck.victim);
    let (began, mut stands, mut decides) = (Instant::now(), None, None);
    let since = |moment: Moment| Duration::from_nanos(moment.saturating_sub(struck.at));
    let must_watch = struck.harm == Harm::KillLeader;
    let mut new = (0..NEW_MAX).map(|turn| (NEW_EVERY * u32::try_from(turn).unwrap_or(0), others[turn % others.len()])).peekable();
    while began.elapsed() < GRANT_WAIT_MAX {
        // Whoever asked before may be waiting for somebody who does not answer any more.
        if let Some((_, place)) = new.next_if(|(due, _)| *due <= began.elapsed()) {
            newcomer(place);
        }
        let after = |grant: &Grant| grant.began > struck.done;
        match grants.recv_timeout(WATCH_EVERY) {
            Ok(grant) if after(&grant) => return Some(Pause { stands, decides, grants: since(grant.ended) }),
            Ok(_) => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        if must_watch && decides.is_none() {
            for wire in &mut wires {
                let Some(seen) = fleet.seen_over(wire) else { continue };
                let (now, Some(shard)) = (fleet.now(), seen.shards.first()) else { continue };
                if shard.term > struck.term {
                    stands = stands.or(Some(since(now)));
                    if shard.leader.is_some_and(|leader| leader != victim) {
                        decides = decides.or(Some(since(now)));
                    }
                }
            }
        }
    }
    None
}
