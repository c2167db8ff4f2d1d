use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layout::STATE_FILE;

/// What the files of a checkpoint are written as. 1 was version 0.1 of this program.
pub const FORMAT: u32 = 2;

/// What comes before the checksum of `state.json`, which is that of all before this.
const SEAL: &[u8] = b",\n  \"crc32\": ";

/// Sizes and checksums of a checkpoint's files.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seals(BTreeMap<String, Seal>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    bytes: u64,
    crc32: u32,
}

impl Seal {
    fn of(content: &[u8]) -> Self {
        Self {
            bytes: content.len() as u64,
            crc32: crc32fast::hash(content),
        }
    }
}

impl Seals {
    /// Seals a file.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        self.0.insert(name.to_owned(), Seal::of(content));
    }

    /// What a JSON file of a checkpoint says.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file if it cannot be understood.
    pub fn parse<T: for<'de> Deserialize<'de>>(
        text: &[u8],
        checkpoint: &Path,
        name: &str,
    ) -> Result<T, SealError> {
        parse(text, checkpoint.join(name))
    }

    /// Whether the checkpoint has such a file.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Reads a file of a checkpoint.
    ///
    /// # Errors
    ///
    /// Returns an error if it is missing, cut short or changed.
    pub fn read(&self, checkpoint: &Path, name: &str) -> Result<Vec<u8>, SealError> {
        let path = checkpoint.join(name);
        let content = fs_err::read(&path).map_err(SealError::Io)?;
        let expected = self.0.get(name);
        if expected != Some(&Seal::of(&content)) {
            return Err(SealError::Damaged {
                path,
                bytes: content.len() as u64,
                expected: expected.map_or(0, |seal| seal.bytes),
            });
        }
        Ok(content)
    }
}

/// The text of a checkpoint's `state.json`, sealed.
///
/// # Errors
///
/// Returns an error if the state, an object with keys, has no form in JSON.
pub fn sealed_state(state: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(state)?;
    text.truncate(text.len().saturating_sub(END.len()));
    let seal = seal_of(&text);
    text.extend(seal);
    Ok(text)
}

/// Reads a checkpoint's `state.json`, or the part of it that `T` asks for.
///
/// # Errors
///
/// Returns an error if it cannot be read or understood, is not as it was written, or was written by another version.
pub fn read_state<T: for<'de> Deserialize<'de>>(checkpoint: &Path) -> Result<T, SealError> {
    let path = checkpoint.join(STATE_FILE);
    let text = fs_err::read(&path).map_err(SealError::Io)?;
    let seal = text.windows(SEAL.len()).rposition(|part| part == SEAL);
    let is_whole = seal.is_some_and(|seal| text[seal..] == seal_of(&text[..seal]));
    if !is_whole {
        return Err(SealError::BrokenSeal { path });
    }
    match parse::<Written>(&text, path.clone())?.format {
        FORMAT => parse(&text, path),
        format => Err(SealError::Format { path, format }),
    }
}

/// What the version that wrote a `state.json` says of itself.
#[derive(Deserialize)]
struct Written {
    #[serde(default = "first_format")]
    format: u32,
}

const fn first_format() -> u32 {
    1
}

/// What ends a JSON object of several lines.
const END: &str = "\n}";

fn seal_of(text: &[u8]) -> Vec<u8> {
    let checksum = crc32fast::hash(text).to_string();
    [SEAL, checksum.as_bytes(), END.as_bytes()].concat()
}

fn parse<T: for<'de> Deserialize<'de>>(text: &[u8], path: PathBuf) -> Result<T, SealError> {
    serde_json::from_slice(text).map_err(|error| SealError::State {
        path,
        reason: error.to_string(),
    })
}

/// A checkpoint is not as it was written, or was written by another version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A file cannot be read or written; the cause names it.
    #[error("cannot read or write the checkpoint")]
    Io(#[source] std::io::Error),
    /// A JSON file cannot be understood.
    #[error(
        "the checkpoint's `{}` is damaged, or another version wrote it: {reason}",
        path.display()
    )]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another version wrote it.
    #[error(
        "`{}` was written by another version of this program (its format is {format}, this one reads {FORMAT}): \
         go on with the version that wrote it, or let that one `export` its weights, which training can \
         start from",
        path.display()
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it is written as.
        format: u32,
    },
    /// A file is not the one that was written.
    #[error(
        "the checkpoint's `{}` is damaged: it has {bytes} bytes, or others, than the {expected} \
         that were written",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size that it was written with.
        expected: u64,
    },
    /// The file that seals the others is not as it was written.
    #[error(
        "the checkpoint's `{}` is damaged: its checksum is not that of what it says (or it has none, and \
         an older version wrote it, which this one does not read)",
        path.display()
    )]
    BrokenSeal {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE_FILE);
        let state = json!({ "format": FORMAT, "iteration": 7 });
        let sealed = sealed_state(&state).unwrap();
        fs_err::write(&path, &sealed).unwrap();
        let read = read_state::<Value>(folder.path()).unwrap();
        assert_eq!(read["iteration"], 7);

        let text = String::from_utf8(sealed).unwrap();
        fs_err::write(&path, text.replace('7', "8")).unwrap();
        let error = read_state::<Value>(folder.path()).unwrap_err();
        assert!(matches!(error, SealError::BrokenSeal { .. }), "{error}");

        fs_err::write(&path, sealed_state(&json!({ "iteration": 7 })).unwrap()).unwrap();
        let error = read_state::<Value>(folder.path()).unwrap_err();
        assert!(
            matches!(error, SealError::Format { format: 1, .. }),
            "{error}"
        );
    }
}
