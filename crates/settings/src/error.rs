use std::fmt::Display;

/// A number is outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {allowed}, got {got}")]
pub struct OutOfRange {
    /// What the number may be, such as `in [0, 1]`.
    pub allowed: String,
    /// What it is.
    pub got: String,
}

/// Settings that break a rule together, or one that does not fit what it is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` must be {allowed}, got {got}")]
pub struct SettingError {
    /// The setting, by its path from the settings that were checked, such as `anchors.sizes`.
    pub path: String,
    /// What it may be.
    pub allowed: String,
    /// What it is.
    pub got: String,
}

impl SettingError {
    /// An error about a setting.
    pub fn new(path: impl Into<String>, allowed: impl Into<String>, got: impl Display) -> Self {
        Self {
            path: path.into(),
            allowed: allowed.into(),
            got: got.to_string(),
        }
    }

    /// The same error as seen from the settings that these are a section of.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.path = format!("{section}.{}", self.path);
        self
    }
}
