//! Who may ask, and how much they may send: seen to before any handler.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use super::reply::Refusal;
use super::{Shared, page};

/// What anybody may ask, beside the files of the page.
const OPEN: [&str; 2] = ["/live", "/ready"];

/// More than any request needs, and how long it may take to come.
const MOST_BYTES: usize = 16 << 10;
const BODY: Duration = Duration::from_secs(10);

pub(super) async fn guard(State(view): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_open = OPEN.contains(&path) || page::PATHS.contains(&path);
    if !is_open && let Some(refusal) = refusal(view.token.as_deref(), request.headers()) {
        return refusal.into_response();
    }
    let (head, body) = request.into_parts();
    let announced = head.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MOST_BYTES as u64) {
        return too_large().into_response();
    }
    let body = match timeout(BODY, to_bytes(body, MOST_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return too_large().into_response(),
        Err(_) => {
            let advice = "send it in one piece";
            let status = StatusCode::REQUEST_TIMEOUT;
            return Refusal::new(status, "the request did not come in time", advice)
                .into_response();
        }
    };
    next.run(Request::from_parts(head, Body::from(body))).await
}

fn refusal(token: Option<&str>, headers: &HeaderMap) -> Option<Refusal> {
    let no =
        |error: &str, advice: &str| Some(Refusal::new(StatusCode::UNAUTHORIZED, error, advice));
    let Some(token) = token else {
        return no(
            "the admin API has no token, so that it tells nothing but /live and /ready",
            "set admin.token in the configuration, or RESPGRES__ADMIN__TOKEN, and start respgres again",
        );
    };
    let advice = "send the configured admin.token as the header Authorization: Bearer TOKEN";
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return no("a token is needed", advice);
    };
    let given = given.as_bytes().split_at_checked(7);
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    // In a time that tells nothing but whether the lengths are equal.
    let is_good = given.is_some_and(|(_, given)| bool::from(given.ct_eq(token.as_bytes())));
    if is_good { None } else { no("this is not the token", advice) }
}

fn too_large() -> Refusal {
    let error = format!("the request has more than {MOST_BYTES} bytes, or has broken off");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error, "no request of this API needs so many")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let check = |token: Option<&str>, header: Option<&str>, opens: bool| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(header::AUTHORIZATION, header.parse().unwrap());
            }
            assert_eq!(refusal(token, &headers).is_none(), opens, "{token:?} {header:?}");
        };
        check(Some("secret"), Some("Bearer secret"), true);
        check(Some("secret"), Some("bearer secret"), true);
        check(Some("secret"), Some("Bearer secre"), false);
        check(Some("secret"), Some("Bearer secret "), false);
        check(Some("secret"), Some("Bearer "), false);
        check(Some("secret"), Some("secret"), false);
        check(Some("secret"), Some("Basic secret"), false);
        check(Some("secret"), None, false);
        check(None, Some("Bearer "), false);
        check(None, None, false);
    }
}
