use std::path::{Path, PathBuf};

/// A folder of weights that were fetched.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// The cache in this folder, which is made when something comes into it.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The user's: `RETINANET_CACHE`, else `retinanet/weights` where programs of this system keep what can be made
    /// again; among temporary files if the system names no such place.
    pub fn of_user() -> Self {
        let from = |variable: &str| {
            let folder = std::env::var_os(variable).filter(|folder| !folder.is_empty())?;
            Some(PathBuf::from(folder))
        };
        let system = || {
            let base = from("XDG_CACHE_HOME")
                .or_else(|| from("LOCALAPPDATA"))
                .or_else(|| Some(from("HOME")?.join(".cache")))?;
            Some(base.join("retinanet").join("weights"))
        };
        let folder = from("RETINANET_CACHE").or_else(system);
        Self(folder.unwrap_or_else(|| std::env::temp_dir().join("retinanet-weights")))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}
