//! `POST /v1/batch`: many commands in one request, each with an answer of its own.

use std::fmt;

use axum::response::Response;
use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use tidegate_engine::{Answer, Content, Engine, Failure, Submission};

use crate::call::{Call, Form, NDJSON, Unread};
use crate::commands;
use crate::documents::ReservationDocument;
use crate::json;
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
    // What is wrong with each command; nothing with those that go to the engine.
    let mut faults: Vec<Option<Problem>> = Vec::with_capacity(commands.len());
    let mut pending = engine.submit_batch(commands.into_iter().filter_map(|command| match command {
        Ok((command, key)) => {
            faults.push(None);
            Some(Submission { command, key, actor: actor.clone() })
        }
        Err(fault) => {
            faults.push(Some(fault));
            None
        }
    }));
    let late = call.bounded(pending.wait()).await.err();
    let results = Results { engine, form, late: late.as_ref() };
    results.write(&faults, pending.into_outcomes())
}

struct Results<'a> {
    engine: &'a Engine,
    form: Form,
    /// What commands are told that have no answer.
    late: Option<&'a Problem>,
}

impl Results<'_> {
    fn write(&self, faults: &[Option<Problem>], outcomes: Vec<Option<Result<Answer, Failure>>>) -> Result<Response, Problem> {
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
            match fault {
                Some(fault) => failed(&mut body, fault.code(), &fault.detail())?,
                None => self.outcome(&mut body, outcomes.next().flatten())?,
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
