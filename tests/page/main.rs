//! The web page of the admin port in a headless Chromium, over a running respgres. `make check-page` runs it: it
//! needs a browser, which the other tests do not.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub, dead_code)]

mod browser;
mod doors;
#[path = "../admin/house.rs"]
mod house;
#[path = "../admin/http.rs"]
mod http;
mod looks;
mod scenes;
#[path = "../stack/mod.rs"]
mod stack;
mod verbs;

use browser::Browser;
use house::{House, TOKEN};

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 1000;

/// The page, before anybody has said who he is.
fn opened(house: &House) -> Browser {
    Browser::open(&format!("http://{}/", house.address), WIDTH, HEIGHT)
}

/// The page, as one sees it who has the token.
fn entered(house: &House) -> Browser {
    let browser = opened(house);
    browser.wait_for("!document.getElementById('enter').hidden");
    browser.choose("#token", TOKEN);
    browser.press("Enter");
    browser.wait_for("!document.getElementById('inside').hidden");
    browser
}
