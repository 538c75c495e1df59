//! Who is let in, and what becomes of the token.

use crate::house::{House, MAPPINGS, TOKEN};
use crate::{entered, opened};

const KEPT: &str =
    "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie, location.href])";

#[tokio::test]
async fn the_token_is_typed_kept_in_the_tab_and_forgotten() {
    let house = House::build(MAPPINGS).await;
    let browser = opened(&house);
    browser.wait_for("document.activeElement.id === 'token'");
    assert_eq!(browser.eval("document.getElementById('inside').hidden"), true);
    browser.type_text("wrong");
    browser.press("Enter");
    browser.wait_for_text("#message", "this is not the token");
    assert_eq!(browser.text("#token"), "");
    browser.wait_for("document.activeElement.id === 'token'");
    browser.type_text(TOKEN);
    browser.press("Enter");
    browser.wait_for("!document.getElementById('inside').hidden");
    browser.wait_for_text("#standing", "ok");
    let kept = browser.eval(KEPT);
    let kept: serde_json::Value = serde_json::from_str(kept.as_str().unwrap()).unwrap();
    assert_eq!(kept[0]["token"], TOKEN);
    assert_eq!(kept[1], serde_json::json!({}));
    assert_eq!((&kept[2], &kept[3]), (&"".into(), &format!("http://{}/", house.address).into()));
    // It is still known when the page is loaded again.
    browser.eval("window.isOld = true; location.reload()");
    browser.wait_for("!window.isOld && document.querySelector('#standing')?.innerText === 'ok'");
    browser.click("#forget");
    browser.wait_for("document.getElementById('inside').hidden");
    assert_eq!(browser.eval("sessionStorage.length"), 0);
    // What it asked for it asked of this respgres alone.
    let origin = format!("http://{}/", house.address);
    for url in browser.asked() {
        assert!(url.starts_with(&origin) || url.starts_with("data:,"), "{url}");
        assert!(!url.contains("token"), "{url}");
    }
    browser.expect_troubles(&["status of 401"]);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn a_respgres_that_is_gone_is_noticed() {
    let mut house = House::build(MAPPINGS).await;
    let browser = entered(&house);
    browser.wait_for_text("#standing", "ok");
    house.stack.proxy.kill();
    browser.wait_for_text("#standing", "no answer");
    browser.wait_for_text("#message", "respgres does not answer; what is shown is old");
    browser.expect_troubles(&[
        "ERR_CONNECTION_REFUSED",
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY_RESPONSE",
    ]);
}
