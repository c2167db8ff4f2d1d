//! The files of a folder that annotations may be in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::convert::is_picture;

/// The files and folders of a folder. Left out are hidden ones, runs, and what `init` made.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) folders: Vec<PathBuf>,
    /// Files that may be annotations, without XML.
    pub(super) files: BTreeSet<PathBuf>,
    /// One of Pascal VOC's XML files in each folder that has some.
    pub(super) voc: BTreeSet<PathBuf>,
    /// How many pictures are in a folder.
    pictures: BTreeMap<PathBuf, usize>,
}

impl Tree {
    /// Reads a folder and some levels below it. What cannot be read is left out.
    pub(super) fn of(root: &Path) -> Self {
        const DEEPEST: usize = 5;
        /// A folder that has more folders is one of images by class, or worse.
        const MOST_FOLDERS: usize = 500;
        let mut tree = Self {
            folders: vec![root.to_owned()],
            ..Self::default()
        };
        let mut level = vec![root.to_owned()];
        for _ in 0..DEEPEST {
            let mut next = Vec::new();
            for folder in level {
                tree.add(&folder, &mut next);
            }
            next.sort();
            next.truncate(MOST_FOLDERS.saturating_sub(tree.folders.len()));
            tree.folders.extend(next.iter().cloned());
            level = next;
        }
        tree
    }

    /// Adds the files of a folder, and its folders to those that come next.
    fn add(&mut self, folder: &Path, next: &mut Vec<PathBuf>) {
        const KINDS: [&str; 7] = ["json", "yaml", "yml", "txt", "names", "labels", "csv"];
        let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
        let mut has_voc = false;
        for entry in entries {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = folder.join(&name);
            if path.is_dir() {
                let is_ours = [MADE_BY_INIT, "metrics.jsonl"];
                if !is_ours.iter().any(|name| path.join(name).exists()) {
                    next.push(path);
                }
                continue;
            }
            let extension = path.extension().and_then(|it| it.to_str());
            let extension = extension.unwrap_or_default().to_lowercase();
            if extension == "xml" {
                // One tells what all are.
                if !has_voc && is_voc(&path) {
                    has_voc = true;
                    self.voc.insert(path);
                }
            } else if KINDS.contains(&extension.as_str()) {
                self.files.insert(path);
            } else if is_picture(&path) {
                *self.pictures.entry(folder.to_owned()).or_default() += 1;
            }
        }
    }

    pub(super) fn with_extension(&self, extension: &'static str) -> impl Iterator<Item = &PathBuf> {
        let has = move |path: &&PathBuf| {
            let own = path.extension();
            own.is_some_and(|it| it.eq_ignore_ascii_case(extension))
        };
        self.files.iter().filter(has)
    }

    /// The folder with pictures that belongs to a folder of annotations: itself, the one with most below it, or the one
    /// with most of all.
    pub(super) fn pictures_near(&self, folder: &Path) -> PathBuf {
        if self.pictures.contains_key(folder) {
            return folder.to_owned();
        }
        let most = |is_near: &dyn Fn(&Path) -> bool| {
            let near = self.pictures.iter().filter(|(path, _)| is_near(path));
            near.max_by_key(|(_, count)| **count)
                .map(|(path, _)| path.clone())
        };
        most(&|path| path.starts_with(folder))
            .or_else(|| most(&|_| true))
            .unwrap_or_else(|| folder.to_owned())
    }
}

/// Whether an XML file is one of Pascal VOC's, which tell one image each.
fn is_voc(path: &Path) -> bool {
    const BEGINNING: usize = 1 << 12;
    let mut beginning = Vec::new();
    let read = retinanet_files::require_file(path)
        .and_then(|()| fs_err::File::open(path))
        .and_then(|file| file.take(BEGINNING as u64).read_to_end(&mut beginning));
    read.is_ok()
        && String::from_utf8_lossy(&beginning).contains("<annotation")
        && !String::from_utf8_lossy(&beginning).contains("<annotations")
}

/// A file in a folder of annotations that `init` made: they are not somebody's own.
pub const MADE_BY_INIT: &str = "made_by_retinanet_init.txt";
