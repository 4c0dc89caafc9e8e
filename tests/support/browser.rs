//! A browser: headless Chromium, driven by chromedriver's WebDriver protocol.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use super::eventually::eventually;
use super::http::Request;
use super::port;
use super::process::{Process, Signal, User, command, signal};
use super::temporary::TemporaryFolder;

/// How long a command of the protocol may take: a page is loaded in one.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

const SOON: Duration = Duration::from_secs(20);

/// The driver knows no other. It announces the length of each answer.
const VERSION: &str = "1.1";

/// The key of an element in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The Enter key.
pub(crate) const ENTER: &str = "\u{e007}";

/// The Tab key.
pub(crate) const TAB: &str = "\u{e004}";

/// A browser with one page. Killed on drop, with everything that it has started.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Process,
    port: u16,
    session: String,
    /// What the page has said on its console, as far as it was asked for.
    console: Vec<String>,
    _folder: TemporaryFolder,
}

impl Browser {
    /// Starts one with nothing in it.
    pub(crate) async fn start() -> Self {
        let folder = TemporaryFolder::new("browser");
        let port = port::free();
        let mut command = command(User::Same, "chromedriver");
        command.arg(format!("--port={port}")).stdout(Stdio::null());
        let mut driver = Process::start(&mut command, folder.path().join("driver"));
        eventually("chromedriver answers", SOON, async || {
            let ended = driver.exited();
            assert!(
                ended.is_none(),
                "chromedriver: {ended:?}: tests/run installs it"
            );
            let request = Request {
                version: VERSION,
                ..Request::get("/status")
            };
            let answer = request.send(port).await?;
            (answer.status == 200).then_some(())
        })
        .await;
        let profile = format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        );
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            console: Vec::new(),
            _folder: folder,
        };
        let session = browser.command("POST", "/session", &wanted).await;
        let id = session["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        browser
    }

    /// Loads a page.
    pub(crate) async fn open(&self, url: &str) {
        self.act("POST", "/url", json!({ "url": url })).await;
    }

    /// What a script in the page returns.
    pub(crate) async fn script(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.act("POST", "/execute/sync", body).await
    }

    /// The text of the first element that a selector finds and that shows, as a person sees it.
    pub(crate) async fn text(&self, selector: &str) -> Option<String> {
        let element = self.find(selector).await?;
        let path = format!("/element/{element}/text");
        let text = self.act("GET", &path, Value::Null).await;
        Some(text.as_str()?.to_owned())
    }

    /// Waits until a text satisfies a condition, and returns it.
    pub(crate) async fn await_text(&self, selector: &str, is_it: impl Fn(&str) -> bool) -> String {
        let mut last = None;
        let what = format!("{selector} has its text");
        let found = eventually(&what, SOON, async || {
            last = self.text(selector).await;
            last.clone().filter(|text| is_it(text))
        });
        found.await
    }

    /// Clicks as a mouse does: not on what is hidden or covered.
    pub(crate) async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        let element = element.unwrap_or_else(|| panic!("nothing is {selector}"));
        let path = format!("/element/{element}/click");
        self.act("POST", &path, json!({})).await;
    }

    /// Types into an element, which has the focus then.
    pub(crate) async fn press(&self, selector: &str, keys: &str) {
        let element = self.find(selector).await;
        let element = element.unwrap_or_else(|| panic!("nothing is {selector}"));
        let path = format!("/element/{element}/value");
        self.act("POST", &path, json!({ "text": keys })).await;
    }

    /// What the page has said on its console since the start: nothing, if all goes well.
    pub(crate) async fn console(&mut self) -> &[String] {
        let new = self
            .act("POST", "/se/log", json!({ "type": "browser" }))
            .await;
        let lines = new.as_array().expect("lines").iter();
        let lines = lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned());
        self.console.extend(lines);
        &self.console
    }

    /// The size of the page's window, and whether it is a phone's.
    pub(crate) async fn resize(&self, width: u32, height: u32, is_phone: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        self.tool("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// `light` or `dark`: what the person at the screen prefers.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tool(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
    }

    /// What the window shows, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let picture = self.act("GET", "/screenshot", Value::Null).await;
        let text = picture.as_str().expect("a picture");
        let engine = base64::engine::general_purpose::STANDARD;
        engine.decode(text).expect("base64")
    }

    async fn find(&self, selector: &str) -> Option<String> {
        let body = json!({ "using": "css selector", "value": selector });
        let found = self.act("POST", "/elements", body).await;
        Some(found[0][ELEMENT].as_str()?.to_owned())
    }

    async fn tool(&self, name: &str, parameters: Value) {
        let body = json!({ "cmd": name, "params": parameters });
        self.act("POST", "/goog/cdp/execute", body).await;
    }

    async fn act(&self, method: &str, path: &str, body: Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.command(method, &path, &body).await
    }

    async fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = Request {
            method,
            version: VERSION,
            path,
            headers: &[("Content-Type", "application/json")],
            body: &text,
            within: COMMAND_TIMEOUT,
        };
        let answer = request.send(self.port).await;
        let answer = answer.unwrap_or_else(|| panic!("chromedriver does not answer {path} {body}"));
        let mut value: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(answer.status, 200, "{path} {body}: {value:#}");
        value["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own processes end with it.
        signal(&self.driver.children(), Signal::Kill);
    }
}
