//! CSV: a line a box, below a header like TensorFlow's or in keras-retinanet's six columns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim, Writer};
use hotcoco::{Annotation, Category, Dataset, Image};
use retinanet_images::read_header;

use super::ConvertError;

const HEADER: [&str; 8] = [
    "filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax",
];

// What a header may call the columns, in any letter case.
const FILE: &[&str] = &[
    "filename",
    "file_name",
    "file",
    "image",
    "image_path",
    "path",
];
const CLASS: &[&str] = &["class", "label", "name", "class_name", "category"];
const CORNERS: [&[&str]; 4] = [
    &["xmin", "x1", "x_min", "left"],
    &["ymin", "y1", "y_min", "top"],
    &["xmax", "x2", "x_max", "right"],
    &["ymax", "y2", "y_max", "bottom"],
];

/// A class and the corners of a box in pixels: left, top, right, bottom.
type Object<'a> = (&'a str, [f64; 4]);

/// Reads a CSV file. The sizes that it does not tell are those of the pictures in the folder
/// `images`.
///
/// Images and boxes are numbered from 1 as they appear, classes from 1 by their sorted names.
///
/// # Errors
///
/// Returns an error if the file cannot be read, a line is malformed (with its number), or a
/// picture that is needed cannot be read.
pub(super) fn read(path: &Path, images: &Path) -> Result<Dataset, ConvertError> {
    let bytes = retinanet_files::read(path).map_err(|source| ConvertError::Read {
        path: path.into(),
        source,
    })?;
    let mut table = parse(&bytes).map_err(|reason| ConvertError::Failed {
        path: path.into(),
        reason,
    })?;
    table.measure(images)?;
    Ok(table.into_dataset())
}

/// Gives a data set as CSV, and how many of its annotations are in it: crowds and boxes without
/// finite corners have no place there.
///
/// # Errors
///
/// Returns what is wrong where an image has no file name of its own, or a class no name.
pub(super) fn write(dataset: &Dataset) -> Result<(Vec<u8>, usize), String> {
    let mut objects = objects_by_image(dataset)?;
    let mut names = HashSet::new();
    let mut rows = vec![HEADER.map(String::from)];
    let mut written = 0;
    for image in &dataset.images {
        let name = image.file_name.trim();
        if name.is_empty() || !names.insert(name) {
            return Err(format!(
                "image {} has no file name of its own, and CSV tells images by their file names",
                image.id
            ));
        }
        let objects = objects.remove(&image.id).unwrap_or_default();
        written += objects.len();
        if objects.is_empty() {
            rows.push(row(image, "", Default::default()));
        }
        for (class, corners) in objects {
            rows.push(row(image, class, corners.map(|corner| corner.to_string())));
        }
    }
    let mut writer = Writer::from_writer(Vec::new());
    for row in rows {
        let result = writer.write_record(row);
        result.map_err(|error| error.to_string())?;
    }
    let bytes = writer.into_inner().map_err(|error| error.to_string())?;
    Ok((bytes, written))
}

/// The classes and corners of each image's boxes.
fn objects_by_image(dataset: &Dataset) -> Result<HashMap<u64, Vec<Object<'_>>>, String> {
    let mut ids = HashMap::new();
    for category in &dataset.categories {
        if let Some(other) = ids.insert(category.name.trim(), category.id) {
            return Err(format!(
                "categories {other} and {} are both named `{}`, and CSV tells classes by their names",
                category.id,
                category.name.trim()
            ));
        }
    }
    let names: HashMap<_, _> = ids.into_iter().map(|(name, id)| (id, name)).collect();
    let mut objects: HashMap<_, Vec<_>> = HashMap::new();
    for annotation in &dataset.annotations {
        let Some(corners) = corners(annotation) else {
            continue;
        };
        let name = names.get(&annotation.category_id).copied().unwrap_or("");
        if name.is_empty() {
            return Err(format!(
                "annotation {} is of category {}, which has no name",
                annotation.id, annotation.category_id
            ));
        }
        let of_image = objects.entry(annotation.image_id).or_default();
        of_image.push((name, corners));
    }
    Ok(objects)
}

/// The corners of a box that has a place in CSV.
fn corners(annotation: &Annotation) -> Option<[f64; 4]> {
    let [x, y, width, height] = annotation.bbox?;
    let corners = [x, y, x + width, y + height];
    let sound = !annotation.iscrowd && corners.iter().all(|corner| corner.is_finite());
    sound.then_some(corners)
}

fn row(image: &Image, class: &str, [xmin, ymin, xmax, ymax]: [String; 4]) -> [String; 8] {
    // A COCO file may lack sizes. Readers look at the picture where there is nothing.
    let (width, height) = match (image.width, image.height) {
        (0, _) | (_, 0) => (String::new(), String::new()),
        (width, height) => (width.to_string(), height.to_string()),
    };
    let (name, class) = (image.file_name.clone(), class.to_owned());
    [name, width, height, class, xmin, ymin, xmax, ymax]
}

/// Reads the lines; what is wrong with one is told with its number.
fn parse(bytes: &[u8]) -> Result<Table, String> {
    // Excel begins with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = line_at(bytes, error.valid_up_to());
        format!("line {line}: it is not UTF-8; save the file as UTF-8")
    })?;
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter(text))
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(bytes);
    let mut table = Table::default();
    let mut columns = Columns::KERAS;
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| error.to_string())?;
        let fault = |reason| format!("line {}: {reason}", line_of(text, &record));
        if index == 0
            && let Some(named) = Columns::named(&record).map_err(fault)?
        {
            columns = named;
        } else {
            let line = columns.line(&record).map_err(fault)?;
            table.add(&line).map_err(fault)?;
        }
    }
    Ok(table)
}

/// A semicolon where the first line has nothing else, as Excel writes it in half of Europe.
fn delimiter(text: &str) -> u8 {
    let first = text.trim_start().lines().next().unwrap_or("");
    if first.contains(';') && !first.contains(',') {
        b';'
    } else {
        b','
    }
}

/// The number of a record's first line, from 1.
fn line_of(text: &str, record: &StringRecord) -> usize {
    let position = record.position().map_or(0, csv::Position::byte) as usize;
    // A record starts where the last one ended, before its line feed and empty lines.
    let blank = text[position..].find(|c| c != '\r' && c != '\n');
    line_at(text.as_bytes(), position + blank.unwrap_or(0))
}

fn line_at(bytes: &[u8], position: usize) -> usize {
    bytes[..position].split(|byte| *byte == b'\n').count()
}

/// Where in a line what stands.
struct Columns {
    count: usize,
    file: usize,
    class: usize,
    /// Left, top, right, bottom.
    corners: [usize; 4],
    width: Option<usize>,
    height: Option<usize>,
    /// What to add to a complaint.
    hint: &'static str,
}

/// What a line says.
struct Line<'a> {
    file: &'a str,
    /// The image's width and height in pixels.
    size: Option<(u32, u32)>,
    object: Option<Object<'a>>,
}

impl Columns {
    /// What keras-retinanet reads, without a header.
    const KERAS: Self = Self {
        count: 6,
        file: 0,
        class: 5,
        corners: [1, 2, 3, 4],
        width: None,
        height: None,
        hint: " (the first line is not a header with `filename` and `xmin`, so the columns are \
               taken for `path,x1,y1,x2,y2,class`)",
    };

    /// The columns by their names; nothing if the record is not a header.
    fn named(header: &StringRecord) -> Result<Option<Self>, String> {
        let known = |names: &[&str]| header.iter().any(|title| is_one_of(title, names));
        if !(known(FILE) && known(CORNERS[0])) {
            return Ok(None);
        }
        let [left, top, right, bottom] = CORNERS.map(|names| required(header, names));
        Ok(Some(Self {
            count: header.len(),
            file: required(header, FILE)?,
            class: required(header, CLASS)?,
            corners: [left?, top?, right?, bottom?],
            width: optional(header, &["width"])?,
            height: optional(header, &["height"])?,
            hint: "",
        }))
    }

    fn line<'a>(&self, record: &'a StringRecord) -> Result<Line<'a>, String> {
        let hint = self.hint;
        if record.len() != self.count {
            let (found, expected) = (record.len(), self.count);
            return Err(format!("it has {found} columns, expected {expected}{hint}"));
        }
        let file = &record[self.file];
        if file.is_empty() {
            return Err(format!("it names no file{hint}"));
        }
        let object = self.object(record);
        Ok(Line {
            file,
            size: self.size(record)?,
            object: object.map_err(|reason| reason + hint)?,
        })
    }

    fn size(&self, record: &StringRecord) -> Result<Option<(u32, u32)>, String> {
        let read = |column: Option<usize>, name| match column.map_or("", |column| &record[column]) {
            "" => Ok(None),
            text => (pixels(text).map(Some))
                .ok_or_else(|| format!("its {name} `{text}` is not a number of pixels")),
        };
        match (read(self.width, "width")?, read(self.height, "height")?) {
            (Some(width), Some(height)) => Ok(Some((width, height))),
            (None, None) => Ok(None),
            (Some(_), None) => Err("it has a width but no height".into()),
            (None, Some(_)) => Err("it has a height but no width".into()),
        }
    }

    fn object<'a>(&self, record: &'a StringRecord) -> Result<Option<Object<'a>>, String> {
        let class = &record[self.class];
        let texts = self.corners.map(|column| &record[column]);
        if class.is_empty() && texts.iter().all(|text| text.is_empty()) {
            return Ok(None);
        }
        let mut corners = [0.0; 4];
        for (index, name) in ["left", "top", "right", "bottom"].into_iter().enumerate() {
            corners[index] = match texts[index] {
                "" => return Err(format!("its box has no {name} edge")),
                text => number(text).ok_or_else(|| {
                    format!("the {name} edge of its box is `{text}`, which is not a finite number")
                })?,
            };
        }
        if class.is_empty() {
            return Err("its box has no class".into());
        }
        Ok(Some((class, corners)))
    }
}

fn is_one_of(title: &str, names: &[&str]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(title))
}

fn required(header: &StringRecord, names: &[&str]) -> Result<usize, String> {
    optional(header, names)?.ok_or_else(|| format!("the header has no column `{}`", names[0]))
}

fn optional(header: &StringRecord, names: &[&str]) -> Result<Option<usize>, String> {
    let titles = header.iter().enumerate();
    let mut found = titles.filter(|(_, title)| is_one_of(title, names));
    match (found.next(), found.next()) {
        (Some((_, first)), Some((_, second))) => Err(format!(
            "the columns `{first}` and `{second}` both mean `{}`; rename the one that does not",
            names[0]
        )),
        (first, _) => Ok(first.map(|(index, _)| index)),
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A size of at least 1. pandas turns columns of integers into floats, so `640.0` is one too.
fn pixels(text: &str) -> Option<u32> {
    let size = number(text)?;
    let sound = size.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&size);
    sound.then_some(size as u32)
}

/// What the lines have said.
#[derive(Default)]
struct Table {
    /// With the size 0×0 where no line told it.
    images: Vec<Image>,
    /// Where in `images` a file name is.
    places: HashMap<String, usize>,
    /// Without categories, which are only known at the end.
    annotations: Vec<Annotation>,
    /// The class of each annotation.
    classes: Vec<String>,
}

impl Table {
    fn add(&mut self, line: &Line<'_>) -> Result<(), String> {
        let id = self.annotations.len() as u64 + 1;
        let image = self.image(line.file);
        if let Some((width, height)) = line.size {
            if image.width != 0 && (image.width, image.height) != (width, height) {
                return Err(format!(
                    "`{}` is {width}×{height} pixels, but {}×{} on a line before",
                    line.file, image.width, image.height
                ));
            }
            (image.width, image.height) = (width, height);
        }
        if let Some((class, [left, top, right, bottom])) = line.object {
            let (width, height) = (right - left, bottom - top);
            let annotation = Annotation {
                id,
                image_id: image.id,
                bbox: Some([left, top, width, height]),
                area: Some(width * height),
                ..Annotation::default()
            };
            self.annotations.push(annotation);
            self.classes.push(class.into());
        }
        Ok(())
    }

    fn image(&mut self, file: &str) -> &mut Image {
        let next = self.images.len();
        let place = *self.places.entry(file.into()).or_insert(next);
        if place == next {
            self.images.push(Image {
                id: next as u64 + 1,
                file_name: file.into(),
                ..Image::default()
            });
        }
        &mut self.images[place]
    }

    /// Reads the sizes that no line told.
    fn measure(&mut self, folder: &Path) -> Result<(), ConvertError> {
        for image in self.images.iter_mut().filter(|image| image.width == 0) {
            let path = folder.join(&image.file_name);
            (image.width, image.height) =
                read_header(&path)
                    .map(|header| header.upright)
                    .map_err(|error| ConvertError::Failed {
                        path,
                        reason: format!(
                            "its size, which the CSV file does not tell, could not be read: {}",
                            error
                                .source()
                                .map_or_else(|| error.to_string(), ToString::to_string)
                        ),
                    })?;
        }
        Ok(())
    }

    fn into_dataset(mut self) -> Dataset {
        let mut ids: BTreeMap<_, u64> = self.classes.iter().map(|name| (name, 0)).collect();
        for (id, number) in ids.values_mut().zip(1..) {
            *id = number;
        }
        for (annotation, class) in self.annotations.iter_mut().zip(&self.classes) {
            annotation.category_id = ids[class];
        }
        let category = |(name, id): (&String, u64)| Category {
            id,
            name: name.clone(),
            ..Category::default()
        };
        Dataset {
            categories: ids.into_iter().map(category).collect(),
            images: self.images,
            annotations: self.annotations,
            ..Dataset::default()
        }
    }
}

#[cfg(test)]
mod tests;
