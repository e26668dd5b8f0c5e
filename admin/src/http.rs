//! Plain HTTP beside gRPC: health for everybody, numbers for whoever may see
//! them.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flexfs_common::{Error, Kind, Result, http as mapping};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

use crate::grpc::auth::{self, Source};
use crate::service::Service;
use crate::service::metrics::Metrics;

/// The text format of Prometheus, which everything reads.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// All routes.
pub fn routes(service: Arc<Service>) -> Router {
    // Public: constant, no versions.
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(service)
}

async fn metrics(
    State(service): State<Arc<Service>>,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
) -> Response {
    match numbers(&service, &headers, source).await {
        Ok(metrics) => ([(CONTENT_TYPE, TEXT)], text(&metrics)).into_response(),
        Err(error) => refused(&error),
    }
}

async fn numbers(service: &Service, headers: &HeaderMap, source: Source) -> Result<Arc<Metrics>> {
    let caller = auth::caller(service, "/metrics", headers, Some(source.0)).await?;
    service.metrics(&caller).await
}

/// RFC 6750 section 3: who are you, and what went wrong.
fn refused(error: &Error) -> Response {
    let body = serde_json::json!({
        "code": error.code().name(),
        "error": mapping::http_status(error.code()).canonical_reason(),
        "message": error.message(),
        "hint": error.hint(),
    });
    let mut response = (mapping::http_status(error.code()), body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if error.kind() == Kind::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Exposition text: one line per number.
fn text(metrics: &Metrics) -> String {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, lines: Vec<(String, u64)>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let by_state = |count: &crate::store::tokens::Count| {
        (format!("{{kind=\"{}\",state=\"{}\"}}", count.kind.name(), count.state), count.tokens)
    };
    let by_kind = |count: &crate::store::tokens::Count, value: u64| {
        (format!("{{kind=\"{}\",state=\"{}\"}}", count.kind.name(), count.state), value)
    };
    let counts = &metrics.tokens;
    family("flexfs_tokens", "Tokens by kind and state.", counts.iter().map(by_state).collect());
    family(
        "flexfs_tokens_overdue",
        "Tokens whose newest secret is older than the age policy of their account.",
        counts.iter().map(|count| by_kind(count, count.overdue)).collect(),
    );
    family(
        "flexfs_tokens_expiring",
        "Tokens that end by themselves within 14 days.",
        counts.iter().map(|count| by_kind(count, count.expiring)).collect(),
    );
    family("flexfs_sessions", "Live mounts.", vec![(String::new(), metrics.sessions)]);
    out
}
