//! What of a config has changed since its run began.

use std::fmt;

/// A key of a config that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, with dots.
    pub key: String,
    /// What the run was made with.
    pub was: String,
    /// What the config says now.
    pub is: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, was, is } = self;
        write!(f, "`{key}` was {was} and is {is}")
    }
}

/// Several [`Change`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes(pub Vec<Change>);

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}
