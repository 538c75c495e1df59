//! The web page: files that are part of the program, and that anybody may have who reaches the port, as nothing is in
//! them. What the page shows it asks of the other paths, with the token that its user gives it.
//!
//! Invariants
//! - The browser runs and shows nothing on it that does not come from these files, and sends nothing elsewhere.
//! - The page asks for nothing that names users' keys, or has their values in it.

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

/// Nothing inline, nothing of others, in nobody's frame. The icon is an empty `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What anybody may have.
pub(super) const PATHS: [&str; 4] = ["/", "/page.css", "/page.js", "/figures.js"];

pub(super) async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub(super) async fn figures() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/figures.js"))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of respgres has other files.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
