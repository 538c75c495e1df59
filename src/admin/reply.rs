//! Answers: JSON, and errors in one shape.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::jobs;
use crate::engine::operator::NotDone;
use crate::engine::switcher::NotSwitched;

/// An answer that says no: what is wrong, and the way out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    error: String,
    advice: String,
    /// Who is at it.
    job: Option<Value>,
}

pub(super) type Answer = Result<Response, Refusal>;

pub(super) fn ok(body: Value) -> Answer {
    Ok(told(StatusCode::OK, body))
}

pub(super) fn told(status: StatusCode, body: Value) -> Response {
    (status, Json(body)).into_response()
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { status, error: error.into(), advice: advice.into(), job: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error, "advice": self.advice });
        if let Some(job) = self.job {
            body["job"] = job;
        }
        let mut response = told(self.status, body);
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is left of the request is not read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<NotDone> for Refusal {
    fn from(reason: NotDone) -> Self {
        let (status, advice) = match &reason {
            NotDone::NoMappings | NotDone::NoMapping(_) => {
                (StatusCode::NOT_FOUND, "GET /admin/database/status lists the mappings")
            }
            NotDone::NoDeadLetter(_) => {
                (StatusCode::NOT_FOUND, "GET /admin/database/dead-letters lists those there are")
            }
            NotDone::Busy => (StatusCode::CONFLICT, "try again when that has ended"),
            NotDone::JobRuns(_) => (
                StatusCode::CONFLICT,
                "wait until it has ended (GET /admin/database/jobs), or POST /admin/database/jobs/ID/cancel",
            ),
            NotDone::NoJob(_) => {
                (StatusCode::NOT_FOUND, "GET /admin/database/jobs lists those there are")
            }
            NotDone::NotMoving(_) => (
                StatusCode::CONFLICT,
                "record its phase first (respgres phase set dual_write) and start all respgres anew, or name another mapping",
            ),
            NotDone::HasMigrated(_) => {
                (StatusCode::CONFLICT, "GET /admin/database/consistency-check compares both sides")
            }
            NotDone::NotSwept => (
                StatusCode::SERVICE_UNAVAILABLE,
                "try again when GET /admin/database/health says that Redis is believed",
            ),
            NotDone::NoThread(_) => (StatusCode::SERVICE_UNAVAILABLE, "look at its limits"),
            NotDone::NotRetried(_) => (
                StatusCode::CONFLICT,
                "change what Postgres objects to and retry it, or drop it; nothing was written",
            ),
            NotDone::NotSwitched(mapping, error) => {
                tracing::warn!(%error, mapping, "a strategy was not changed");
                let status = match **error {
                    NotSwitched::Store(_) | NotSwitched::InDoubt(_) | NotSwitched::Upstream(_) => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                    _ => StatusCode::CONFLICT,
                };
                (
                    status,
                    "GET /admin/database/status tells the strategy of each mapping; the log has more",
                )
            }
            NotDone::Store(error) => {
                tracing::info!(%error, "the admin API could not be served by Postgres");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "GET /admin/database/health tells how the stores are; the log has more",
                )
            }
            NotDone::Upstream(error) => {
                tracing::info!(%error, "the admin API could not be served by Redis");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "GET /admin/database/health tells how the stores are; the log has more",
                )
            }
        };
        let job = match &reason {
            NotDone::JobRuns(job) => Some(jobs::told(job, false)),
            _ => None,
        };
        Self { job, ..Self::new(status, reason.to_string(), advice) }
    }
}
