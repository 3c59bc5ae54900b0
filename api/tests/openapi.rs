//! The contract that is served: the same as the one that is committed, whole, and true.
//!
//! `TIDEGATE_WRITE_SNAPSHOT=1 cargo test -p tidegate-api --test openapi` writes the committed one anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::contract::SNAPSHOT;
use support::*;

const WRITE: &str = "TIDEGATE_WRITE_SNAPSHOT";

/// The document as it comes over the wire, past the check against the committed one, which may be the older.
async fn served(node: &Node) -> Reply {
    let mut client = node.client().await;
    client.send(request("GET", "/openapi.json", &[], "")).await;
    client.reply().await
}

#[tokio::test]
async fn the_served_contract_is_the_committed_one() {
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    let reply = served(&node).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    if std::env::var(WRITE).is_ok_and(|value| value == "1") {
        std::fs::write(SNAPSHOT, [&reply.body[..], b"\n"].concat()).unwrap();
    }
    let committed: Value = serde_json::from_slice(&std::fs::read(SNAPSHOT).unwrap()).unwrap();
    assert!(
        committed == reply.json(),
        "the contract has changed: look at the change, then run {WRITE}=1 cargo test -p tidegate-api --test openapi",
    );
}

#[tokio::test]
async fn every_path_knows_the_methods_of_the_contract_and_no_other() {
    let (node, _machine) = node().await;
    let document = served(&node).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 20, "{paths:?}");
    for (path, calls) in paths {
        let mut client = node.client().await;
        client.send(request("BREW", &path.replace("{sku}", "s").replace("{id}", "r"), &[], "")).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 405, "{path}");
        let allowed: BTreeSet<String> = reply.header("allow").unwrap().split(',').map(|method| method.trim().to_owned()).collect();
        let mut known: BTreeSet<String> = calls.as_object().unwrap().keys().map(|method| method.to_ascii_uppercase()).collect();
        if known.contains("GET") {
            known.insert("HEAD".to_owned());
        }
        assert_eq!(allowed, known, "{path}");
    }
}

#[tokio::test]
async fn every_reference_of_the_contract_leads_somewhere() {
    fn follow(document: &Value, value: &Value, followed: &mut usize) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref") {
                    let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    *followed += 1;
                }
                fields.values().for_each(|value| follow(document, value, followed));
            }
            Value::Array(values) => values.iter().for_each(|value| follow(document, value, followed)),
            _ => {}
        }
    }
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    let document = served(&node).await.json();
    let mut followed = 0;
    follow(&document, &document, &mut followed);
    assert!(followed > 100, "{followed}");
}

#[tokio::test]
async fn every_link_leads_to_a_call_that_takes_what_it_brings() {
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    let document = served(&node).await.json();
    let calls: Vec<&Value> =
        document["paths"].as_object().unwrap().values().flat_map(|calls| calls.as_object().unwrap().values()).collect();
    let mut links = 0;
    for response in calls.iter().flat_map(|call| call["responses"].as_object().unwrap().values()) {
        for link in response["links"].as_object().into_iter().flat_map(|links| links.values()) {
            let to = calls.iter().find(|call| call["operationId"] == link["operationId"]).unwrap_or_else(|| panic!("{link}"));
            for (name, value) in link["parameters"].as_object().unwrap() {
                let known = to["parameters"].as_array().unwrap();
                assert!(known.iter().any(|parameter| parameter["name"] == **name), "{link}");
                let field = value.as_str().unwrap().strip_prefix("$response.body#/").unwrap();
                let pointer = response["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
                let schema = document.pointer(pointer.strip_prefix('#').unwrap()).unwrap();
                assert!(schema["properties"][field].is_object(), "{link}");
            }
            links += 1;
        }
    }
    assert!(links >= 30, "{links}");
}

#[tokio::test]
async fn every_code_of_the_contract_is_some_calls() {
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    let document = served(&node).await.json();
    let mut of_calls = BTreeSet::new();
    for call in document["paths"].as_object().unwrap().values().flat_map(|calls| calls.as_object().unwrap().values()) {
        for response in call["responses"].as_object().unwrap().values() {
            let codes = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"];
            of_calls.extend(codes.as_array().into_iter().flatten().map(|code| code.as_str().unwrap().to_owned()));
        }
    }
    // These are told of paths and methods that are no calls.
    of_calls.extend(["not_found", "method_not_allowed"].map(ToOwned::to_owned));
    let (reserved, all): (Vec<_>, Vec<_>) =
        document["x-codes"].as_object().unwrap().iter().partition(|(_, code)| code["reserved"] == true);
    assert_eq!(of_calls, all.iter().map(|(name, _)| (*name).clone()).collect());
    let reserved: Vec<_> = reserved.iter().map(|(name, code)| (name.as_str(), code["status"].as_u64().unwrap())).collect();
    assert_eq!(reserved, [("rate_limited", 429)]);
    let names = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
    assert!(reserved.iter().all(|(name, _)| names.contains(&(*name).into())), "{names:?}");
}

#[tokio::test]
async fn the_contract_lists_what_calls_answer_and_look_at() {
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    let document = served(&node).await.json();
    let conflicts = |step: &str| {
        let response = &document["paths"][format!("/v1/stocks/{{sku}}/{step}")]["post"]["responses"]["409"];
        let codes = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"];
        codes.as_array().map(|codes| codes.iter().map(|code| code.as_str().unwrap()).collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!((conflicts("pause"), conflicts("reopen")), (vec!["closed"], vec!["closed"]));
    assert_eq!((conflicts("close"), conflicts("archive")), (vec![], vec!["stock_in_use"]));
    let parameters = document["paths"]["/v1/events"]["get"]["parameters"].as_array().unwrap();
    let last = serde_json::json!({"$ref": "#/components/parameters/last-event-id"});
    assert!(parameters.contains(&last), "{parameters:?}");
}

#[tokio::test]
async fn every_example_of_a_body_is_one_that_is_taken() {
    let (node, _machine) = node().await;
    let document = served(&node).await.json();
    let mut examples = 0;
    for (path, calls) in document["paths"].as_object().unwrap() {
        for (method, call) in calls.as_object().unwrap() {
            let Some(forms) = call["requestBody"]["content"].as_object() else { continue };
            for (media_type, form) in forms {
                let path = path.replace("{sku}", "sneaker-42").replace("{id}", "AQ4AAAABAAAAAAAAAAe1x0pF2sDq3Q");
                let body = form["example"].to_string();
                let reply = node.ask(&method.to_ascii_uppercase(), &path, &[("content-type", media_type)], &body).await;
                assert!(!matches!(reply.status, 400 | 413 | 415 | 422), "{method} {path} {body}: {reply:?}");
                examples += 1;
            }
        }
    }
    assert!(examples >= 12, "{examples}");
}

#[tokio::test]
async fn every_example_of_an_answer_has_the_fields_of_its_schema() {
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    let document = served(&node).await.json();
    let mut examples = 0;
    for call in document["paths"].as_object().unwrap().values().flat_map(|calls| calls.as_object().unwrap().values()) {
        for form in call["responses"].as_object().unwrap().values().map(|response| &response["content"]["application/json"]) {
            let Some(example) = form["example"].as_object() else { continue };
            let Some(pointer) = form["schema"]["$ref"].as_str().and_then(|path| path.strip_prefix('#')) else { continue };
            let schema = document.pointer(pointer).unwrap();
            let fields: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
            assert_eq!(example.keys().collect::<BTreeSet<_>>(), fields, "{pointer}");
            examples += 1;
        }
    }
    assert!(examples >= 15, "{examples}");
}

#[tokio::test]
async fn the_page_shows_every_call_and_asks_nothing_of_the_network() {
    let (node, _machine) = node().await;
    let reply = node.get("/docs").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let page = String::from_utf8(reply.body).unwrap();
    for banned in ["http://", "https://", "<script", "<img", "<link", "@import", "url(", "src="] {
        assert!(!page.contains(banned), "{banned}");
    }
    let document = served(&node).await.json();
    for (path, calls) in document["paths"].as_object().unwrap() {
        for (method, call) in calls.as_object().unwrap() {
            let id = call["operationId"].as_str().unwrap();
            assert!(page.contains(&format!("<section class=\"call\" id=\"{id}\">")), "{method} {path}");
        }
        assert!(page.contains(&format!("</span> {path}</code>")), "{path}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
    }
    // What links within the page finds its place.
    for link in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
    }
}

#[tokio::test]
async fn the_contract_can_be_read_while_the_node_recovers() {
    let node = shut_node(tidegate_api::HttpOptions::default()).await;
    assert_eq!(node.get("/docs").await.status, 200);
    assert_eq!(node.ask("HEAD", "/openapi.json", &[], "").await.status, 200);
}
