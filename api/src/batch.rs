//! `POST /v1/batch`: many commands in one request, each with an answer of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::task::Poll;

use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use tidegate_engine::{Answer, Content, Engine, Failure, Submission, partition_of};
use tidegate_stock::{Command, Partition};

use crate::call::{Call, Form, NDJSON, Unread};
use crate::cluster::Decider;
use crate::commands::{self, ReadCommand};
use crate::documents::ReservationDocument;
use crate::forward::{self, Doubt, Forwarded, Repeats, Sent, shard_of};
use crate::json;
use crate::labels::Route;
use crate::problem::{Problem, Told};
use crate::replies::{self, APPLICATION_JSON};
use crate::schema::{Always, CodeName, Opaque, StatusNumber};
use crate::status::{self, Code};

/// Room for one result, so that writing a batch's answer seldom has to grow.
const RESULT_BYTES_TYPICAL: usize = 384;

/// What came of a batch's commands, in the order of the commands.
#[derive(JsonSchema)]
#[schemars(rename = "BatchResults")]
#[allow(dead_code, reason = "results are written one by one; this is the form that they are given")]
pub(crate) struct ResultsDocument<'a> {
    /// One for each command.
    results: Vec<ResultDocument<'a>>,
}

/// What came of one command: the status and the body that the single call would have had.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "BatchResult")]
pub(crate) enum ResultDocument<'a> {
    /// It was done.
    Done {
        /// 201 for a reservation that was granted, 200 for everything else.
        #[schemars(with = "StatusNumber")]
        status: u16,
        /// There when the command repeats an earlier one with the same key.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Always")]
        replayed: Option<bool>,
        /// As it stands.
        reservation: ReservationDocument<'a>,
    },
    /// It was not done, or nobody knows.
    Failed {
        /// The status that the single call would have had.
        #[schemars(with = "StatusNumber")]
        status: u16,
        /// Why, for programs.
        #[schemars(with = "CodeName")]
        code: &'static str,
        /// Why, for people.
        #[serde(serialize_with = "as_text")]
        #[schemars(with = "Opaque")]
        detail: &'a dyn fmt::Display,
    },
}

fn as_text<S: Serializer>(text: &&dyn fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// `POST /v1/batch`.
pub(crate) async fn run(call: Call, body: Unread) -> Result<Response, Problem> {
    call.engine()?;
    let (body, form) = call.read_batch(body).await?;
    let actor = call.actor()?;
    let engine = call.engine()?;
    let commands = commands::read(&|text| engine.unseal(text), &body, form)?;
    let elsewhere = elsewhere(&call, engine, &body, form, &commands)?;
    // What is wrong with each command; nothing with those that go to the engine.
    let mut faults: Vec<Option<Problem>> = Vec::with_capacity(commands.len());
    let is_elsewhere = |place: usize| elsewhere.iter().any(|part| part.places.binary_search(&place).is_ok());
    let mut pending = engine.submit_batch(commands.into_iter().enumerate().filter_map(|(place, command)| match command {
        Ok((command, key)) => {
            faults.push(None);
            (!is_elsewhere(place)).then(|| Submission { command, key, actor: actor.clone() })
        }
        Err(fault) => {
            faults.push(Some(fault));
            None
        }
    }));
    let mut told: BTreeMap<usize, Remote> = BTreeMap::new();
    let late = if elsewhere.is_empty() {
        call.bounded(pending.wait()).await.err()
    } else {
        // What this node decides and what others do is under way at the same time; each part keeps its own order.
        let (late, answers) = tokio::join!(call.bounded(pending.wait()), ask_all(&call, &elsewhere));
        told.extend(answers);
        late.err()
    };
    let results = Results { engine, form, late: late.as_ref() };
    results.write(&faults, &mut told, pending.into_outcomes())
}

/// Commands of a batch that another node decides.
struct Elsewhere {
    shard: u16,
    /// Their places in the batch, ascending.
    places: Vec<usize>,
    /// A batch of them alone.
    request: Forwarded,
    repeats: Repeats,
}

/// What another node says of a command.
enum Remote {
    /// Its result, as it stands in the answer.
    Result(Box<RawValue>),
    /// None.
    Failed(Code, String),
}

/// The commands that other nodes decide, shard by shard. Of a shard for which nobody is known to decide, that is found out later.
fn elsewhere(call: &Call, engine: &Engine, body: &[u8], form: Form, commands: &[ReadCommand]) -> Result<Vec<Elsewhere>, Problem> {
    let Some(cluster) = call.door().cluster().filter(|_| !call.is_forwarded()) else { return Ok(Vec::new()) };
    let mut places: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (place, command) in commands.iter().enumerate() {
        let Ok((command, _)) = command else { continue };
        if let Some(shard) = shard_of(engine, partition(command)) {
            places.entry(shard).or_default().push(place);
        }
    }
    places.retain(|shard, _| cluster.decider(*shard) != Decider::Here);
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let (texts, actor) = (commands::texts(body, form)?, call.actor()?);
    let (uri, mut headers) = (Uri::from_static(Route::Batch.path()), call.headers().clone());
    headers.insert(CONTENT_TYPE, APPLICATION_JSON);
    let part = |(shard, places): (u16, Vec<usize>)| {
        let bodies: Vec<&[u8]> = places.iter().map(|place| texts[*place]).collect();
        let body = [&b"{\"commands\":["[..], &bodies.join(&b','), b"]}"].concat();
        let request = Forwarded::new(&Method::POST, &uri, &headers, &actor, body.into());
        let is_read = |command: &ReadCommand| matches!(command, Ok((Command::ReadReservation { .. }, _)));
        let is_keyed = |command: &ReadCommand| matches!(command, Ok((_, Some(_))));
        let all = |is: &dyn Fn(&ReadCommand) -> bool| places.iter().all(|place| is(&commands[*place]));
        let repeats = match () {
            () if all(&is_read) => Repeats::Freely,
            () if all(&|command| is_read(command) || is_keyed(command)) => Repeats::ByKey,
            () => Repeats::Never,
        };
        Elsewhere { shard, places, request, repeats }
    };
    Ok(places.into_iter().map(part).collect())
}

fn partition(command: &Command) -> Partition {
    match command {
        Command::CreateStock { partition, .. } => *partition,
        Command::Reserve { sku, .. }
        | Command::ChangeStock { sku, .. }
        | Command::AdjustStock { sku, .. }
        | Command::StepStock { sku, .. } => partition_of(sku),
        Command::Confirm { reservation, .. }
        | Command::Release { reservation, .. }
        | Command::Return { reservation, .. }
        | Command::Extend { reservation, .. }
        | Command::ReadReservation { reservation } => reservation.stock.partition,
    }
}

/// Has the nodes that decide answer, all at once.
async fn ask_all(call: &Call, elsewhere: &[Elsewhere]) -> Vec<(usize, Remote)> {
    let mut asking: Vec<_> = elsewhere.iter().map(|part| (Some(Box::pin(ask(call, part))), Vec::new())).collect();
    poll_fn(|context| {
        for (asking, answers) in &mut asking {
            if let Some(Poll::Ready(told)) = asking.as_mut().map(|asking| asking.as_mut().poll(context)) {
                (*asking, *answers) = (None, told);
            }
        }
        if asking.iter().all(|(asking, _)| asking.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    asking.into_iter().flat_map(|(_, answers)| answers).collect()
}

async fn ask(call: &Call, Elsewhere { shard, places, request, repeats }: &Elsewhere) -> Vec<(usize, Remote)> {
    let failed = |code: Code, detail: &str| places.iter().map(|place| (*place, Remote::Failed(code, detail.to_owned()))).collect();
    let (answer, doubt) = match forward::send(call, *shard, request, *repeats).await {
        Ok(Sent::Answered(answer, doubt)) => (answer, doubt),
        // It has come to this node meanwhile; nothing was done.
        Ok(Sent::Here(None)) => return failed(Code::NotLeader, "who decides has just changed"),
        Ok(Sent::Here(Some(Doubt { problem, .. }))) | Err(problem) => return failed(problem.code(), problem.detail()),
    };
    let body = match answer.into_body() {
        Ok(body) => body,
        Err(_) if let Some(Doubt { problem, .. }) = doubt => return failed(problem.code(), problem.detail()),
        Err(code) => return failed(code.unwrap_or(Code::OutcomeUnknown), "the node that decides gave no results"),
    };
    match serde_json::from_slice(&body) {
        Ok(ResultsText { results }) if results.len() == places.len() => {
            let told = |result: Box<RawValue>| match &doubt {
                Some(doubt) if status_of(&result).is_some_and(|status| doubt.is_left_by(status)) => {
                    Remote::Failed(doubt.problem.code(), doubt.problem.detail().to_owned())
                }
                _ => Remote::Result(result),
            };
            places.iter().copied().zip(results.into_iter().map(told)).collect()
        }
        _ => failed(Code::OutcomeUnknown, "the results of the node that decides cannot be read"),
    }
}

/// The status that a command's result says.
fn status_of(result: &RawValue) -> Option<u16> {
    #[derive(Deserialize)]
    struct StatusText {
        status: u16,
    }
    serde_json::from_str(result.get()).ok().map(|StatusText { status }| status)
}

#[derive(Deserialize)]
struct ResultsText {
    results: Vec<Box<RawValue>>,
}

struct Results<'a> {
    engine: &'a Engine,
    form: Form,
    /// What commands are told that have no answer.
    late: Option<&'a Problem>,
}

impl Results<'_> {
    fn write(
        &self,
        faults: &[Option<Problem>],
        told: &mut BTreeMap<usize, Remote>,
        outcomes: Vec<Option<Result<Answer, Failure>>>,
    ) -> Result<Response, Problem> {
        let mut body = Vec::with_capacity(faults.len() * RESULT_BYTES_TYPICAL);
        let mut outcomes = outcomes.into_iter();
        let (opening, separator, closing, content_type) = match self.form {
            Form::Json => (&b"{\"results\":["[..], b',', &b"]}"[..], APPLICATION_JSON),
            Form::Lines => (&b""[..], b'\n', &b"\n"[..], HeaderValue::from_static(NDJSON)),
        };
        body.extend_from_slice(opening);
        for (place, fault) in faults.iter().enumerate() {
            if place > 0 {
                body.push(separator);
            }
            match (fault, told.remove(&place)) {
                (Some(fault), _) => failed(&mut body, fault.code(), &fault.detail())?,
                (None, Some(Remote::Result(result))) => body.extend_from_slice(result.get().as_bytes()),
                (None, Some(Remote::Failed(code, detail))) => failed(&mut body, code, &detail)?,
                (None, None) => self.outcome(&mut body, outcomes.next().flatten())?,
            }
        }
        body.extend_from_slice(closing);
        Ok(replies::momentary(status::OK, content_type, body))
    }

    fn outcome(&self, body: &mut Vec<u8>, outcome: Option<Result<Answer, Failure>>) -> Result<(), Problem> {
        match outcome {
            Some(Ok(Answer { created, replayed, content: Content::Reservation(view) })) => {
                let id = self.engine.seal(view.id);
                let status = if created { status::CREATED } else { status::OK };
                let reservation = ReservationDocument::of(&id, &view);
                json::append(
                    body,
                    &ResultDocument::Done { status: status.as_u16(), replayed: replayed.then_some(true), reservation },
                )
            }
            Some(Ok(_)) => Err(Problem::internal(&"a command of a batch was answered with a stock")),
            Some(Err(failure)) => failed(body, failure.into(), &Told(failure)),
            None => match self.late {
                Some(late) => failed(body, late.code(), &late.detail()),
                None => failed(body, Code::OutcomeUnknown, &Code::OutcomeUnknown.title()),
            },
        }
    }
}

fn failed(body: &mut Vec<u8>, code: Code, detail: &dyn fmt::Display) -> Result<(), Problem> {
    json::append(body, &ResultDocument::Failed { status: code.status().as_u16(), code: code.name(), detail })
}
