//! The committed contract, held against what is really answered: a status, a code or a field that it does not know fails the test that
//! meets it.

use std::sync::LazyLock;

use serde_json::Value;

use super::Reply;

/// Where the contract is committed.
pub const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

static CONTRACT: LazyLock<Value> = LazyLock::new(|| {
    let text = std::fs::read_to_string(SNAPSHOT).expect("the contract is committed; TIDEGATE_WRITE_SNAPSHOT=1 writes it");
    serde_json::from_str(&text).expect("the contract is JSON")
});

/// The operation that answers `method` on `path`, a query included, if the contract knows one.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (mut given, mut known) = (path.split('/'), template.split('/'));
        loop {
            match (given.next(), known.next()) {
                (None, None) => return true,
                (Some(given), Some(known)) if given == known || (known.starts_with('{') && !given.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let (_, calls) = CONTRACT["paths"].as_object()?.iter().find(|(template, _)| fits(template))?;
    calls.get(&method)
}

/// Checks that the contract foresees this answer.
#[track_caller]
pub fn expect_foreseen(method: &str, path: &str, reply: &Reply) {
    let Some(operation) = operation(method, path) else {
        assert!(matches!(reply.status, 400 | 401 | 404 | 405), "a call that is in no contract: {method} {path} {reply:?}");
        return;
    };
    let foreseen = &operation["responses"][reply.status.to_string()];
    assert!(foreseen.is_object(), "{method} {path} is not to answer {}: {reply:?}", reply.status);
    for name in ["etag", "location", "idempotency-replayed", "retry-after", "www-authenticate"] {
        let (is_there, is_foreseen) = (reply.header(name).is_some(), foreseen["headers"][name].is_object());
        assert!(!is_there || is_foreseen, "{method} {path} is not to send {name}: {reply:?}");
    }
    if method == "HEAD" {
        return;
    }
    let media_type = reply.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    if media_type == "application/openmetrics-text" {
        return;
    }
    let content = &foreseen["content"][media_type];
    assert!(content.is_object(), "{method} {path} is not to answer in {media_type:?}: {reply:?}");
    if media_type == "application/problem+json" {
        let code = &reply.json()["code"];
        let codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"].as_array().expect("the codes are listed");
        assert!(codes.contains(code), "{method} {path} is not to answer {code}: {reply:?}");
    } else if media_type == "application/json" {
        expect_fields(&content["schema"], &reply.json());
    }
}

/// Checks that an object has the fields of its schema: all that are required, and none besides.
#[track_caller]
fn expect_fields(schema: &Value, given: &Value) {
    let pointer = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    let schema = pointer.map_or(schema, |pointer| CONTRACT.pointer(pointer).expect("a reference leads somewhere"));
    let (Some(known), Some(given)) = (schema["properties"].as_object(), given.as_object()) else { return };
    for (name, value) in given {
        let schema = known.get(name).unwrap_or_else(|| panic!("the field {name} is in no contract: {given:?}"));
        match value {
            Value::Array(values) => values.iter().for_each(|value| expect_fields(&schema["items"], value)),
            value => expect_fields(schema, value),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(given.contains_key(name), "the field {name} is missing: {given:?}");
    }
}
