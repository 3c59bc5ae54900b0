//! The span of a request: its place in its caller's trace (W3C Trace Context), what is said of it, and the trace's id for the log. The
//! door of opentelemetry in this room.
//!
//! A span is made only where somebody takes it: a log at `debug`, or an export of traces. Whether it is exported is not known here.

use http::{HeaderMap, HeaderName, Method, StatusCode};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TraceId};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing::field::{Empty, display};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::labels::Route;

/// The target of the one span that the door makes for each request: what an export of traces lets through.
pub const REQUEST_SPAN_TARGET: &str = "tidegate_api::request";

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request's span.
pub(crate) struct RequestSpan {
    span: Span,
    method: Option<Method>,
    trace: Option<TraceId>,
}

impl RequestSpan {
    /// Begins it, as the child of the caller's span if the request names one. Where nobody takes spans, this costs one look.
    pub(crate) fn begin(method: &Method, headers: &HeaderMap) -> Self {
        let span = tracing::debug_span!(
            target: REQUEST_SPAN_TARGET,
            "request",
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = %method,
            http.route = Empty,
            http.response.status_code = Empty,
            trace_id = Empty,
        );
        if span.is_disabled() {
            return Self { span, method: None, trace: None };
        }
        let caller = caller(headers);
        let given = caller.as_ref().map(|caller| caller.span().span_context().trace_id());
        // An error means that there is a log and no export, or that the export took no interest.
        let _ = caller.map(|caller| span.set_parent(caller));
        let begun = span.context().span().span_context().trace_id();
        let trace = if begun == TraceId::INVALID { given } else { Some(begun) };
        if let Some(trace) = trace {
            span.record("trace_id", display(trace));
        }
        Self { span, method: Some(method.clone()), trace }
    }

    /// The span itself, to run the request in.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// The trace's id as a field of an event; nothing where there is no span or no trace.
    pub(crate) fn trace_id(&self) -> Option<impl tracing::Value + use<>> {
        self.trace.map(display)
    }

    /// Says what came of the request. The span ends when this is dropped.
    pub(crate) fn answered(&self, route: Route, status: StatusCode) {
        let Some(method) = &self.method else { return };
        let name = match route {
            // Its path is no name: there are as many as callers can think of.
            Route::Unmatched => method.to_string(),
            route => format!("{method} {}", route.path()),
        };
        self.span.context().span().update_name(name);
        if route != Route::Unmatched {
            self.span.record("http.route", route.path());
        }
        self.span.record("http.response.status_code", i64::from(status.as_u16()));
        // What the caller got wrong is no error of this service.
        if status.is_server_error() {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// The span of the caller, if its `traceparent` is valid.
fn caller(headers: &HeaderMap) -> Option<Context> {
    is_valid(headers.get(TRACEPARENT)?.to_str().ok()?)
        .then(|| TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers)))
}

/// Whether a `traceparent` is one (W3C Trace Context, version 00 and what later versions keep of it). The propagator itself takes shorter
/// fields too.
fn is_valid(traceparent: &str) -> bool {
    let mut fields = traceparent.split('-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    let is_hex = |field: &str, length: usize| {
        field.len() == length && field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && !is_zero(trace)
        && is_hex(parent, 16)
        && !is_zero(parent)
        && is_hex(flags, 2)
        && (version != "00" || fields.next().is_none())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check_caller(text: &str, expect: Option<(&str, &str, bool)>) {
        let headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(text).unwrap())]);
        let caller = caller(&headers).map(|caller| {
            let span = caller.span().span_context().clone();
            assert!(span.is_remote(), "{text}");
            (span.trace_id().to_string(), span.span_id().to_string(), span.is_sampled())
        });
        assert_eq!(caller, expect.map(|(trace, span, is_sampled)| (trace.to_owned(), span.to_owned(), is_sampled)), "{text}");
    }

    #[test]
    fn a_valid_traceparent_names_the_caller_and_another_nobody() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        check_caller("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some((trace, span, true)));
        check_caller("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some((trace, span, false)));
        check_caller("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", Some((trace, span, true)));
        check_caller("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None);
        check_caller("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        check_caller("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check_caller("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None);
        check_caller("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None);
        check_caller("00-4bf92f3577b34da6-00f067aa0ba902b7-01", None);
        check_caller("nonsense", None);
    }
}
