//! The image files.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{ImageError, RgbImage};
use rayon::prelude::*;
use retinanet_annotations::Image;
use retinanet_data::locate;
use retinanet_images::{Decoding, Header, ImagesError, decode_image, range_of_16_bit, read_header};

use crate::doctor::report::Findings;
use crate::doctor::{Kind, Split, SplitFile};

/// Decodes the files of a split, and reads those of the other to tell which are the same.
pub(super) fn check(
    file: SplitFile<'_>,
    other: Option<SplitFile<'_>>,
    decoding: Decoding,
    progress: &(dyn Fn(usize, usize) + Sync),
    findings: &mut Findings,
) {
    let images = file.coco.images.records();
    let other_images = other.map_or(&[][..], |other| other.coco.images.records());
    let total = images.len() + other_images.len();
    let done = AtomicUsize::new(0);
    let step = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);

    let checks: Vec<_> = (images.par_iter())
        .map(|image| {
            let checked = FileCheck::at(file.split, image, decoding);
            step();
            checked
        })
        .collect();
    let other_prints: Vec<_> = (other_images.par_iter())
        .map(|image| {
            let print = other.and_then(|other| fingerprint(other.split, image));
            step();
            print
        })
        .collect();

    for (image, checked) in images.iter().zip(&checks) {
        for (kind, detail) in &checked.faults {
            findings.add(*kind, image.id, Some(&image.file_name), || detail.clone());
        }
    }
    dark(images, &checks, findings);
    let prints: Vec<_> = checks.iter().map(|checked| checked.fingerprint).collect();
    repeated(images, &prints, findings);
    shared(
        Prints {
            images,
            prints: &prints,
        },
        Prints {
            images: other_images,
            prints: &other_prints,
        },
        findings,
    );
}

/// Names the images of more than 8 bits that come out nearly black, and the range that all of them fill.
fn dark(images: &[Image], checks: &[FileCheck], findings: &mut Findings) {
    let ranges = || checks.iter().filter_map(|checked| checked.dark);
    let low = ranges().map(|[low, _]| low).min().unwrap_or(0);
    let high = ranges().map(|[_, high]| high).max().unwrap_or(0);
    for (image, checked) in images.iter().zip(checks) {
        let Some([darkest, brightest]) = checked.dark else {
            continue;
        };
        findings.add(Kind::DarkImage, image.id, Some(&image.file_name), || {
            format!(
                "its 16-bit values are {darkest} to {brightest} of 65535; `range_16_bit = [{low}, {high}]` \
                 is the range of all such images"
            )
        });
    }
}

/// Finds copies within a split.
fn repeated(images: &[Image], prints: &[Option<Fingerprint>], findings: &mut Findings) {
    let mut first = HashMap::new();
    for (image, print) in images.iter().zip(prints) {
        let Some(print) = print else { continue };
        let earlier: &Image = first.entry(print).or_insert(image);
        // The same name twice is a finding of its own.
        if earlier.file_name != image.file_name {
            findings.add(
                Kind::RepeatedImage,
                image.id,
                Some(&image.file_name),
                || format!("the same bytes as `{}`", earlier.file_name),
            );
        }
    }
}

/// The images of a split and the fingerprints of their files, in the same order.
#[derive(Clone, Copy)]
struct Prints<'a> {
    images: &'a [Image],
    prints: &'a [Option<Fingerprint>],
}

impl<'a> Prints<'a> {
    /// The images whose files can be read.
    fn pairs(&self) -> impl Iterator<Item = (&'a Image, Fingerprint)> + use<'a> {
        let pairs = self.images.iter().zip(self.prints);
        pairs.filter_map(|(image, print)| Some((image, (*print)?)))
    }
}

/// Finds what is in both splits.
fn shared(own: Prints<'_>, other: Prints<'_>, findings: &mut Findings) {
    let others: HashMap<_, _> = other.pairs().map(|(image, print)| (print, image)).collect();
    for (image, print) in own.pairs() {
        if let Some(other) = others.get(&print) {
            findings.add(Kind::SharedImage, image.id, Some(&image.file_name), || {
                format!("`{}` of the other split", other.file_name)
            });
        }
    }
}

/// What can be told from a file.
struct FileCheck {
    fingerprint: Option<Fingerprint>,
    faults: Vec<Fault>,
    /// The range of 16-bit values that come out nearly black.
    dark: Option<[u16; 2]>,
}

impl FileCheck {
    fn at(split: &Split, image: &Image, decoding: Decoding) -> Self {
        // What has no name is reported as that.
        if image.file_name.trim().is_empty() {
            return Self {
                fingerprint: None,
                faults: Vec::new(),
                dark: None,
            };
        }
        let path = locate(&split.images_root, &image.file_name);
        let expected = image.size.as_ref().ok().copied();
        let (faults, dark) = match seen(&path, expected, decoding) {
            Ok((fault, dark)) => (fault.into_iter().collect(), dark),
            Err(fault) => (vec![fault], None),
        };
        Self {
            fingerprint: fingerprint(split, image),
            faults,
            dark,
        }
    }
}

/// The length of a file and a hash of its bytes.
type Fingerprint = (usize, u64);

fn fingerprint(split: &Split, image: &Image) -> Option<Fingerprint> {
    let bytes = retinanet_files::read(locate(&split.images_root, &image.file_name)).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some((bytes.len(), hasher.finish()))
}

type Fault = (Kind, String);

/// What is wrong with an image that can be read, and the range of its values if it comes out nearly black; an
/// error if it cannot be read. It should have this size, if that is known.
fn seen(
    path: &Path,
    expected: Option<(u32, u32)>,
    decoding: Decoding,
) -> Result<(Option<Fault>, Option<[u16; 2]>), Fault> {
    if !path.is_file() {
        return Err((Kind::MissingFile, format!("no file `{}`", path.display())));
    }
    let image = decode_image(path, decoding).map_err(|error| decode_fault(&error))?;
    let Ok(header) = read_header(path) else {
        return Ok((None, None));
    };
    let range = || range_of_16_bit(path, decoding).ok().flatten();
    let dark = (header.is_deep && is_dark(&image)).then(range).flatten();
    Ok((
        expected.and_then(|expected| size_fault(expected, header)),
        dark,
    ))
}

/// What the annotations' size says of the file's.
fn size_fault(expected: (u32, u32), header: Header) -> Option<Fault> {
    let Header {
        stored, upright, ..
    } = header;
    if expected == upright {
        return header.is_turned_unseen().then(|| {
            let detail = "the EXIF orientation turns or mirrors it, and its size stays";
            (Kind::TurnedImage, detail.into())
        });
    }
    let sizes = format!(
        "{}×{} in the file, {}×{} in the annotations",
        upright.0, upright.1, expected.0, expected.1
    );
    // Before the orientation is applied it is what the annotations say.
    Some(if expected == stored {
        (
            Kind::RotatedSize,
            format!("{sizes}: the EXIF orientation swaps the sides"),
        )
    } else if expected == (upright.1, upright.0) {
        let detail = format!("{sizes}: width and height are swapped");
        (Kind::SizeMismatch, detail)
    } else {
        (Kind::SizeMismatch, sizes)
    })
}

/// Whether an image comes out nearly black.
fn is_dark(image: &RgbImage) -> bool {
    // A tenth of the range; sensors of 10 and 12 bits fill 2 and 6 hundredths.
    const DARK: u8 = 25;
    image.as_raw().iter().all(|value| *value <= DARK)
}

fn decode_fault(error: &ImagesError) -> Fault {
    match error {
        ImagesError::Panic { .. } => (Kind::UndecodableFile, "the decoder panicked".into()),
        ImagesError::Truncated { .. } => (Kind::TruncatedFile, "its end marker is missing".into()),
        ImagesError::Decode {
            source: ImageError::IoError(error),
            ..
        } if error.kind() == io::ErrorKind::UnexpectedEof => {
            (Kind::TruncatedFile, "it ends too early".into())
        }
        ImagesError::Decode { source, .. } => (Kind::UndecodableFile, source.to_string()),
        ImagesError::Read { source, .. } => (Kind::UndecodableFile, source.to_string()),
        other => (Kind::UndecodableFile, other.to_string()),
    }
}
