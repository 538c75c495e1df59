//! A headless Chromium that is asked over a pipe (its DevTools protocol), and a page in it.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stack::directory;
use crate::stack::process::DEADLINE;
use crate::stack::reaper::reaper;

/// The pipe is where Chromium looks for it: what it reads at 3, what it says at 4.
const START: &str = r#"exec chromium --headless=new --remote-debugging-pipe --no-sandbox --disable-gpu \
    --disable-dev-shm-usage --no-first-run --hide-scrollbars --force-color-profile=srgb \
    --disable-background-networking --user-data-dir="$1" about:blank 3<&0 4>&1 2>/dev/null"#;

const PAUSE: Duration = Duration::from_millis(50);

/// One browser with one page; it ends when this is dropped.
pub struct Browser {
    child: Child,
    orders: RefCell<ChildStdin>,
    told: Receiver<Value>,
    last_id: Cell<u64>,
    session: RefCell<Option<String>>,
    /// What the page has complained of: exceptions, errors in the console, what its policy has forbidden.
    troubles: RefCell<Vec<String>>,
    /// What it has asked for, by address.
    asked: RefCell<Vec<String>>,
    _directory: TempDir,
}

impl Browser {
    /// With a page of this size at an address.
    pub fn open(url: &str, width: u32, height: u32) -> Self {
        let directory = directory("chromium");
        let mut command = Command::new("sh");
        command.args(["-c", START, "sh"]).arg(directory.path());
        // What it keeps is to be of this run.
        command.env("HOME", directory.path());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("there is a shell");
        reaper().kill(child.id());
        let orders = RefCell::new(child.stdin.take().expect("piped above"));
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("Chromium speaks JSON");
                if tell.send(message).is_err() {
                    break;
                }
            }
        });
        let browser = Self {
            child,
            orders,
            told,
            last_id: Cell::new(0),
            session: RefCell::default(),
            troubles: RefCell::default(),
            asked: RefCell::default(),
            _directory: directory,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", target)["sessionId"].clone();
        *browser.session.borrow_mut() = session.as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(width, height);
        browser.call("Page.navigate", json!({ "url": url }));
        browser.wait_for("document.readyState === 'complete'");
        browser
    }

    pub fn resize(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// The value of an expression.
    pub fn eval(&self, expression: &str) -> Value {
        let wanted =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let told = self.call("Runtime.evaluate", wanted);
        assert!(told["exceptionDetails"].is_null(), "{expression}: {told}");
        told["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait_for(&self, expression: &str) {
        let since = Instant::now();
        while self.eval(&format!("Boolean({expression})")) != true {
            if since.elapsed() > DEADLINE {
                let page = self.eval("document.visibilityState + document.body.innerText");
                let troubles = self.troubles.borrow().join("\n");
                panic!("never true: {expression}\n{page}\n{troubles}\n{:?}", self.asked.borrow());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// What stands in an element.
    pub fn text(&self, selector: &str) -> String {
        let told = self.eval(&format!("document.querySelector({}).innerText", json!(selector)));
        told.as_str().unwrap_or_else(|| panic!("no {selector}")).to_owned()
    }

    pub fn wait_for_text(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.wait_for(&format!("document.querySelector({selector})?.innerText.includes({text})"));
    }

    /// As by mouse.
    pub fn click(&self, selector: &str) {
        self.eval(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Chooses in a select, or fills a field, as a user would.
    pub fn choose(&self, selector: &str, value: &str) {
        let (selector, value) = (json!(selector), json!(value));
        self.eval(&format!(
            "(() => {{ const field = document.querySelector({selector}); field.value = {value};
             field.dispatchEvent(new Event('input', {{ bubbles: true }}));
             field.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"
        ));
    }

    /// Types into what has the focus.
    pub fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// `Enter`, `Tab`, …
    pub fn press(&self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            other => panic!("no such key: {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// The page as a PNG.
    pub fn picture(&self) -> Vec<u8> {
        let told = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let data = told["data"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(data).expect("Chromium writes base64")
    }

    /// All that it has asked for, by address.
    pub fn asked(&self) -> Vec<String> {
        self.eval("0");
        self.asked.borrow().clone()
    }

    /// Fails if the page has complained of anything but these.
    pub fn expect_troubles(&self, announced: &[&str]) {
        self.eval("0");
        for trouble in &*self.troubles.borrow() {
            assert!(announced.iter().any(|text| trouble.contains(text)), "{trouble}");
        }
    }

    fn call(&self, method: &str, parameters: Value) -> Value {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let mut order = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &*self.session.borrow() {
            order["sessionId"] = json!(session);
        }
        let mut orders = self.orders.borrow_mut();
        orders.write_all(format!("{order}\0").as_bytes()).expect("Chromium is there");
        orders.flush().expect("Chromium is there");
        loop {
            let told = self.told.recv_timeout(DEADLINE);
            let told = told.unwrap_or_else(|_| {
                panic!("{method}: Chromium does not answer; is it installed? (make check-page)")
            });
            if told["id"] == id {
                assert!(told["error"].is_null(), "{method}: {told}");
                return told["result"].clone();
            }
            self.note(&told);
        }
    }

    fn note(&self, event: &Value) {
        let parameters = &event["params"];
        let trouble = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => parameters["exceptionDetails"].to_string(),
            Some("Runtime.consoleAPICalled") => parameters.to_string(),
            Some("Log.entryAdded") if parameters["entry"]["level"] != "info" => {
                parameters["entry"].to_string()
            }
            Some("Network.requestWillBeSent") => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                self.asked.borrow_mut().push(url.to_owned());
                return;
            }
            _ => return,
        };
        self.troubles.borrow_mut().push(trouble);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // All its processes end with the pipe, and this one at the latest now.
        let order = format!("{}\0", json!({ "id": 0, "method": "Browser.close" }));
        let _ = self.orders.borrow_mut().write_all(order.as_bytes());
        let since = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < DEADLINE / 4 {
            std::thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        reaper().spare(self.child.id());
    }
}
