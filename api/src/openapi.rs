//! The contract as an `OpenAPI` 3.1 document, made from the routes, their operations, and the structs that bodies are read into and answers
//! are written from. The door of schemars.

use std::sync::LazyLock;

use bytes::Bytes;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::labels::{Need, Route};
use crate::operations::{LINKS, METHODS, Operation};
use crate::problem::Document;
use crate::schema::{ConsistencyName, CursorText, Identifier, Opaque, PageLimit, ReservationIdText, ReservationStateName};
use crate::status::{Code, RESERVED_CODES};

/// The document, as it is served.
pub(crate) static OPENAPI: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec_pretty(&document()).expect("a JSON value always serialises").into());

const DESCRIPTION: &str = "The stock authority of a flash sale: it decides, in order, who gets the last unit. \
    Every answer carries x-request-id. Every GET answers HEAD too. Errors are problems (RFC 9457) with a stable code; of them only \
    timeout, outcome_unknown and internal may have happened: ask again with the same idempotency key. Every other error changed \
    nothing. Codes that x-codes calls reserved are not answered yet, and clients should know them. A 2xx answer to a change means that it is durable at the configured level. A path that is not here is answered 404 \
    not_found, a method that a path does not know 405 method_not_allowed with the header allow.";

/// Makes the document.
pub(crate) fn document() -> Value {
    let settings = |settings: SchemaSettings| {
        settings.with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
    };
    let mut asked = settings(SchemaSettings::draft2020_12().for_deserialize()).into_generator();
    let mut answered = settings(SchemaSettings::draft2020_12().for_serialize()).into_generator();
    let problem = answered.subschema_for::<Document<'_>>().to_value();

    let mut paths = Map::new();
    for route in Route::ALL {
        let mut calls = Map::new();
        for method in METHODS {
            let (Some(need), Some(operation)) = (route.need(&method), Operation::of(route, &method)) else { continue };
            let mut call = Map::new();
            call.insert("operationId".to_owned(), operation.id.into());
            call.insert("tags".to_owned(), json!([operation.tag]));
            call.insert("summary".to_owned(), operation.summary.into());
            call.insert("description".to_owned(), operation.description.into());
            call.insert("security".to_owned(), security(need));
            call.insert("parameters".to_owned(), parameters(route, &method, &operation, &mut asked));
            if let Some(body) = &operation.body {
                let forms = body.forms.iter().map(|(media_type, schema, example)| {
                    let example = serde_json::from_str(example).unwrap_or_else(|_| Value::from(*example));
                    ((*media_type).to_owned(), json!({ "schema": schema(&mut asked), "example": example }))
                });
                let content: Map<String, Value> = forms.collect();
                call.insert("requestBody".to_owned(), json!({ "required": body.is_needed, "content": content }));
            }
            call.insert("responses".to_owned(), responses(&operation, &problem, &mut answered));
            calls.insert(method.as_str().to_ascii_lowercase(), call.into());
        }
        if !calls.is_empty() {
            paths.insert(route.path().to_owned(), calls.into());
        }
    }

    let mut schemas = asked.take_definitions(true);
    schemas.extend(answered.take_definitions(true));
    let codes =
        Code::ALL.iter().map(|code| (code.name().to_owned(), json!({ "status": code.status().as_u16(), "title": code.title() })));
    let reserved = RESERVED_CODES
        .iter()
        .map(|(name, status, title)| ((*name).to_owned(), json!({ "status": status, "title": title, "reserved": true })));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "tags": [
            { "name": "Stocks", "description": "What is for sale: opening, settings, life." },
            { "name": "Reservations", "description": "Who holds what, who has paid, and what came back." },
            { "name": "Batch", "description": "Many commands in one request." },
            { "name": "Change feed", "description": "Every committed change, in order." },
            { "name": "Service", "description": "The node itself." },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": header_parameters(),
            "headers": headers(),
            "examples": Code::ALL.into_iter().map(problem_example).collect::<Map<_, _>>(),
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key with the role that the call names: read, frontend, operator or admin. Every role may \
                        read, and an admin may do everything. A node without configured keys listens on loopback only and needs none.",
                },
            },
        },
        "x-codes": codes.chain(reserved).collect::<Map<_, _>>(),
    })
}

fn security(need: Need) -> Value {
    match need {
        Need::Nothing => json!([]),
        Need::Role(role) => json!([{ "apiKey": [role.word()] }]),
    }
}

fn parameters(route: Route, method: &http::Method, operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut parameters = Vec::new();
    if route.path().contains("{sku}") {
        let schema = generator.subschema_for::<Identifier>();
        parameters.push(json!({ "name": "sku", "in": "path", "required": true, "description": "The product.", "schema": schema }));
    }
    if route.path().contains("{id}") {
        let schema = generator.subschema_for::<ReservationIdText>();
        let description = "The reservation's id. One that was never given is unknown_reservation.";
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "description": description, "schema": schema }));
    }
    for name in route.parameters(method).unwrap_or_default() {
        let (schema, description) = match *name {
            "limit" => (generator.subschema_for::<PageLimit>(), "Most entries of the page."),
            "cursor" => (generator.subschema_for::<CursorText>(), "The next_cursor of the page before, of this very list."),
            "after" => (
                generator.subschema_for::<CursorText>(),
                "The cursor behind which the feed goes on. By default the oldest retained.",
            ),
            "user" => (generator.subschema_for::<Identifier>(), "Only those of this user."),
            "feed" => (
                generator.subschema_for::<bool>(),
                "Whether the changes that the feed still has are copied too, as they are by default.",
            ),
            "consistency" => (
                generator.subschema_for::<ConsistencyName>(),
                "In a cluster: linearizable shows whatever was answered before, stale what this node has, as of the position that it \
                 shows.",
            ),
            "state" => (generator.subschema_for::<ReservationStateName>(), "Only those in this state."),
            _ => (generator.subschema_for::<Opaque>(), ""),
        };
        parameters.push(json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema }));
    }
    let headers = [
        (operation.takes_key, "idempotency-key"),
        (operation.takes_if_match, "if-match"),
        (operation.takes_last_event, "last-event-id"),
        (true, "x-request-id"),
        (true, "traceparent"),
    ];
    for (_, name) in headers.into_iter().filter(|(is_taken, _)| *is_taken) {
        parameters.push(json!({ "$ref": format!("#/components/parameters/{name}") }));
    }
    parameters.into()
}

fn responses(operation: &Operation, problem: &Value, generator: &mut SchemaGenerator) -> Value {
    let header = |name: &str| (name.to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
    let mut responses = Map::new();
    for answer in &operation.answers {
        let forms = answer.forms.iter().map(|(media_type, schema, example)| {
            let mut form = Map::new();
            form.insert("schema".to_owned(), schema(generator).to_value());
            if let Some(example) = example {
                form.insert("example".to_owned(), serde_json::from_str(example).unwrap_or_else(|_| Value::from(*example)));
            }
            ((*media_type).to_owned(), Value::from(form))
        });
        let content: Map<String, Value> = forms.collect();
        let headers: Map<String, Value> = answer.headers.iter().chain(&["x-request-id"]).map(|name| header(name)).collect();
        let mut response = json!({ "description": answer.description, "headers": headers, "content": content });
        let links = links(operation.id, answer.status);
        if !links.is_empty() {
            response["links"] = links.into();
        }
        responses.insert(answer.status.as_str().to_owned(), response);
    }
    let mut statuses: Vec<_> = operation.codes().iter().map(|code| code.status()).collect();
    statuses.dedup();
    for status in statuses {
        let codes: Vec<&Code> = operation.codes().iter().filter(|code| code.status() == status).collect();
        let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
        let example = |code: &&Code| (code.name().to_owned(), json!({ "$ref": format!("#/components/examples/{}", code.name()) }));
        let examples: Map<String, Value> = codes.iter().map(example).collect();
        let mut headers = Map::from_iter([header("x-request-id")]);
        if codes.iter().any(|code| code.retry_after_seconds().is_some()) {
            headers.extend([header("retry-after")]);
        }
        if codes.contains(&&Code::Unauthenticated) {
            headers.extend([header("www-authenticate")]);
        }
        let schema = json!({ "allOf": [problem, { "properties": { "code": { "enum": names } } }] });
        let response = json!({
            "description": names.join(", "),
            "headers": headers,
            "content": { "application/problem+json": { "schema": schema, "examples": examples } },
        });
        responses.insert(status.as_str().to_owned(), response);
    }
    responses.into()
}

/// Where the answer `status` of the call `id` leads.
fn links(id: &str, status: http::StatusCode) -> Map<String, Value> {
    let from_here = LINKS.iter().filter(|link| link.from == (id, status));
    let links = from_here.flat_map(|link| link.to.iter().map(move |to| (link, to)));
    links
        .map(|(link, to)| {
            let mut parameters = Map::new();
            parameters.insert(link.parameter.to_owned(), link.value.into());
            ((*to).to_owned(), json!({ "operationId": to, "parameters": parameters }))
        })
        .collect()
}

fn problem_example(code: Code) -> (String, Value) {
    let value = json!({
        "type": code.uri(),
        "title": code.title(),
        "status": code.status().as_u16(),
        "detail": "What is wrong with this request, in words and numbers",
        "code": code.name(),
    });
    (code.name().to_owned(), json!({ "summary": code.title(), "value": value }))
}

fn header_parameters() -> Value {
    let identifier = identifier_schema();
    json!({
        "idempotency-key": {
            "name": "idempotency-key",
            "in": "header",
            "required": false,
            "description": "The caller's name for this attempt, in one name space per sku. A call with a known key, the same operation and \
                the same values answers the first call's status with the subject as it stands now, and idempotency-replayed: true; with \
                other values it is idempotency_key_reused. Only what changed something is remembered.",
            "schema": identifier,
        },
        "if-match": {
            "name": "if-match",
            "in": "header",
            "required": false,
            "description": "Entity tags, of which the stock's must be one; * for any. Weak tags never match.",
            "schema": { "type": "string" },
        },
        "last-event-id": {
            "name": "last-event-id",
            "in": "header",
            "required": false,
            "description": "Where the reader of an event stream goes on: the id of the last event that it has. It counts before after, and \
                only for a stream.",
            "schema": { "type": "string" },
        },
        "x-request-id": {
            "name": "x-request-id",
            "in": "header",
            "required": false,
            "description": "The request's own name, which the answer repeats; one that is not 1 to 128 visible ASCII characters counts as \
                none, and the answer has a new one.",
            "schema": { "type": "string" },
        },
        "traceparent": {
            "name": "traceparent",
            "in": "header",
            "required": false,
            "description": "The caller's place in a trace (W3C Trace Context), which is continued.",
            "schema": { "type": "string" },
        },
    })
}

fn headers() -> Value {
    json!({
        "x-request-id": { "description": "The request's own id, or a new one.", "required": true, "schema": { "type": "string" } },
        "location": { "description": "Where what was made can be read.", "schema": { "type": "string" } },
        "etag": { "description": "Changes with settings and life, not with every sale.", "schema": { "type": "string" } },
        "idempotency-replayed": {
            "description": "There when the call repeats an earlier one with the same key. In a cluster that may be one of its own: the node that was asked asks again where whoever decided does not answer any more.",
            "schema": { "type": "string", "const": "true" },
        },
        "retry-after": { "description": "Seconds after which the same request may fare better.", "schema": { "type": "integer" } },
        "www-authenticate": { "description": "How to bring a key.", "schema": { "type": "string", "const": "Bearer" } },
    })
}

fn identifier_schema() -> Value {
    SchemaGenerator::default().subschema_for::<Identifier>().to_value()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn every_call_that_a_route_knows_is_an_operation_and_no_other() {
        let document = document();
        let methods = [METHODS.to_vec(), vec![Method::DELETE, Method::OPTIONS, Method::TRACE, Method::CONNECT]].concat();
        for route in Route::ALL {
            for method in &methods {
                let is_known = route.need(method).is_some();
                let call = &document["paths"][route.path()][method.as_str().to_ascii_lowercase()];
                assert_eq!(call.is_object(), is_known, "{method} {}", route.path());
            }
            let answers_head = route.need(&Method::HEAD);
            assert_eq!(answers_head, route.need(&Method::GET), "{}", route.path());
        }
    }

    #[test]
    fn every_operation_has_its_own_name_and_says_what_it_answers() {
        let mut names = Vec::new();
        for route in Route::ALL {
            for operation in METHODS.iter().filter_map(|method| Operation::of(route, method)) {
                assert!(operation.answers.iter().all(|answer| answer.status.is_success()), "{}", operation.id);
                assert!(!operation.answers.is_empty(), "{}", operation.id);
                assert!(!names.contains(&operation.id), "{}", operation.id);
                names.push(operation.id);
            }
        }
        assert!(!names.is_empty());
    }
}
