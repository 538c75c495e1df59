//! The files of the web page, as a browser gets them. What it does with them is for tests/page.

use std::collections::BTreeSet;

use crate::house::House;
use crate::http::send;

const FILES: [(&str, &str); 4] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/figures.js", "text/javascript; charset=utf-8"),
];

#[tokio::test]
async fn anybody_gets_the_page_and_a_browser_runs_nothing_else_on_it() {
    let house = House::build("").await;
    for (path, kind) in FILES {
        let answer = send(&house.address, "GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some(kind));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let policy = answer.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|told| told == rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(send(&house.address, "POST", path, &[], "").await.status, 405);
    }
    house.stack.stop_expecting(&[]).await;
}

#[test]
fn the_page_has_nothing_inline_and_nothing_of_others() {
    let page = include_str!("../../src/admin/page/index.html");
    assert!(!page.contains("<style") && !page.contains(" style="), "the policy forbids it");
    for word in page.split(|c: char| c.is_whitespace() || c == '<') {
        let is_handler = word.starts_with("on") && word.contains('=');
        assert!(!is_handler, "the policy forbids {word}");
    }
    assert_eq!(
        page.matches("<script").count(),
        page.matches("<script type=\"module\" src=\"/").count()
    );
    let sources = ["src=\"", "href=\""].into_iter().flat_map(|name| page.split(name).skip(1));
    let sources: BTreeSet<&str> = sources.map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(sources, ["#main", "/page.css", "/page.js", "data:,"].into());
    let scripts = [
        include_str!("../../src/admin/page/page.js"),
        include_str!("../../src/admin/page/figures.js"),
    ];
    for script in scripts {
        for word in
            ["://", "innerHTML", "outerHTML", "insertAdjacent", "eval(", "localStorage", "cookie"]
        {
            assert!(!script.contains(word), "{word}");
        }
    }
}

/// Where what is told has keys of users in it the page does not go.
#[test]
fn the_page_asks_for_nothing_that_names_keys() {
    let script = include_str!("../../src/admin/page/page.js");
    for word in ["dead-letters", "examples", ".found"] {
        assert!(!script.contains(word), "{word}");
    }
    // Of jobs it asks for the list alone, and ends them.
    let asked: Vec<&str> =
        script.match_indices("jobs/").map(|(at, _)| &script[at..at + 24]).collect();
    assert_eq!(asked, ["jobs/${job.id}/cancel`, "]);
}
