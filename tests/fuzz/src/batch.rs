//! Batches, as a document and as lines: a command is read alike whatever stands beside it, in a line, in a document, or as the body of
//! the single call; and a batch has as many results as commands.

use serde_json::value::RawValue;
use tidegate_api::fuzzing::{self, ReadCommand};
use tidegate_engine::Sealing;
use tidegate_stock::{Command, HoldSeconds, IdempotencyKey, Quantity, ReservationId, Sku};

use crate::json::Object;
use crate::reservation_id::SECRET;

/// As the contract says.
const COMMANDS_MAX: usize = 10_000;

/// Reads a body, as lines or as a document.
type ReadBatch<'a> = dyn Fn(&[u8], bool) -> fuzzing::Read<Vec<ReadCommand>> + 'a;

/// Tries `body` as lines and as a document.
pub fn run(body: &[u8]) {
    let sealing = Sealing::new(&SECRET);
    let unseal = |text: &str| sealing.unseal(text);
    let read = |body: &[u8], is_lines| fuzzing::batch(body, is_lines, &unseal);

    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    match read(body, true) {
        Err(code) => assert!(code == "invalid_request" && (lines.is_empty() || lines.len() > COMMANDS_MAX), "{code}"),
        Ok(commands) => {
            assert_eq!(commands.len(), lines.len());
            for (line, command) in lines.iter().zip(&commands) {
                assert_eq!(read(line, true), Ok(vec![command.clone()]), "alone: {:?}", String::from_utf8_lossy(line));
                as_the_single_call(line, command, &unseal);
            }
            in_a_document(&lines, &commands, &read);
        }
    }

    let document = documented(body);
    match read(body, false) {
        Err(code) => assert!(
            code == "invalid_request" && document.is_none_or(|commands| !(1..=COMMANDS_MAX).contains(&commands.len())),
            "{code}"
        ),
        Ok(commands) => {
            let texts = document.expect("what is read is a document of commands");
            assert_eq!(commands.len(), texts.len());
            for (text, command) in texts.iter().zip(&commands) {
                // A command may span lines in a document; JSON's line ends stand between its tokens only.
                let line = text.get().replace(['\n', '\r'], " ");
                assert_eq!(read(line.as_bytes(), true), Ok(vec![command.clone()]), "as a line: {line}");
                as_the_single_call(line.as_bytes(), command, &unseal);
            }
        }
    }
}

/// The lines that are JSON are the same commands in a document.
fn in_a_document(lines: &[&[u8]], commands: &[ReadCommand], read: &ReadBatch<'_>) {
    let sound: Vec<_> =
        lines.iter().zip(commands).filter(|(line, _)| serde_json::from_slice::<Box<RawValue>>(line).is_ok()).collect();
    if sound.is_empty() {
        return;
    }
    let texts: Vec<&[u8]> = sound.iter().map(|(line, _)| **line).collect();
    let document = [&b"{\"commands\":["[..], &texts.join(&b','), &b"]}"[..]].concat();
    let expected: Vec<ReadCommand> = sound.iter().map(|(_, command)| (*command).clone()).collect();
    assert_eq!(read(&document, false), Ok(expected), "{:?}", String::from_utf8_lossy(&document));
}

/// A command that is taken says what the single call would have made of the same values.
fn as_the_single_call(text: &[u8], command: &ReadCommand, unseal: &dyn Fn(&str) -> Option<ReservationId>) {
    let Ok((command, key)) = command else { return };
    let Object(fields) = serde_json::from_slice(text).expect("what is taken is a JSON object");
    let field = |name: &str| fields.iter().find(|(given, _)| given == name).map(|(_, raw)| raw.get());
    let string = |name: &str| field(name).and_then(|raw| serde_json::from_str::<Option<String>>(raw).ok().flatten());
    let body = |names: &[&str]| {
        let given: Vec<String> = names.iter().filter_map(|name| field(name).map(|raw| format!("\"{name}\":{raw}"))).collect();
        format!("{{{}}}", given.join(",")).into_bytes()
    };
    assert_eq!(key.as_ref().map(IdempotencyKey::as_str), string("idempotency_key").as_deref());
    let id = string("id").and_then(|id| unseal(&id));
    let settled = |reservation: &ReservationId, quantity: &Option<Quantity>| {
        assert_eq!((Some(*reservation), fuzzing::units(&body(&["quantity"]))), (id, Ok(*quantity)));
    };
    match (string("op").as_deref(), command) {
        (Some("reserve"), Command::Reserve { sku, user, quantity, hold_seconds, reference }) => {
            let single = fuzzing::reserve(&body(&["user", "quantity", "hold_seconds", "reference"]));
            assert_eq!(single, Ok((user.clone(), *quantity, *hold_seconds, reference.clone())));
            assert_eq!(Some(sku), string("sku").and_then(|sku| Sku::new(&sku).ok()).as_ref());
        }
        (Some("confirm"), Command::Confirm { reservation, quantity })
        | (Some("release"), Command::Release { reservation, quantity })
        | (Some("return"), Command::Return { reservation, quantity }) => settled(reservation, quantity),
        (Some("extend"), Command::Extend { reservation, hold_seconds }) => {
            let single: fuzzing::Read<HoldSeconds> = fuzzing::extension(&body(&["hold_seconds"]));
            assert_eq!((Some(*reservation), single), (id, Ok(*hold_seconds)));
        }
        (op, command) => panic!("{op:?} is read as {command:?}"),
    }
}

/// The commands of a document by a second reading: one field, `commands`, which is an array.
fn documented(body: &[u8]) -> Option<Vec<Box<RawValue>>> {
    let Object(fields) = serde_json::from_slice(body).ok()?;
    match &fields[..] {
        [(name, commands)] if name == "commands" => serde_json::from_str(commands.get()).ok(),
        _ => None,
    }
}
