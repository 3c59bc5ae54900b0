//! One thread of the load: its connections, each a task, and in an open loop the task that says when a request is due.
//!
//! It draws what is asked, sends it, and enters the answers into the thread's tally. It must not know what becomes of tallies.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::link::{Link, LinkError};
use super::pacer::Pacer;
use super::plan::Plan;
use super::schedule::Arrivals;
use super::tally::{CONNECT_ERROR, CONNECTION_LOST, CommandKind, Effect, NO_ANSWER, Outcome, RequestKind, Tally, UNREADABLE};
use super::wire::{Answer, Heading, Path};
use super::words::{BatchBody, id_of, reserve_body, with_batch, with_outcome};
use crate::target::Target;

/// A connection that was idle for longer is not used again: the other side may be about to close it. Below the 5 s that common
/// servers and proxies wait at the least.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(4);

/// How long a connection rests that could not be made.
const CONNECT_REST: Duration = Duration::from_millis(100);

/// How long after the end of an open loop requests are still sent that were due before it.
pub(crate) const LATE_MAX: Duration = Duration::from_secs(1);

/// What the threads tell while they run. Each field only grows.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Requests that reserve, begun.
    begun: AtomicU64,
    /// Requests answered.
    pub(crate) answers: AtomicU64,
    /// Commands that ended in an error of the run.
    pub(crate) errors: AtomicU64,
    /// Connections that could not be made.
    pub(crate) unconnected: AtomicU64,
}

/// What all threads have in common.
#[derive(Clone)]
pub(crate) struct Course {
    pub(crate) plan: Arc<Plan>,
    pub(crate) target: Target,
    /// What every request to it starts with.
    pub(crate) heading: Heading,
    pub(crate) live: Arc<Live>,
    /// When the run begins, warm-up first.
    pub(crate) start: Instant,
    /// Says that nothing more is to be begun.
    pub(crate) stop: watch::Receiver<bool>,
}

/// What one thread did.
pub(crate) struct Driven {
    pub(crate) tally: Tally,
    /// When its last answer came.
    pub(crate) last_answer: Option<Instant>,
}

/// Runs thread number `thread` to the end: no later than the end of the plan, [`LATE_MAX`], and three times the wait for an answer.
///
/// # Errors
/// When the thread's runtime or its timer cannot be made, or the timer fails.
pub(crate) fn drive(course: &Course, thread: u32) -> io::Result<Driven> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let hall = Rc::new(Hall::new(course.clone(), thread));
    local.block_on(&runtime, async {
        let stop = tokio::task::spawn_local(Rc::clone(&hall).heed_stop());
        let pace = match course.plan.options.rate {
            Some(rate) => {
                let pacer = Pacer::new()?;
                let arrivals = hall.arrivals(rate, thread);
                Some(tokio::task::spawn_local(Rc::clone(&hall).pace(pacer, arrivals)))
            }
            None => None,
        };
        let mut lanes = JoinSet::new();
        for _ in 0..course.plan.connections_of(thread) {
            lanes.spawn_local(Lane::new(Rc::clone(&hall)).run());
        }
        lanes.join_all().await;
        stop.abort();
        match pace {
            // With the lanes gone, it has either come to its end or has nothing more to say.
            Some(pace) if !pace.is_finished() => pace.abort(),
            Some(pace) => pace.await.map_err(io::Error::other)??,
            None => {}
        }
        Ok::<(), io::Error>(())
    })?;
    drop(local);
    hall.note_unsent();
    Ok(Driven { tally: hall.tally.take().unwrap_or_else(|| Tally::new(0)), last_answer: hall.last_answer.get() })
}

/// What the tasks of a thread share.
struct Hall {
    course: Course,
    measure_from: Instant,
    end: Instant,
    draws: RefCell<Draws>,
    tally: RefCell<Option<Tally>>,
    last_answer: Cell<Option<Instant>>,
    /// Requests that are due and not sent.
    due: RefCell<VecDeque<Instant>>,
    /// Connections without a request; the one that was used last on top.
    idle: RefCell<Vec<Waker>>,
    /// Nothing more falls due.
    no_more: Cell<bool>,
    stopped: Cell<bool>,
}

impl Hall {
    fn new(course: Course, thread: u32) -> Self {
        let measure_from = course.start + course.plan.options.warmup;
        let end = course.start + course.plan.whole();
        let tally = Tally::new(course.plan.skus.len());
        Self {
            measure_from,
            end,
            draws: RefCell::new(Draws::new(course.plan.seed, thread)),
            tally: RefCell::new(Some(tally)),
            last_answer: Cell::new(None),
            due: RefCell::default(),
            idle: RefCell::default(),
            no_more: Cell::new(false),
            stopped: Cell::new(false),
            course,
        }
    }

    fn plan(&self) -> &Plan {
        &self.course.plan
    }

    fn arrivals(&self, rate: u32, thread: u32) -> Arrivals {
        let whole_ns = u64::try_from(self.plan().whole().as_nanos()).unwrap_or(u64::MAX);
        let options = &self.plan().options;
        Arrivals::new(options.arrivals, rate, (thread, options.threads), whole_ns, seed(self.plan().seed, thread, 2))
    }

    fn note(&self, note: impl FnOnce(&mut Tally)) {
        if let Some(tally) = self.tally.borrow_mut().as_mut() {
            note(tally);
        }
    }

    /// Ends the thread's work early when it is asked to.
    async fn heed_stop(self: Rc<Self>) {
        let mut stop = self.course.stop.clone();
        // Without a sender nobody can ask any more, which is no reason to stop.
        if stop.wait_for(|stop| *stop).await.is_ok() {
            self.stopped.set(true);
            self.wake_all();
        }
    }

    /// Says when each request of an open loop is due.
    async fn pace(self: Rc<Self>, pacer: Pacer, mut arrivals: Arrivals) -> io::Result<()> {
        let result = self.pace_all(&pacer, &mut arrivals).await;
        self.no_more.set(true);
        self.wake_all();
        result
    }

    async fn pace_all(&self, pacer: &Pacer, arrivals: &mut Arrivals) -> io::Result<()> {
        let mut next = arrivals.next();
        while let Some(offset) = next {
            let at = self.course.start + Duration::from_nanos(offset);
            pacer.wait_until(at).await?;
            if self.stopped.get() {
                return Ok(());
            }
            let passed = u64::try_from(self.course.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            while let Some(offset) = next.filter(|offset| *offset <= passed) {
                if !self.may_begin() {
                    return Ok(());
                }
                self.push(self.course.start + Duration::from_nanos(offset));
                next = arrivals.next();
            }
        }
        Ok(())
    }

    fn push(&self, at: Instant) {
        self.due.borrow_mut().push_back(at);
        let free = self.idle.borrow_mut().pop();
        self.note(|tally| {
            tally.due += 1;
            tally.waited += u64::from(free.is_none());
        });
        if let Some(waker) = free {
            waker.wake();
        }
    }

    fn wake_all(&self) {
        self.idle.take().into_iter().for_each(Waker::wake);
    }

    /// Whether the number of requests allows one more, which is then taken.
    fn may_begin(&self) -> bool {
        let begun = self.course.live.begun.fetch_add(1, Ordering::Relaxed);
        self.plan().options.requests.is_none_or(|requests| begun < requests)
    }

    /// When the next request is due; `None` when there is none any more.
    async fn next_due(&self) -> Option<Instant> {
        if self.plan().options.rate.is_none() {
            let now = Instant::now();
            return (!self.stopped.get() && now < self.end && self.may_begin()).then_some(now);
        }
        poll_fn(|context| {
            if self.stopped.get() {
                return Poll::Ready(None);
            }
            let mut due = self.due.borrow_mut();
            if due.is_empty() && !self.no_more.get() {
                self.idle.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() > self.end + LATE_MAX {
                return Poll::Ready(None);
            }
            Poll::Ready(due.pop_front())
        })
        .await
    }

    fn is_measured(&self, due: Instant) -> bool {
        self.measure_from <= due && due < self.end
    }

    /// Requests that never were sent have waited until now at the least, and count as such.
    fn note_unsent(&self) {
        let now = Instant::now();
        let kind = if self.plan().options.batch.is_some() { RequestKind::Batch } else { RequestKind::Reserve };
        for due in self.due.take() {
            self.note(|tally| {
                tally.unsent += 1;
                if self.is_measured(due) {
                    tally.latency(kind, now - due);
                    tally.behind.record(now - due);
                }
            });
        }
    }
}

/// A seed for one purpose of one thread.
fn seed(seed: u32, thread: u32, purpose: u64) -> u64 {
    (u64::from(seed) << 32) | (u64::from(thread) << 4) | purpose
}

/// What is asked, drawn.
struct Draws {
    /// Products and users.
    asks: SmallRng,
    /// What becomes of grants.
    follows: SmallRng,
    /// Reservations drawn, for their keys.
    count: u64,
    thread: u32,
}

impl Draws {
    fn new(run: u32, thread: u32) -> Self {
        let random = |purpose| SmallRng::seed_from_u64(seed(run, thread, purpose));
        Self { asks: random(0), follows: random(1), count: 0, thread }
    }

    /// A product and a user.
    fn ask(&mut self, plan: &Plan) -> (usize, u32) {
        self.count += 1;
        (plan.zipf.draw(&mut self.asks), self.asks.random_range(0..plan.options.users))
    }

    /// What becomes of a grant.
    fn follow(&mut self, plan: &Plan) -> Option<CommandKind> {
        let (confirm, release) = (plan.options.confirm, plan.options.release);
        if confirm + release <= 0.0 {
            return None;
        }
        let place: f64 = self.follows.random();
        if place < confirm {
            return Some(CommandKind::Confirm);
        }
        (place < confirm + release).then_some(CommandKind::Release)
    }
}

/// A grant and what is to become of it.
struct Follow {
    kind: CommandKind,
    product: usize,
    id: String,
}

/// One connection, made anew when it is lost.
struct Lane {
    hall: Rc<Hall>,
    link: Option<Link>,
    request: Vec<u8>,
    body: Vec<u8>,
    key: Vec<u8>,
}

impl Lane {
    fn new(hall: Rc<Hall>) -> Self {
        Self { hall, link: None, request: Vec::new(), body: Vec::new(), key: Vec::new() }
    }

    async fn run(mut self) {
        let hall = Rc::clone(&self.hall);
        while let Some(due) = hall.next_due().await {
            let connected = match hall.plan().options.batch {
                None => self.reserve(due).await,
                Some(commands) => self.batch(due, commands).await,
            };
            if !connected {
                sleep(CONNECT_REST).await;
            }
        }
    }

    /// A reservation and what follows it; false when there was no connection.
    async fn reserve(&mut self, due: Instant) -> bool {
        let hall = Rc::clone(&self.hall);
        let plan = hall.plan();
        let (product, user) = self.draw_one();
        reserve_body(&mut self.body, user, plan.options.quantity);
        let path = Path::Around("/v1/stocks/", &plan.skus[product], "/reservations");
        let key = plan.options.keys.then(|| text(&self.key));
        hall.course.heading.write(&mut self.request, "POST", &path, key, &self.body);
        let answer = match self.ask(RequestKind::Reserve, due, 1).await {
            Ok(answer) => answer,
            Err(outcome) => {
                self.enter(CommandKind::Reserve, product, outcome);
                return outcome != CONNECT_ERROR;
            }
        };
        let follow = {
            let body = self.body_of(&answer);
            let granted = with_outcome(answer.status, body, |outcome| {
                self.enter(CommandKind::Reserve, product, outcome);
                outcome.effect == Effect::Done
            });
            let kind = if granted { hall.draws.borrow_mut().follow(plan) } else { None };
            kind.and_then(|kind| Some(Follow { kind, product, id: id_of(body)? }))
        };
        match follow {
            Some(follow) => self.follow(&follow).await,
            None => true,
        }
    }

    async fn follow(&mut self, follow: &Follow) -> bool {
        let hall = Rc::clone(&self.hall);
        let (request, after) = match follow.kind {
            CommandKind::Release => (RequestKind::Release, "/release"),
            CommandKind::Confirm | CommandKind::Reserve => (RequestKind::Confirm, "/confirm"),
        };
        let path = Path::Around("/v1/reservations/", &follow.id, after);
        hall.course.heading.write(&mut self.request, "POST", &path, None, b"");
        match self.ask(request, Instant::now(), 1).await {
            Ok(answer) => {
                with_outcome(answer.status, self.body_of(&answer), |outcome| self.enter(follow.kind, follow.product, outcome));
                true
            }
            Err(outcome) => {
                self.enter(follow.kind, follow.product, outcome);
                outcome != CONNECT_ERROR
            }
        }
    }

    /// Many reservations at once and what follows them; false when there was no connection.
    async fn batch(&mut self, due: Instant, commands: u32) -> bool {
        let hall = Rc::clone(&self.hall);
        let plan = hall.plan();
        let mut products = Vec::with_capacity(commands as usize);
        let mut body = std::mem::take(&mut self.body);
        let mut batch = BatchBody::begin(&mut body);
        for _ in 0..commands {
            let (product, user) = self.draw_one();
            let key = plan.options.keys.then(|| text(&self.key));
            batch.reserve(&plan.skus[product], user, plan.options.quantity, key);
            products.push(product);
        }
        batch.end();
        self.body = body;
        let asked = |number: usize| (CommandKind::Reserve, products[number]);
        let mut follows = Vec::new();
        let connected = self
            .exchange_batch(due, products.len(), asked, |number, outcome, id| {
                if outcome.effect == Effect::Done
                    && let Some(id) = id
                    && let Some(kind) = hall.draws.borrow_mut().follow(plan)
                {
                    follows.push(Follow { kind, product: products[number], id: id.to_owned() });
                }
            })
            .await;
        if follows.is_empty() {
            return connected;
        }
        let mut body = std::mem::take(&mut self.body);
        let mut batch = BatchBody::begin(&mut body);
        for follow in &follows {
            batch.follow(follow.kind, &follow.id);
        }
        batch.end();
        self.body = body;
        let asked = |number: usize| (follows[number].kind, follows[number].product);
        self.exchange_batch(Instant::now(), follows.len(), asked, |_, _, _| {}).await
    }

    /// Sends the batch in `body`, enters what became of each command, and hands it on; false when there was no connection.
    async fn exchange_batch(
        &mut self,
        due: Instant,
        commands: usize,
        asked: impl Fn(usize) -> (CommandKind, usize),
        mut then: impl FnMut(usize, Outcome<'_>, Option<&str>),
    ) -> bool {
        let heading = &self.hall.course.heading;
        heading.write(&mut self.request, "POST", &Path::Whole("/v1/batch"), None, &self.body);
        match self.ask(RequestKind::Batch, due, commands).await {
            Ok(answer) => {
                with_batch(answer.status, self.body_of(&answer), commands, |number, outcome, id| {
                    let (kind, product) = asked(number);
                    self.enter(kind, product, outcome);
                    then(number, outcome, id);
                });
                true
            }
            Err(outcome) => {
                for (kind, product) in (0..commands).map(asked) {
                    self.enter(kind, product, outcome);
                }
                outcome != CONNECT_ERROR
            }
        }
    }

    /// A product, a user and, in `key`, a key that no other reservation of the run has.
    fn draw_one(&mut self) -> (usize, u32) {
        let plan = self.hall.plan();
        let mut draws = self.hall.draws.borrow_mut();
        if plan.options.keys {
            self.key.clear();
            write!(self.key, "{}.{}.{}", plan.seed, draws.thread, draws.count).expect("writing to memory does not fail");
        }
        draws.ask(plan)
    }

    fn enter(&self, kind: CommandKind, product: usize, outcome: Outcome<'_>) {
        if matches!(outcome.effect, Effect::NotDone | Effect::Unknown) {
            self.hall.course.live.errors.fetch_add(1, Ordering::Relaxed);
        }
        let units = u64::from(self.hall.plan().options.quantity);
        self.hall.note(|tally| tally.command(kind, product, units, outcome));
    }

    fn body_of<'a>(&'a self, answer: &'a Answer) -> &'a [u8] {
        self.link.as_ref().map_or(&[], |link| link.body(answer))
    }

    /// Sends the request that stands in `request`, with so many commands in it, and waits for its answer.
    async fn ask(&mut self, kind: RequestKind, due: Instant, commands: usize) -> Result<Answer, Outcome<'static>> {
        let hall = Rc::clone(&self.hall);
        let is_measured = hall.is_measured(due);
        let kept = self.link.take().filter(|link| link.is_good_for(CONNECTION_IDLE_MAX));
        let mut link = match kept {
            Some(link) => link,
            None => match Link::connect(&hall.course.target, hall.plan().options.timeout).await {
                Ok(link) => link,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no connection");
                    hall.course.live.unconnected.fetch_add(1, Ordering::Relaxed);
                    return Err(CONNECT_ERROR);
                }
            },
        };
        let now = Instant::now();
        hall.note(|tally| {
            tally.requests += 1;
            tally.bytes_sent += self.request.len() as u64;
            if is_measured {
                tally.behind.record(now.saturating_duration_since(due));
            }
        });
        match link.exchange(&self.request, now).await {
            Ok(answer) => {
                let at = link.used_at;
                hall.last_answer.set(Some(at));
                hall.course.live.answers.fetch_add(1, Ordering::Relaxed);
                hall.note(|tally| {
                    tally.answers += 1;
                    tally.bytes_received += answer.bytes as u64;
                    if is_measured {
                        tally.latency(kind, at.saturating_duration_since(due));
                    }
                    if hall.is_measured(at) {
                        tally.answers_measured += 1;
                        tally.commands_measured += commands as u64;
                    }
                });
                self.link = Some(link);
                Ok(answer)
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no answer");
                match error {
                    LinkError::TimedOut(_) => {
                        // Leaving it out would flatter: it has taken as long as this already.
                        if is_measured {
                            hall.note(|tally| tally.latency(kind, due.elapsed()));
                        }
                        Err(NO_ANSWER)
                    }
                    LinkError::Connect(_) | LinkError::Lost(_) => Err(CONNECTION_LOST),
                    LinkError::Wire(_) => Err(UNREADABLE),
                }
            }
        }
    }
}

fn text(key: &[u8]) -> &str {
    std::str::from_utf8(key).expect("keys are made of digits and full stops")
}
