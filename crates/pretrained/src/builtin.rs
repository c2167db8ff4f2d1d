use std::path::PathBuf;

use crate::PretrainedError;
use crate::cache::Cache;

/// The place of the backbone that ships with the program.
pub const BUILTIN: &str = "builtin:resnet18";

/// Weights that ship with the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Builtin {
    name: &'static str,
    /// With the version that the weights have: another takes another place in the cache.
    file: &'static str,
    bytes: &'static [u8],
}

const ALL: [Builtin; 1] = [Builtin {
    name: "resnet18",
    file: "resnet18-textured-1.safetensors",
    bytes: include_bytes!("../weights/resnet18.safetensors"),
}];

pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|builtin| builtin.name).collect()
}

pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}

impl Builtin {
    /// Its file in the cache, written if it is not there or not whole.
    pub(crate) fn file(&self, cache: &Cache) -> Result<PathBuf, PretrainedError> {
        let path = cache.folder().join("builtin").join(self.file);
        if fs_err::read(&path).is_ok_and(|bytes| bytes == self.bytes) {
            return Ok(path);
        }
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        retinanet_files::write(&path, self.bytes)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_in_the_cache_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let builtin = find("resnet18").unwrap();
        let path = builtin.file(&cache).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), builtin.bytes);
        fs_err::write(&path, "half of it").unwrap();
        assert_eq!(builtin.file(&cache).unwrap(), path);
        assert_eq!(fs_err::read(&path).unwrap(), builtin.bytes);
    }
}
