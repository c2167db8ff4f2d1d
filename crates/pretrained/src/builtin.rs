use std::path::PathBuf;

use crate::PretrainedError;
use crate::cache::Cache;
use crate::packed::unpack;

/// The place of the detector that ships with the program: ResNet-18, 128 channels in the pyramid, heads of two layers
/// with group norm.
pub const BUILTIN: &str = "builtin:retinanet_resnet18";

/// The place of its backbone.
pub const BUILTIN_BACKBONE: &str = "builtin:resnet18";

/// A detector of textured scenes.
const PACKED: &[u8] = include_bytes!("../weights/retinanet_resnet18.packed");

/// Weights that ship with the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Builtin {
    name: &'static str,
    /// With the version that the weights have: another takes another place in the cache.
    file: &'static str,
    /// How the names of its tensors begin.
    part: &'static str,
}

const ALL: [Builtin; 2] = [
    Builtin {
        name: "resnet18",
        file: "resnet18-textured-3.safetensors",
        part: "backbone.",
    },
    Builtin {
        name: "retinanet_resnet18",
        file: "retinanet_resnet18-textured-3.safetensors",
        part: "",
    },
];

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
        let bytes = self.bytes();
        if fs_err::read(&path).is_ok_and(|found| found == bytes) {
            return Ok(path);
        }
        let written = match path.parent() {
            Some(folder) => fs_err::create_dir_all(folder),
            None => Ok(()),
        };
        match written.and_then(|()| retinanet_files::write(&path, &bytes)) {
            Ok(()) => Ok(path),
            Err(source) => Err(PretrainedError::Unpack { path, source }),
        }
    }

    /// Those of its file.
    fn bytes(&self) -> Vec<u8> {
        unpack(PACKED, |name| name.starts_with(self.part)).expect("the program's own are whole")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_in_the_cache_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        for builtin in &ALL {
            let path = builtin.file(&cache).unwrap();
            assert_eq!(fs_err::read(&path).unwrap(), builtin.bytes());
            fs_err::write(&path, "half of it").unwrap();
            assert_eq!(builtin.file(&cache).unwrap(), path);
            assert_eq!(fs_err::read(&path).unwrap(), builtin.bytes());
        }
    }
}
