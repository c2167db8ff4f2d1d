//! Which image files a person means: files, folders of them, patterns.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};

use crate::commands::below;
use crate::failure::Failure;

/// What counts as an image in a folder.
const EXTENSIONS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// An image to look at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    /// Its name in the results: below the folder that was given, or before the first wild card of
    /// the pattern. Where several images would share it, their whole path.
    pub(crate) name: PathBuf,
}

/// The images that these files, folders and patterns mean, each folder and pattern in the order of
/// its names.
pub(crate) fn find_images(places: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let mut inputs = Vec::new();
    for place in places {
        let before = inputs.len();
        if place.is_dir() {
            collect_folder(place, place, &mut inputs).map_err(Failure::work)?;
        } else if place.exists() {
            inputs.push(named(place.clone(), place.parent()));
        } else if is_pattern(place) {
            collect_pattern(place, &mut inputs)?;
        } else {
            return Err(Failure::work(anyhow!("`{}` is not there", place.display())));
        }
        if inputs.len() == before {
            return Err(Failure::work(anyhow!(
                "`{}` holds no images ({})",
                place.display(),
                EXTENSIONS.join(", ")
            )));
        }
    }
    drop_repeated(&mut inputs).map_err(Failure::work)?;
    tell_apart(&mut inputs);
    Ok(inputs)
}

fn named(path: PathBuf, folder: Option<&Path>) -> Input {
    let below = folder.and_then(|folder| path.strip_prefix(folder).ok());
    let name = below.unwrap_or(&path).to_owned();
    Input { path, name }
}

fn collect_folder(folder: &Path, root: &Path, inputs: &mut Vec<Input>) -> std::io::Result<()> {
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect_folder(&path, root, inputs)?;
        } else if is_image(&path) {
            inputs.push(named(path, Some(root)));
        }
    }
    Ok(())
}

fn collect_pattern(pattern: &Path, inputs: &mut Vec<Input>) -> Result<(), Failure> {
    let text = pattern.to_string_lossy();
    let paths = glob::glob(&text)
        .with_context(|| format!("`{text}` is not a pattern"))
        .map_err(Failure::Usage)?;
    let fixed: PathBuf = (pattern.components())
        .take_while(|part| !is_pattern(part.as_ref()))
        .collect();
    for path in paths {
        let path = path.map_err(Failure::work)?;
        if path.is_file() && is_image(&path) {
            inputs.push(named(path, Some(&fixed)));
        }
    }
    Ok(())
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    EXTENSIONS.iter().any(|known| extension == **known)
}

/// Drops what was given before, by whichever path.
fn drop_repeated(inputs: &mut Vec<Input>) -> std::io::Result<()> {
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
        let inputs = find_images(places).unwrap();
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
        let inputs = find_images(&[at("x/../b/1.jpg"), at("x/b/1.jpg"), at("1.jpg"), at("x")]);
        let inputs = inputs.unwrap();
        assert_eq!(inputs.len(), 3);
        assert!(shared_names(&inputs).is_empty(), "{inputs:?}");
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
            let failure = find_images(&[place]).unwrap_err();
            let text = failure.error().to_string();
            assert!(text.contains(message), "{text}");
        }
    }
}
