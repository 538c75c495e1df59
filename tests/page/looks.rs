//! That it can be read and used: on a phone, by day and by night, by keyboard and by those who do not see it.

use crate::entered;
use crate::house::{House, MAPPINGS};

/// Texts with less contrast to what is behind them than WCAG wants (4.5 to 1), as the page has them now.
const PALE: &str = r#"(() => {
  const parse = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const [one, other] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) pale.push(`${element.textContent.trim()}: ${contrast.toFixed(2)}`);
  }
  return pale;
})()"#;

/// What can be used and has no name that could be read out.
const NAMELESS: &str = r#"[...document.querySelectorAll('input, select, button, progress')]
  .filter((field) => !field.labels?.length && !field.getAttribute('aria-label') && !field.innerText.trim())
  .filter((field) => field.checkVisibility() || field.closest('dialog') === null)
  .map((field) => field.outerHTML)"#;

#[tokio::test]
async fn it_is_readable_by_day_and_by_night_and_has_names_for_all() {
    let house = House::build(MAPPINGS).await;
    house.stack.client().await.say("HSET thing:1 size 1").await;
    let browser = entered(&house);
    browser.wait_for_text("#mappings", "things");
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_eq!(browser.eval(PALE), serde_json::json!([]), "{scheme}");
        grounds.push(browser.eval("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
    assert_eq!(browser.eval(NAMELESS), serde_json::json!([]));
    browser.expect_troubles(&[]);
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn on_a_phone_nothing_is_beside_the_screen() {
    let house = House::build(MAPPINGS).await;
    let browser = entered(&house);
    browser.wait_for_text("#mappings", "things");
    for width in [360, 800] {
        browser.resize(width, 740);
        let wide = browser.eval("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= u64::from(width), "{wide} at {width}");
    }
    // The names of the columns stand beside the figures.
    browser.resize(360, 740);
    let label =
        "getComputedStyle(document.querySelector('td[data-label=Phase]'), '::before').content";
    assert_eq!(browser.eval(label), "\"Phase\"");
    house.stack.stop_expecting(&[]).await;
}

#[tokio::test]
async fn without_mappings_there_is_less_to_see() {
    let house = House::build("").await;
    let browser = entered(&house);
    browser.wait_for_text("#no-mappings", "There are none");
    browser.wait_for_text("#postgres", "is not needed");
    browser.expect_troubles(&[]);
    house.stack.stop_expecting(&[]).await;
}
