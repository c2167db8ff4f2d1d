//! The browser as the tests use it: a failure of it is a failure of the test.

use std::path::{Path, PathBuf};

use retinanet_browser::{Browser, ColorScheme, Key};
use serde_json::Value;

/// More than a page has.
const MOST_CONTROLS: usize = 500;

/// Where pages and pictures go.
pub(crate) fn output(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A window onto a page.
pub(crate) struct Window {
    browser: Browser,
    shape: Shape,
}

/// What a page is looked at with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Desk,
    Phone,
}

impl Shape {
    /// In CSS pixels.
    pub(crate) const fn width(self) -> u32 {
        match self {
            Self::Desk => 1_200,
            Self::Phone => 390,
        }
    }
}

impl Window {
    /// Opens a window; `None`, and a word why, where there is no browser.
    #[expect(clippy::print_stderr, reason = "a skipped test tells why")]
    pub(crate) fn new() -> Option<Self> {
        let Some(program) = Browser::find() else {
            eprintln!("skipped: there is no Chromium");
            return None;
        };
        Some(Self {
            browser: Browser::start(&program).unwrap(),
            shape: Shape::Desk,
        })
    }

    pub(crate) fn open(&mut self, page: &Path, shape: Shape, scheme: ColorScheme) {
        self.shape = shape;
        self.resize(900);
        self.browser.set_color_scheme(scheme).unwrap();
        let address = format!("file://{}", page.display());
        self.browser.open(&address).unwrap();
        self.drawn();
    }

    pub(crate) fn evaluate(&mut self, script: &str) -> Value {
        self.browser.evaluate(script).unwrap()
    }

    /// The texts of all elements that a selector names.
    pub(crate) fn texts(&mut self, selector: &str) -> Vec<String> {
        let found = self.evaluate(&format!(
            "[...document.querySelectorAll({selector:?})].map((it) => it.textContent)"
        ));
        serde_json::from_value(found).unwrap()
    }

    pub(crate) fn count(&mut self, selector: &str) -> usize {
        self.texts(selector).len()
    }

    pub(crate) fn click(&mut self, selector: &str) {
        self.uncover(selector);
        self.browser.click(selector).unwrap();
        self.drawn();
    }

    pub(crate) fn press(&mut self, key: Key) {
        self.browser.press(key).unwrap();
        self.drawn();
    }

    /// Presses Tab until what a selector names has the focus.
    pub(crate) fn tab_to(&mut self, selector: &str) {
        let there = format!("document.querySelector({selector:?}) === document.activeElement");
        for _ in 0..MOST_CONTROLS {
            if self.evaluate(&there) == true {
                return;
            }
            self.press(Key::Tab);
        }
        panic!("Tab does not lead to {selector}");
    }

    pub(crate) fn hover(&mut self, selector: &str) {
        self.uncover(selector);
        self.browser.hover_at(selector, 0.5, 0.5).unwrap();
        self.drawn();
    }

    /// Gives a control a value, as its user does.
    pub(crate) fn choose(&mut self, control: &str, value: &str) {
        self.evaluate(&format!(
            "(() => {{ const control = document.querySelector({control:?}); \
             control.value = {value:?}; \
             for (const name of ['input', 'change']) control.dispatchEvent(new Event(name)); }})()"
        ));
        self.drawn();
    }

    /// Photographs a section from its top to its end.
    pub(crate) fn photograph(&mut self, section: &str, name: &str) -> PathBuf {
        let height = self.evaluate(&format!(
            "document.querySelector({section:?}).getBoundingClientRect().height"
        ));
        // The bar with links stays on the screen.
        self.resize(height.as_f64().unwrap() as u32 + 70);
        self.evaluate(&format!(
            "document.querySelector({section:?}).scrollIntoView({{ behavior: 'instant' }})"
        ));
        // Pictures are loaded once they are near.
        self.evaluate(&format!(
            "Promise.all([...document.querySelectorAll({section:?} + ' img')].map((it) => it.decode()))"
        ));
        self.drawn();
        let path = output(name);
        self.browser.screenshot(&path).unwrap();
        self.resize(900);
        path
    }

    /// What the page complains about, and what it has loaded besides itself.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        let loaded = self.evaluate(
            "performance.getEntriesByType('resource').map((it) => it.name.slice(0, 100))\
             .filter((name) => !name.startsWith('data:'))",
        );
        let mut complaints = self.browser.complaints();
        complaints.extend(serde_json::from_value::<Vec<String>>(loaded).unwrap());
        complaints
    }

    fn resize(&mut self, height: u32) {
        let width = self.shape.width();
        match self.shape {
            Shape::Desk => self.browser.resize(width, height),
            Shape::Phone => self.browser.become_phone(width, height),
        }
        .unwrap();
    }

    /// Brings an element to the middle, from under the bar that stays on the screen.
    fn uncover(&mut self, selector: &str) {
        self.evaluate(&format!(
            "document.querySelector({selector:?}).scrollIntoView({{ block: 'center' }})"
        ));
    }

    /// Waits until the page has drawn what was done to it.
    fn drawn(&mut self) {
        self.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))",
        );
    }
}
