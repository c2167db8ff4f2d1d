use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BrowserError;

/// How long an answer may take; a page that waits says so itself sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Chromium and the two pipes to it.
#[derive(Debug)]
pub(crate) struct Pipe {
    browser: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    /// What commands are for, once it is known: the open page.
    pub(crate) session: Option<String>,
    /// All that was said without being asked.
    pub(crate) events: Vec<Value>,
    /// It goes when the browser is gone.
    _profile: TempDir,
}

impl Pipe {
    pub(crate) fn start(program: &Path) -> Result<Self, BrowserError> {
        let profile = TempDir::new()?;
        // Chromium reads commands from descriptor 3 and answers on 4, which only a shell can give
        // without unsafe code.
        let mut browser = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args([
                "--no-first-run",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args(["--disable-background-networking", "--remote-debugging-pipe"])
            // A camera that shows a pattern, and that nobody has to allow.
            .args([
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = browser.stdin.take().zip(browser.stdout.take());
        let (commands, answers) = pipes.ok_or(BrowserError::Ended)?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || forward(answers, &sender));
        Ok(Self {
            browser,
            commands,
            messages,
            last_id: 0,
            session: None,
            events: Vec::new(),
            _profile: profile,
        })
    }

    /// The answer to a command.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value, BrowserError> {
        self.send(method, params)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = self
                .messages
                .recv_timeout(left)
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => BrowserError::Timeout(method.to_owned()),
                    RecvTimeoutError::Disconnected => BrowserError::Ended,
                })?;
            if message["id"] != self.last_id {
                self.events.push(message);
                continue;
            }
            if let Some(error) = message.get("error") {
                return Err(BrowserError::Refused {
                    command: method.to_owned(),
                    reason: error["message"].to_string(),
                });
            }
            return Ok(message["result"].take());
        }
    }

    fn send(&mut self, method: &str, params: &Value) -> Result<(), BrowserError> {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        Ok(self.commands.write_all(&bytes)?)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.session = None;
        if self.send("Browser.close", &json!({})).is_ok() {
            let deadline = Instant::now() + PATIENCE;
            // Its end of the pipe closes when it ends.
            while let left = deadline.saturating_duration_since(Instant::now())
                && self.messages.recv_timeout(left).is_ok()
            {}
        }
        // It fails where the browser is gone, as it should be.
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

/// Passes on messages, which end with a 0, until the browser is gone or nobody listens.
fn forward(answers: ChildStdout, messages: &Sender<Value>) {
    let mut answers = BufReader::new(answers);
    let mut bytes = Vec::new();
    while let Ok(1..) = answers.read_until(0, &mut bytes) {
        bytes.pop();
        let Ok(message) = serde_json::from_slice(&bytes) else {
            return;
        };
        if messages.send(message).is_err() {
            return;
        }
        bytes.clear();
    }
}
