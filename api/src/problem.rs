//! Problems: how a request that did not get what it asked for is told so (RFC 9457, and a stable code beside it).

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_engine::{Failure, Refusal};
use tidegate_stock::Rejection;

use crate::bounds;
use crate::json;
use crate::schema::{CodeName, Opaque, StatusNumber};
use crate::status::Code;
use crate::time::Shown;

/// Names a request in answers and in the log.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Most of a client's own text that a detail repeats, in bytes.
const DETAIL_BYTES_MAX: usize = 512;

/// Room for a problem with a detail of common length.
const DOCUMENT_BYTES_TYPICAL: usize = 256;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A request that did not get what it asked for.
#[derive(Debug)]
pub(crate) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    closes: bool,
    cause: Option<Cause>,
}

/// What went wrong inside: for the log, never for the client.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub(crate) String);

/// Why a request did not get what it asked for (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Document<'a> {
    /// urn:tidegate:problem: and the code.
    #[schemars(with = "Opaque")]
    r#type: &'static str,
    /// The same for every problem with this code.
    #[schemars(with = "Opaque")]
    title: &'static str,
    /// The status of the answer.
    #[schemars(with = "StatusNumber")]
    status: u16,
    /// What is wrong with this request: the field, what was given, and what is needed.
    #[schemars(with = "Opaque")]
    detail: &'a str,
    /// For programs; it stays the same.
    #[schemars(with = "CodeName")]
    code: &'static str,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), closes: false, cause: None }
    }

    /// Malformed. Cuts `detail` where a client's own text makes it too long.
    pub(crate) fn invalid_request(detail: impl Into<Cow<'static, str>>) -> Self {
        let mut detail = detail.into();
        if detail.len() > DETAIL_BYTES_MAX {
            let end = detail.floor_char_boundary(DETAIL_BYTES_MAX);
            detail = format!("{}…", &detail[..end]).into();
        }
        Self::new(Code::InvalidRequest, detail)
    }

    /// The fault is ours. `cause` goes to the log.
    pub(crate) fn internal(cause: &dyn fmt::Display) -> Self {
        let detail = "the server could not answer; its log tells why, under this request's id";
        Self { cause: Some(Cause(cause.to_string())), ..Self::new(Code::Internal, detail) }
    }

    /// The HTTP machine could not read a header, for which it answers `status`.
    pub(crate) fn unreadable_header(status: &str, header_bytes_max: usize) -> Self {
        let problem = match status {
            "431" => {
                Self::invalid_request(format!("the header is longer than {header_bytes_max} bytes or has more than 100 fields"))
            }
            "414" => Self::invalid_request("the request's target is too long"),
            _ => Self::invalid_request("the header is not that of an HTTP/1.1 request"),
        };
        problem.closing()
    }

    /// Its code.
    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// What is told people.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The connection does not outlive the answer.
    #[must_use]
    pub(crate) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    fn document(&self) -> Vec<u8> {
        let document = Document {
            r#type: self.code.uri(),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.name(),
        };
        let mut bytes = Vec::with_capacity(DOCUMENT_BYTES_TYPICAL);
        json::append(&mut bytes, &document).expect("texts and a number always serialise");
        bytes
    }

    /// As a stream that it ends says it. What went wrong inside goes to the log.
    pub(crate) fn into_text(self) -> String {
        if let Some(Cause(cause)) = &self.cause {
            tracing::error!(cause, "an event stream failed inside");
        }
        String::from_utf8(self.document()).expect("JSON is UTF-8")
    }

    /// A whole answer as it goes over the wire, after which the connection closes.
    pub(crate) fn into_bytes(self, request_id: &HeaderValue) -> Vec<u8> {
        let document = self.document();
        let mut bytes = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n{X_REQUEST_ID}: ",
            self.code.status(),
            document.len(),
        )
        .into_bytes();
        bytes.extend_from_slice(request_id.as_bytes());
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(&document);
        bytes
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(Bytes::from(self.document())));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.code.retry_after_seconds() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.closes || self.code == Code::Stopping {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self.code);
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.into(), refusal.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::new(failure.into(), Told(failure).to_string())
    }
}

/// A failure in words for callers, with moments as they are shown everywhere.
pub(crate) struct Told(pub(crate) Failure);

impl fmt::Display for Told {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Failure::Rejection(Rejection::NotOpen { opens_at }) => {
                write!(formatter, "the sale of this stock opens at {}", Shown(opens_at))
            }
            Failure::Rejection(Rejection::ExtendOverMax { asked, max }) => {
                write!(formatter, "the hold would end at {} where the stock allows at most {}", Shown(asked), Shown(max))
            }
            Failure::Rejection(Rejection::TermsContradict(error)) => formatter.write_str(&bounds::contradiction(error)),
            other => other.fmt(formatter),
        }
    }
}
