//! Drives a headless Chromium in tests: opens a page, clicks, waits, takes pictures, and collects
//! what the page complains about.
//!
//! It speaks the [DevTools protocol](https://chromedevtools.github.io/devtools-protocol/) over
//! Chromium's pipes, so that it needs neither a port nor another program.
//!
//! ```no_run
//! # fn main() -> Result<(), retinanet_browser::BrowserError> {
//! use std::path::Path;
//!
//! use retinanet_browser::Browser;
//!
//! let Some(program) = Browser::find() else {
//!     return Ok(());
//! };
//! let mut browser = Browser::start(&program)?;
//! browser.resize(1280, 800)?;
//! browser.open("http://localhost:8080")?;
//! browser.click("button")?;
//! browser.wait_for("document.querySelectorAll('li').length === 3")?;
//! browser.screenshot(Path::new("list.png"))?;
//! assert!(browser.complaints().is_empty());
//! # Ok(())
//! # }
//! ```

mod pipe;

use std::path::{Path, PathBuf};
use std::{env, io};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::pipe::Pipe;

/// A running Chromium with one open page; dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    pipe: Pipe,
}

/// The colours that a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorScheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// A key that does something other than writing a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// On to the next control.
    Tab,
    /// Does what a click on the control does.
    Enter,
    /// Back out of what is open.
    Escape,
    /// To what comes before.
    ArrowLeft,
    /// To what comes after.
    ArrowRight,
}

impl Key {
    /// The name, Windows' number and the text, as browsers know them.
    const fn codes(self) -> (&'static str, u32, &'static str) {
        match self {
            Self::Tab => ("Tab", 9, ""),
            Self::Enter => ("Enter", 13, "\r"),
            Self::Escape => ("Escape", 27, ""),
            Self::ArrowLeft => ("ArrowLeft", 37, ""),
            Self::ArrowRight => ("ArrowRight", 39, ""),
        }
    }
}

/// What went wrong with the browser, or with the page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrowserError {
    /// The program does not start, or a file cannot be written.
    #[error("the browser, or a file of it")]
    Io(#[from] io::Error),
    /// The browser is gone.
    #[error("the browser ended")]
    Ended,
    /// The browser says nothing any more, or what was waited for did not come.
    #[error("waited in vain for: {0}")]
    Timeout(String),
    /// The browser refuses a command, or a script throws.
    #[error("{command}: {reason}")]
    Refused {
        /// The command, or the script.
        command: String,
        /// What the browser says.
        reason: String,
    },
}

impl Browser {
    /// A Chromium or Chrome of this machine.
    pub fn find() -> Option<PathBuf> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let folders: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
        let programs = names
            .iter()
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        programs.into_iter().find(|program| program.is_file())
    }

    /// Starts the program with an empty profile.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not start or does not answer.
    pub fn start(program: &Path) -> Result<Self, BrowserError> {
        let mut pipe = Pipe::start(program)?;
        let target = pipe.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = pipe.call("Target.attachToTarget", &attach)?;
        pipe.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            pipe.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(Self { pipe })
    }

    /// Opens an address and waits until the page has loaded.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such page.
    pub fn open(&mut self, address: &str) -> Result<(), BrowserError> {
        let answer = self
            .pipe
            .call("Page.navigate", &json!({ "url": address }))?;
        if let Some(reason) = answer["errorText"].as_str() {
            return Err(BrowserError::Refused {
                command: format!("open {address}"),
                reason: reason.to_owned(),
            });
        }
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
    }

    /// The value of an expression in the page; of a promise, what becomes of it.
    ///
    /// # Errors
    ///
    /// Returns an error if the script throws.
    pub fn evaluate(&mut self, script: &str) -> Result<Value, BrowserError> {
        let options = json!({
            "expression": script,
            "awaitPromise": true,
            "returnByValue": true,
            "userGesture": true,
        });
        let mut answer = self.pipe.call("Runtime.evaluate", &options)?;
        if let Some(exception) = answer.get("exceptionDetails") {
            return Err(BrowserError::Refused {
                command: script.to_owned(),
                reason: exception_text(exception),
            });
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not become true.
    pub fn wait_for(&mut self, condition: &str) -> Result<(), BrowserError> {
        let polling = format!(
            "new Promise((resolve, reject) => {{
                const deadline = performance.now() + 20_000;
                const look = () => {{
                    if ({condition}) resolve(true);
                    else if (performance.now() > deadline) resolve(false);
                    else setTimeout(look, 10);
                }};
                look();
            }})"
        );
        if self.evaluate(&polling)? == Value::Bool(true) {
            Ok(())
        } else {
            Err(BrowserError::Timeout(condition.to_owned()))
        }
    }

    /// Clicks into the middle of the element that a CSS selector names.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such element.
    pub fn click(&mut self, selector: &str) -> Result<(), BrowserError> {
        self.click_at(selector, 0.5, 0.5)
    }

    /// Clicks into an element, so much of its width from the left and of its height from the top.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such element.
    pub fn click_at(&mut self, selector: &str, right: f64, down: f64) -> Result<(), BrowserError> {
        self.hover_at(selector, right, down)?;
        let [x, y] = self.place(selector, right, down)?;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1,
            });
            self.pipe.call("Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }

    /// Moves the pointer into an element, as [`Self::click_at`] does before it clicks.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such element.
    pub fn hover_at(&mut self, selector: &str, right: f64, down: f64) -> Result<(), BrowserError> {
        let [x, y] = self.place(selector, right, down)?;
        let event = json!({ "type": "mouseMoved", "x": x, "y": y });
        self.pipe.call("Input.dispatchMouseEvent", &event).map(drop)
    }

    /// Presses a key and lets it go.
    ///
    /// # Errors
    ///
    /// Returns an error if the browser is gone.
    pub fn press(&mut self, key: Key) -> Result<(), BrowserError> {
        let (name, number, text) = key.codes();
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": name, "code": name, "windowsVirtualKeyCode": number,
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.pipe.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Chooses a file in an `input` of that type.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such element.
    pub fn choose_file(&mut self, selector: &str, file: &Path) -> Result<(), BrowserError> {
        let document = self.pipe.call("DOM.getDocument", &json!({}))?;
        let query = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let node = self.pipe.call("DOM.querySelector", &query)?;
        let files = json!({ "nodeId": node["nodeId"], "files": [file] });
        self.pipe.call("DOM.setFileInputFiles", &files).map(drop)
    }

    /// Gives the page another size, in CSS pixels.
    ///
    /// # Errors
    ///
    /// Returns an error if the browser is gone.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<(), BrowserError> {
        self.set_device(width, height, 1, false)
    }

    /// Shows the page as a phone does.
    ///
    /// # Errors
    ///
    /// Returns an error if the browser is gone.
    pub fn become_phone(&mut self, width: u32, height: u32) -> Result<(), BrowserError> {
        self.set_device(width, height, 2, true)
    }

    /// Asks the page for light or dark colours.
    ///
    /// # Errors
    ///
    /// Returns an error if the browser is gone.
    pub fn set_color_scheme(&mut self, scheme: ColorScheme) -> Result<(), BrowserError> {
        let value = match scheme {
            ColorScheme::Light => "light",
            ColorScheme::Dark => "dark",
        };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        let features = json!({ "features": [feature] });
        self.pipe
            .call("Emulation.setEmulatedMedia", &features)
            .map(drop)
    }

    /// Writes what the page shows as a PNG.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn screenshot(&mut self, path: &Path) -> Result<(), BrowserError> {
        let answer = self
            .pipe
            .call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        let encoded = answer["data"].as_str().unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(encoded).map_err(io::Error::other)?;
        Ok(fs_err::write(path, bytes)?)
    }

    /// The errors and warnings of all pages so far: of the console, uncaught exceptions, and what
    /// could not be loaded.
    ///
    /// All that was said before the last command returned is in it.
    pub fn complaints(&self) -> Vec<String> {
        self.pipe.events.iter().filter_map(complaint).collect()
    }

    fn set_device(
        &mut self,
        width: u32,
        height: u32,
        scale: u32,
        mobile: bool,
    ) -> Result<(), BrowserError> {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile,
        });
        let command = "Emulation.setDeviceMetricsOverride";
        self.pipe.call(command, &metrics).map(drop)
    }

    /// Where a part of an element is on the screen, after it was scrolled there.
    fn place(&mut self, selector: &str, right: f64, down: f64) -> Result<[f64; 2], BrowserError> {
        let script = format!(
            "(() => {{
                const element = document.querySelector({});
                element.scrollIntoView({{ block: 'nearest', behavior: 'instant' }});
                const {{ x, y, width, height }} = element.getBoundingClientRect();
                return [x + {right} * width, y + {down} * height];
            }})()",
            json!(selector)
        );
        let place = self.evaluate(&script)?;
        Ok([0, 1].map(|axis| place[axis].as_f64().unwrap_or_default()))
    }
}

/// What an event has to complain about.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(exception_text(&parameters["exceptionDetails"])),
        "Runtime.consoleAPICalled" => {
            let kind = parameters["type"].as_str()?;
            ["error", "warning", "assert"]
                .contains(&kind)
                .then(|| format!("console.{kind}: {}", parameters["args"]))
        }
        "Log.entryAdded" => {
            let entry = &parameters["entry"];
            let level = entry["level"].as_str()?;
            ["error", "warning"]
                .contains(&level)
                .then(|| format!("{level}: {} {}", entry["text"], entry["url"]))
        }
        _ => None,
    }
}

fn exception_text(details: &Value) -> String {
    let description = details["exception"]["description"].as_str();
    description.map_or_else(|| details.to_string(), str::to_owned)
}
