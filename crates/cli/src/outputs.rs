//! What a command writes must be none of what it reads, and no file twice: refused before any work.

use std::collections::HashMap;
use std::path::Path;

use anyhow::anyhow;
use retinanet_files::file_of;

use crate::console;
use crate::failure::Failure;

/// A path of the command line, with the option or argument that gave it.
pub(crate) type Given<'a> = (&'a str, &'a Path);

/// What an option gave, if it was given.
pub(crate) fn given<'a>(option: &'a str, path: Option<&'a impl AsRef<Path>>) -> Option<Given<'a>> {
    path.map(|path| (option, path.as_ref()))
}

/// Refuses outputs that are inputs, or that are one file. Where one of them is stdout, what the
/// command has to say besides goes to stderr.
pub(crate) fn refuse_overlaps<'a>(
    read: impl IntoIterator<Item = Given<'a>>,
    written: impl IntoIterator<Item = Given<'a>>,
) -> Result<(), Failure> {
    let inputs: HashMap<_, _> = read
        .into_iter()
        .filter_map(|(name, path)| Some((file_of(path)?, name)))
        .collect();
    let mut outputs = HashMap::new();
    let mut to_stdout = None;
    for (name, path) in written {
        if is_stdout(path) {
            console::keep_stdout_free();
            if let Some(other) = to_stdout.replace(name) {
                return Err(Failure::usage(anyhow!(
                    "{other} and {name} would both be written to stdout"
                )));
            }
        }
        let Some(file) = file_of(path) else { continue };
        let path = path.display();
        if let Some(input) = inputs.get(&file) {
            return Err(Failure::usage(anyhow!(
                "{name} `{path}` would be written over {input}, which is the same file; nothing was \
                 written"
            )));
        }
        if let Some(other) = outputs.insert(file, name) {
            return Err(Failure::usage(anyhow!(
                "{other} and {name} are the same file, `{path}`; nothing was written"
            )));
        }
    }
    Ok(())
}

fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]
        .map(Path::new)
        .contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_or_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a.json", "b.json"].map(|name| folder.path().join(name));
        fs_err::write(&a, "{}").unwrap();
        let roundabout = folder.path().join(".").join("a.json");
        let refused = |written: &[Given<'_>]| {
            let read = [("ANNOTATIONS", a.as_path())];
            let found = refuse_overlaps(read, written.iter().copied());
            found
                .err()
                .map(|failure| failure.error().unwrap().to_string())
        };
        assert_eq!(refused(&[("--json", b.as_path())]), None);
        let message = refused(&[("--json", roundabout.as_path())]).unwrap();
        assert!(
            message.contains("--json") && message.contains("ANNOTATIONS"),
            "{message}"
        );
        let message = refused(&[("--json", b.as_path()), ("--csv", b.as_path())]).unwrap();
        assert!(message.contains("--json and --csv"), "{message}");
    }
}
