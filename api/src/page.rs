//! The contract as one page of HTML, made from its document. It asks nothing of the network and works without scripts.

use std::fmt::Write;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::Value;

use crate::openapi;

/// The page, as it is served.
pub(crate) static PAGE: LazyLock<Bytes> = LazyLock::new(|| page(&openapi::document()).into());

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #0a7a6a; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem 1.5rem 6rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 2px solid var(--accent); }
section.call { margin: 2rem 0; border: 1px solid var(--line); border-radius: 6px; padding: 0 1rem 1rem; }
h3 code { font-size: 1rem; } .method { color: var(--accent); font-weight: 700; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top; }
pre { background: var(--soft); border-radius: 6px; padding: .8rem; overflow-x: auto; font-size: .85rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; } nav ul { columns: 2; padding-left: 1.2rem; }
.role { float: right; font-size: .85rem; opacity: .75; margin-top: 1.2rem; }
";

fn page(document: &Value) -> String {
    let mut html = String::with_capacity(128 * 1024);
    let (title, version) = (text(&document["info"]["title"]), text(&document["info"]["version"]));
    html.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    put(&mut html, format_args!("<title>{title} {version}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"));
    put(
        &mut html,
        format_args!(
            "<h1>{title}</h1>\n<p>Contract of version {version}. The same for programs: <a href=\"/openapi.json\">/openapi.json</a>.</p>\n"
        ),
    );
    put(&mut html, format_args!("<p>{}</p>\n", text(&document["info"]["description"])));

    let tags = entries(&document["tags"]).filter(|tag| calls(document, &tag["name"]).next().is_some()).collect::<Vec<_>>();
    html.push_str("<nav>\n");
    for tag in &tags {
        put(&mut html, format_args!("<h4>{}</h4>\n<ul>\n", text(&tag["name"])));
        for (method, path, call) in calls(document, &tag["name"]) {
            let id = text(&call["operationId"]);
            put(&mut html, format_args!("<li><a href=\"#{id}\"><code>{} {}</code></a></li>\n", shown(&method), shown(path)));
        }
        html.push_str("</ul>\n");
    }
    html.push_str("</nav>\n");
    for tag in &tags {
        put(&mut html, format_args!("<h2>{}</h2>\n<p>{}</p>\n", text(&tag["name"]), text(&tag["description"])));
        for (method, path, call) in calls(document, &tag["name"]) {
            put_call(&mut html, document, &method, path, call);
        }
    }
    put_schemas(&mut html, document);
    put_codes(&mut html, document);
    html.push_str("</body>\n</html>\n");
    html
}

/// The calls with a tag: method, path, operation.
fn calls<'a>(document: &'a Value, tag: &'a Value) -> impl Iterator<Item = (String, &'a str, &'a Value)> {
    let paths = fields(&document["paths"]);
    let all = paths.flat_map(|(path, calls)| fields(calls).map(move |(method, call)| (method.to_ascii_uppercase(), path, call)));
    all.filter(move |(_, _, call)| entries(&call["tags"]).any(|given| given == tag))
}

fn put_call(html: &mut String, document: &Value, method: &str, path: &str, call: &Value) {
    put(html, format_args!("<section class=\"call\" id=\"{}\">\n", text(&call["operationId"])));
    let role = entries(&call["security"]).flat_map(|need| entries(&need["apiKey"])).next();
    let role = role.map_or_else(|| "no key needed".to_owned(), |role| format!("role {}", text(role)));
    put(html, format_args!("<span class=\"role\">{role}</span>\n"));
    put(html, format_args!("<h3><code><span class=\"method\">{}</span> {}</code></h3>\n", shown(method), shown(path)));
    put(html, format_args!("<p><strong>{}.</strong> {}</p>\n", text(&call["summary"]), text(&call["description"])));
    html.push_str("<table>\n<tr><th>parameter</th><th>in</th><th>value</th><th></th></tr>\n");
    for parameter in entries(&call["parameters"]) {
        let parameter = followed(document, parameter);
        put(
            html,
            format_args!(
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                text(&parameter["name"]),
                text(&parameter["in"]),
                form(&parameter["schema"]),
                text(&parameter["description"]),
            ),
        );
    }
    html.push_str("</table>\n");
    for (media_type, body) in fields(&call["requestBody"]["content"]) {
        let needed = if call["requestBody"]["required"] == true { "" } else { ", optional" };
        put(html, format_args!("<p>Body, <code>{}</code>{needed}: {}</p>\n", shown(media_type), form(&body["schema"])));
        put_example(html, &body["example"]);
    }
    html.push_str("<table>\n<tr><th>status</th><th>answer</th><th>headers</th></tr>\n");
    for (status, response) in fields(&call["responses"]) {
        let headers: Vec<String> = fields(&response["headers"]).map(|(name, _)| shown(name)).collect();
        let forms: Vec<String> = fields(&response["content"])
            .filter(|(media_type, _)| *media_type != "application/problem+json")
            .map(|(media_type, content)| format!("<code>{}</code> {}", shown(media_type), form(&content["schema"])))
            .collect();
        put(
            html,
            format_args!(
                "<tr><td>{}</td><td>{} {}</td><td>{}</td></tr>\n",
                shown(status),
                text(&response["description"]),
                forms.join(", "),
                headers.join(", "),
            ),
        );
    }
    html.push_str("</table>\n");
    for (_, response) in fields(&call["responses"]) {
        for (_, content) in fields(&response["content"]) {
            put_example(html, &content["example"]);
        }
    }
    html.push_str("</section>\n");
}

fn put_example(html: &mut String, example: &Value) {
    if !example.is_null() {
        let example = serde_json::to_string_pretty(example).unwrap_or_default();
        put(html, format_args!("<pre>{}</pre>\n", shown(&example)));
    }
}

fn put_schemas(html: &mut String, document: &Value) {
    html.push_str("<h2>Documents</h2>\n");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        put(
            html,
            format_args!(
                "<section class=\"call\" id=\"schema-{0}\">\n<h3>{0}</h3>\n<p>{1}</p>\n",
                shown(name),
                text(&schema["description"])
            ),
        );
        put_properties(html, schema);
        for kind in ["oneOf", "anyOf"] {
            for choice in entries(&schema[kind]) {
                put(html, format_args!("<p><strong>{}</strong> {}</p>\n", text(&choice["title"]), text(&choice["description"])));
                put_properties(html, choice);
            }
        }
        html.push_str("</section>\n");
    }
}

fn put_properties(html: &mut String, schema: &Value) {
    if fields(&schema["properties"]).next().is_none() {
        return;
    }
    html.push_str("<table>\n<tr><th>field</th><th>value</th><th></th></tr>\n");
    for (name, property) in fields(&schema["properties"]) {
        let is_needed = entries(&schema["required"]).any(|needed| needed == name);
        put(
            html,
            format_args!(
                "<tr><td><code>{}</code></td><td>{}{}</td><td>{}</td></tr>\n",
                shown(name),
                form(property),
                if is_needed { "" } else { ", optional" },
                text(&property["description"]),
            ),
        );
    }
    html.push_str("</table>\n");
}

fn put_codes(html: &mut String, document: &Value) {
    html.push_str("<h2>Codes</h2>\n<table>\n<tr><th>code</th><th>status</th><th></th></tr>\n");
    for (name, code) in fields(&document["x-codes"]) {
        put(
            html,
            format_args!(
                "<tr><td><code>{}</code></td><td>{}</td><td>{}{}</td></tr>\n",
                shown(name),
                code["status"],
                text(&code["title"]),
                if code["reserved"] == true { " (reserved)" } else { "" },
            ),
        );
    }
    html.push_str("</table>\n");
}

/// A schema in few words.
fn form(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", shown(name));
    }
    let mut words = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one),
    };
    if schema["type"] == "array" {
        put(&mut words, format_args!(" of {}", form(&schema["items"])));
    }
    let choices: Vec<String> = entries(&schema["enum"]).map(|choice| format!("<code>{}</code>", plain(choice))).collect();
    if !choices.is_empty() {
        put(&mut words, format_args!(": {}", choices.join(" ")));
    }
    let limits = [
        ("minimum", "from"),
        ("maximum", "to"),
        ("minLength", "characters from"),
        ("maxLength", "to"),
        ("minItems", "from"),
        ("maxItems", "to"),
        ("default", "by default"),
        ("const", "always"),
        ("format", "as"),
    ];
    for (name, word) in limits {
        if !schema[name].is_null() {
            put(&mut words, format_args!(" {word} {}", plain(&schema[name])));
        }
    }
    words
}

/// What a reference inside the document stands for.
fn followed<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text for the page, with what stands between backticks as code; nothing where there is none.
fn text(value: &Value) -> String {
    let mut text = String::new();
    for (place, part) in value.as_str().unwrap_or_default().split('`').enumerate() {
        let part = shown(part);
        if place % 2 == 1 { put(&mut text, format_args!("<code>{part}</code>")) } else { text.push_str(&part) }
    }
    text
}

/// A value for the page.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| shown(&value.to_string()), shown)
}

fn shown(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("a text takes every text");
}
