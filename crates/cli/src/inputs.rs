//! Which image files a person means: files, folders of them, patterns.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};

use crate::commands::below;
use crate::failure::Failure;

/// What counts as an image in a folder.
const EXTENSIONS: [&str; 14] = [
    "bmp", "gif", "jfif", "jpeg", "jpg", "mpo", "pbm", "pgm", "png", "ppm", "qoi", "tif", "tiff",
    "webp",
];

/// An image to look at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    /// Its name in the results: below the folder that was given, or before the first wild card of
    /// the pattern. Where several images would share it, their whole path.
    pub(crate) name: PathBuf,
}

/// The images that were found, and what was left out of their folders.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) inputs: Vec<Input>,
    /// How many files were left out for which reason, in words.
    pub(crate) left_out: Vec<String>,
}

/// The images that these files, folders and patterns mean, each folder and pattern in the order of
/// its names. The folder that drawings go to is not looked into, unless it is given itself.
pub(crate) fn find_images(places: &[PathBuf], drawings: Option<&Path>) -> Result<Found, Failure> {
    let mut search = Search {
        drawings: drawings.and_then(|folder| folder.canonicalize().ok()),
        ..Search::default()
    };
    for place in places {
        let before = search.inputs.len();
        if place.is_dir() {
            search.folder(place, place).map_err(Failure::work)?;
        } else if place.exists() {
            search.inputs.push(named(place.clone(), place.parent()));
        } else if is_pattern(place) {
            search.pattern(place)?;
        } else {
            return Err(Failure::work(anyhow!("`{}` is not there", place.display())));
        }
        if search.inputs.len() == before {
            let left_out = search.left_out();
            let found = match left_out.as_slice() {
                [] => String::new(),
                _ => format!("; left out: {}", left_out.join(", ")),
            };
            return Err(Failure::work(anyhow!(
                "`{}` holds no images ({}){found}",
                place.display(),
                EXTENSIONS.join(", ")
            )));
        }
    }
    let left_out = search.left_out();
    let mut inputs = search.inputs;
    drop_repeated(&mut inputs).map_err(Failure::work)?;
    tell_apart(&mut inputs);
    Ok(Found { inputs, left_out })
}

fn named(path: PathBuf, folder: Option<&Path>) -> Input {
    let below = folder.and_then(|folder| path.strip_prefix(folder).ok());
    let name = below.unwrap_or(&path).to_owned();
    Input { path, name }
}

/// A walk through folders.
#[derive(Default)]
struct Search {
    inputs: Vec<Input>,
    /// Where drawings go.
    drawings: Option<PathBuf>,
    /// Every folder that was entered, as links lead round in circles.
    entered: HashSet<PathBuf>,
    /// How many of a kind are not images.
    others: BTreeMap<String, usize>,
    drawings_met: bool,
}

impl Search {
    fn folder(&mut self, folder: &Path, root: &Path) -> io::Result<()> {
        let place = fs_err::canonicalize(folder)?;
        if folder != root && self.drawings.as_ref() == Some(&place) {
            self.drawings_met = true;
            return Ok(());
        }
        if !self.entered.insert(place) {
            return Ok(());
        }
        let mut paths = Vec::new();
        for entry in fs_err::read_dir(folder)? {
            paths.push(entry?.path());
        }
        paths.sort();
        for path in paths {
            if path.is_dir() {
                self.folder(&path, root)?;
            } else {
                self.file(path, root);
            }
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &Path) -> Result<(), Failure> {
        let text = pattern.to_string_lossy();
        let paths = glob::glob(&text)
            .with_context(|| format!("`{text}` is not a pattern"))
            .map_err(Failure::Usage)?;
        let fixed: PathBuf = (pattern.components())
            .take_while(|part| !is_pattern(part.as_ref()))
            .collect();
        for path in paths {
            let path = path.map_err(Failure::work)?;
            if !path.is_dir() {
                self.file(path, &fixed);
            }
        }
        Ok(())
    }

    /// Takes a file of a folder, if it is an image.
    fn file(&mut self, path: PathBuf, root: &Path) {
        match kind(&path) {
            None => self.inputs.push(named(path, Some(root))),
            Some(kind) => *self.others.entry(kind).or_default() += 1,
        }
    }

    fn left_out(&self) -> Vec<String> {
        let mut left_out: Vec<_> = (self.others.iter())
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        if self.drawings_met {
            left_out.push("the folder that drawings go to".to_owned());
        }
        left_out
    }
}

/// What a file is that is not an image, in words; nothing if it is one.
fn kind(path: &Path) -> Option<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let extension = extension.to_string_lossy();
    match &*extension {
        _ if !path.exists() => Some("links to nothing".to_owned()),
        _ if !path.is_file() => Some("pipes and devices".to_owned()),
        _ if name.starts_with('.') => Some("hidden files".to_owned()),
        known if EXTENSIONS.contains(&known) => None,
        "" => Some("files without an extension".to_owned()),
        other => Some(format!(".{other}")),
    }
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// Drops what was given before, by whichever path.
fn drop_repeated(inputs: &mut Vec<Input>) -> io::Result<()> {
    let mut seen = HashSet::new();
    let mut error = None;
    inputs.retain(|input| match fs_err::canonicalize(&input.path) {
        Ok(path) => seen.insert(path),
        Err(found) => {
            error.get_or_insert(found);
            false
        }
    });
    error.map_or(Ok(()), Err)
}

/// Gives images whose drawings would share a file their whole path for a name, and where that is
/// not enough the one from the root.
fn tell_apart(inputs: &mut [Input]) {
    for longer in [|path: &Path| path.to_owned(), from_root] {
        let shared = shared_names(inputs);
        for input in inputs.iter_mut() {
            if shared.contains(&below(&input.name)) {
                input.name = longer(&input.path);
            }
        }
    }
}

fn from_root(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The names that several have, without what would lead out of a folder.
fn shared_names(inputs: &[Input]) -> HashSet<PathBuf> {
    let mut seen = HashSet::new();
    let names = inputs.iter().map(|input| below(&input.name));
    names.filter(|name| !seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these empty files.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        folder
    }

    fn names(places: &[PathBuf]) -> Vec<String> {
        let inputs = find_images(places, None).unwrap().inputs;
        let names = inputs.iter().map(|input| input.name.display().to_string());
        names.collect()
    }

    #[test]
    fn a_folder_means_its_images_at_any_depth() {
        let folder = folder(&["b.PNG", "a/c.jpg", "notes.txt"]);
        assert_eq!(names(&[folder.path().into()]), ["a/c.jpg", "b.PNG"]);
    }

    #[test]
    fn a_pattern_means_the_images_that_match() {
        let folder = folder(&["x/1.jpg", "x/y/2.jpg", "x/3.png", "4.jpg", "x/5.jpg.txt"]);
        let pattern = |end: &str| [folder.path().join(end)];
        assert_eq!(names(&pattern("x/*.jpg")), ["1.jpg"]);
        assert_eq!(
            names(&pattern("**/*.jpg")),
            ["4.jpg", "x/1.jpg", "x/y/2.jpg"]
        );
        assert_eq!(names(&pattern("x/?.*")), ["1.jpg", "3.png"]);
    }

    #[test]
    fn images_of_one_name_are_told_apart() {
        let folder = folder(&["a/1.jpg", "b/1.jpg", "b/2.jpg"]);
        let [one, other] = ["a/1.jpg", "b/1.jpg"].map(|name| folder.path().join(name));
        let third = folder.path().join("b/2.jpg");
        let (first, second) = (one.display().to_string(), other.display().to_string());
        assert_eq!(names(&[one, other, third]), [&first, &second, "2.jpg"]);
    }

    #[test]
    fn an_image_that_is_given_twice_counts_once() {
        let folder = folder(&["a/1.jpg", "a/2.jpg"]);
        let one = folder.path().join("a/1.jpg");
        let again = folder.path().join("a/../a/1.jpg");
        let pattern = folder.path().join("a/*.jpg");
        assert_eq!(names(&[folder.path().join("a")]), ["1.jpg", "2.jpg"]);
        assert_eq!(names(&[one, again, pattern]), ["1.jpg", "2.jpg"]);
    }

    #[test]
    fn no_two_images_are_drawn_into_one_file() {
        let folder = folder(&["b/1.jpg", "x/b/1.jpg", "1.jpg"]);
        let at = |path: &str| folder.path().join(path);
        // Two of them would be `b/1.jpg` below `x/..` and below the folder.
        let places = ["x/../b/1.jpg", "x/b/1.jpg", "1.jpg", "x"].map(at);
        let inputs = find_images(&places, None).unwrap().inputs;
        assert_eq!(inputs.len(), 3);
        assert!(shared_names(&inputs).is_empty(), "{inputs:?}");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let files = [
            "1.jpg",
            "._1.jpg",
            "2.heic",
            "3.HEIC",
            "notes.txt",
            "README",
        ];
        let folder = folder(&files);
        let found = find_images(&[folder.path().into()], None).unwrap();
        assert_eq!(found.inputs.len(), 1);
        let left_out = [
            "2 .heic",
            "1 .txt",
            "1 files without an extension",
            "1 hidden files",
        ];
        assert_eq!(found.left_out, left_out);
    }

    #[test]
    fn drawings_are_no_images_to_look_at_unless_asked_for() {
        let folder = folder(&["1.jpg", "found/1.jpg.png"]);
        let out = folder.path().join("found");
        let found = find_images(&[folder.path().into()], Some(&out)).unwrap();
        assert_eq!(found.inputs.len(), 1);
        assert_eq!(found.left_out, ["the folder that drawings go to"]);
        let found = find_images(std::slice::from_ref(&out), Some(&out)).unwrap();
        assert_eq!(found.inputs.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_in_circles_and_to_nothing_end_no_search() {
        use std::os::unix::fs::symlink;
        let folder = folder(&["a/1.jpg", "b/2.jpg"]);
        let at = |path: &str| folder.path().join(path);
        symlink(at("b"), at("a/to_b")).unwrap();
        symlink(at("a"), at("b/to_a")).unwrap();
        symlink(folder.path(), at("round")).unwrap();
        symlink(at("gone.jpg"), at("dangling.jpg")).unwrap();
        let found = find_images(&[folder.path().into()], None).unwrap();
        assert_eq!(found.inputs.len(), 2);
        assert_eq!(found.left_out, ["1 links to nothing"]);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let folder = folder(&["notes.txt"]);
        for (place, message) in [
            (folder.path().into(), "holds no images"),
            (folder.path().join("*.jpg"), "holds no images"),
            (folder.path().join("a.jpg"), "is not there"),
            (folder.path().join("a[.jpg"), "is not a pattern"),
        ] {
            let failure = find_images(&[place], None).unwrap_err();
            let text = failure.error().unwrap().to_string();
            assert!(text.contains(message), "{text}");
        }
    }
}
