//! The detector in a browser.
//!
//! Compiled for `wasm32-unknown-unknown` by `scripts/build_web`, this crate is what a page's worker calls. For every other
//! target it holds what came of that, with the worker and the page's way to it: the files that
//! `retinanet export --format web` writes beside a detector's.

#[cfg(target_arch = "wasm32")]
mod detector;

#[cfg(target_arch = "wasm32")]
pub use detector::{Found, PageDetector};

/// The files of a page that detects, by name: scripts and WebAssembly, all but the page itself and the detector.
#[cfg(not(target_arch = "wasm32"))]
pub const FILES: [(&str, &[u8]); 4] = [
    ("detector.js", include_bytes!("../page/detector.js")),
    ("worker.js", include_bytes!("../page/worker.js")),
    (
        "retinanet_web.js",
        include_bytes!("../built/retinanet_web.js"),
    ),
    (
        "retinanet_web_bg.wasm",
        include_bytes!("../built/retinanet_web_bg.wasm"),
    ),
];
