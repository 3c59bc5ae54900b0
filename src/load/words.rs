//! What is said to the authority and what it says back: bodies of commands, and how answers to them are read. Pure.

use std::borrow::Cow;
use std::io::Write as _;

use serde::Deserialize;

use super::tally::{CommandKind, Effect, Outcome, UNREADABLE, outcome_of};

/// Writes the body of a single reservation over what `into` holds.
pub(crate) fn reserve_body(into: &mut Vec<u8>, user: u32, quantity: u32) {
    into.clear();
    write(into, format_args!(r#"{{"user":"u{user}","quantity":{quantity}}}"#));
}

/// A body of many commands in the making.
pub(crate) struct BatchBody<'a>(&'a mut Vec<u8>);

impl<'a> BatchBody<'a> {
    /// Begins one over what `into` holds.
    pub(crate) fn begin(into: &'a mut Vec<u8>) -> Self {
        into.clear();
        into.extend_from_slice(br#"{"commands":["#);
        Self(into)
    }

    /// A reservation. Names and keys are made of the identifier alphabet.
    pub(crate) fn reserve(&mut self, sku: &str, user: u32, quantity: u32, key: Option<&str>) {
        self.next();
        write(self.0, format_args!(r#"{{"op":"reserve","sku":"{sku}","user":"u{user}","quantity":{quantity}"#));
        if let Some(key) = key {
            write(self.0, format_args!(r#","idempotency_key":"{key}""#));
        }
        self.0.push(b'}');
    }

    /// What becomes of a grant.
    pub(crate) fn follow(&mut self, kind: CommandKind, id: &str) {
        self.next();
        write(self.0, format_args!(r#"{{"op":"{}","id":"{id}"}}"#, verb(kind)));
    }

    /// Completes it.
    pub(crate) fn end(self) {
        self.0.extend_from_slice(b"]}");
    }

    fn next(&mut self) {
        if self.0.last() == Some(&b'}') {
            self.0.push(b',');
        }
    }
}

/// The contract's word for a command.
const fn verb(kind: CommandKind) -> &'static str {
    match kind {
        CommandKind::Reserve => "reserve",
        CommandKind::Confirm => "confirm",
        CommandKind::Release => "release",
    }
}

fn write(into: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    into.write_fmt(text).expect("writing to memory does not fail");
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Reads the answer to a single command, or what stands for the answers of a whole batch, and hands the outcome on.
pub(crate) fn with_outcome<T>(status: u16, body: &[u8], then: impl FnOnce(Outcome<'_>) -> T) -> T {
    if status < 300 {
        return then(outcome_of(status, None));
    }
    let problem: Option<Problem<'_>> = serde_json::from_slice(body).ok();
    then(outcome_of(status, problem.as_ref().map(|problem| &*problem.code)))
}

/// The id of the reservation in an answer; `None` where there is none that could be named in a path.
pub(crate) fn id_of(body: &[u8]) -> Option<String> {
    let named: Named<'_> = serde_json::from_slice(body).ok()?;
    is_id(&named.id).then(|| named.id.into_owned())
}

fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:~-".contains(&byte))
}

#[derive(Deserialize)]
struct BatchAnswer<'a> {
    #[serde(borrow)]
    results: Vec<BatchResult<'a>>,
}

#[derive(Deserialize)]
struct BatchResult<'a> {
    status: u16,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reservation: Option<Named<'a>>,
}

/// Reads the answer to a batch of so many commands and hands on the outcome of each in order, with the id of a reservation that came
/// with a success. An answer for the whole batch is one for each; one that is not understood leaves each unknown.
pub(crate) fn with_batch(status: u16, body: &[u8], commands: usize, mut then: impl FnMut(usize, Outcome<'_>, Option<&str>)) {
    if status >= 300 {
        with_outcome(status, body, |outcome| (0..commands).for_each(|number| then(number, outcome, None)));
        return;
    }
    let Some(answer) = serde_json::from_slice::<BatchAnswer<'_>>(body).ok().filter(|answer| answer.results.len() == commands)
    else {
        (0..commands).for_each(|number| then(number, UNREADABLE, None));
        return;
    };
    for (number, result) in answer.results.iter().enumerate() {
        let outcome = outcome_of(result.status, result.code.as_deref());
        let id = result.reservation.as_ref().map(|named| &*named.id).filter(|id| is_id(id) && outcome.effect == Effect::Done);
        then(number, outcome, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_the_contracts() {
        let mut body = b"older".to_vec();
        reserve_body(&mut body, 7, 2);
        assert_eq!(body, br#"{"user":"u7","quantity":2}"#);
        let mut batch = BatchBody::begin(&mut body);
        batch.reserve("lamp", 1, 1, None);
        batch.reserve("chair", 2, 3, Some("k-1"));
        batch.follow(CommandKind::Confirm, "a1");
        batch.follow(CommandKind::Release, "b2");
        batch.end();
        let expect = r#"{"commands":[{"op":"reserve","sku":"lamp","user":"u1","quantity":1},{"op":"reserve","sku":"chair","user":"u2","quantity":3,"idempotency_key":"k-1"},{"op":"confirm","id":"a1"},{"op":"release","id":"b2"}]}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expect);
    }

    #[track_caller]
    fn check(status: u16, body: &[u8], name: &str, effect: Effect) {
        with_outcome(status, body, |outcome| assert_eq!(outcome, Outcome { name, effect }));
    }

    #[test]
    fn single_answers_are_read_by_status_and_code() {
        check(201, b"{}", "201", Effect::Done);
        check(409, br#"{"type":"about:blank","status":409,"code":"sold_out"}"#, "sold_out", Effect::Rejected);
        check(503, br#"{"code":"overloaded"}"#, "overloaded", Effect::NotDone);
        check(502, b"<html>", "unreadable_answer", Effect::Unknown);
        assert_eq!(id_of(br#"{"id":"Ab-9_","sku":"lamp"}"#), Some("Ab-9_".to_owned()));
        for body in [&br#"{"id":"a/b"}"#[..], br#"{"id":""}"#, br#"{"sku":"lamp"}"#, b"no"] {
            assert_eq!(id_of(body), None);
        }
    }

    fn read(status: u16, body: &str, commands: usize) -> Vec<(usize, String, Effect, Option<String>)> {
        let mut read = Vec::new();
        with_batch(status, body.as_bytes(), commands, |number, outcome, id| {
            read.push((number, outcome.name.to_owned(), outcome.effect, id.map(str::to_owned)));
        });
        read
    }

    #[test]
    fn batch_answers_are_read_one_by_one() {
        let body = r#"{"results":[{"status":201,"reservation":{"id":"a1","state":"reserved"}},{"status":409,"code":"sold_out"},{"status":200,"reservation":{"id":"b2"},"replayed":true}]}"#;
        let expect = [
            (0, "201".to_owned(), Effect::Done, Some("a1".to_owned())),
            (1, "sold_out".to_owned(), Effect::Rejected, None),
            (2, "200".to_owned(), Effect::Done, Some("b2".to_owned())),
        ];
        assert_eq!(read(200, body, 3), expect);
    }

    #[test]
    fn a_batch_answer_that_fits_nothing_leaves_every_command_unknown() {
        let unknown = |number| (number, "unreadable_answer".to_owned(), Effect::Unknown, None);
        assert_eq!(read(200, r#"{"results":[{"status":201}]}"#, 2), [unknown(0), unknown(1)]);
        assert_eq!(read(200, "nonsense", 1), [unknown(0)]);
        assert_eq!(read(201, "", 1), [unknown(0)]);
        let missing = |number| (number, "not_found".to_owned(), Effect::NotDone, None);
        assert_eq!(read(404, r#"{"code":"not_found"}"#, 2), [missing(0), missing(1)]);
    }
}
