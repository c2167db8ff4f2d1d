//! The machine that the program runs on, as far as the system tells.

use std::num::NonZero;

use serde::Serialize;

/// What a reader of measurements wants to know of the machine.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    pub(crate) cores: usize,
    os: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        use std::env::consts::{ARCH, OS};
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            os: format!("{OS} {ARCH}"),
        }
    }
}

/// The value of the first line `name: value` of one of Linux's files about itself.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs_err::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}
