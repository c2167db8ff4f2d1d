//! CVAT's "CVAT for images 1.1": one XML file with an element for each image and each shape
//! ([its description](https://docs.cvat.ai/docs/manual/advanced/xml_format/)).

use hotcoco::{Annotation, Category, Dataset, Image};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesStart, BytesText, Event};
use quick_xml::reader::Reader;

use super::shapes::{Classes, ReadDataset, by_image, enclosing, rotated};

/// Reads a file's text.
///
/// Polygons, ellipses and rotated boxes become the boxes around them; points, lines, tags, masks, cuboids and skeletons
/// are left out, and counted.
///
/// # Errors
///
/// Returns what is wrong with the file, in words, with the image.
pub(super) fn read(text: &str) -> Result<ReadDataset, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut parser = Parser::default();
    loop {
        let place = reader.buffer_position();
        let event = reader
            .read_event()
            .map_err(|error| format!("at byte {place}: {error}"))?;
        match event {
            Event::Start(element) => parser.start(&element)?,
            Event::Text(text) => {
                let text = text.decode().map_err(|error| error.to_string())?;
                parser.text.push_str(&unescaped(&text)?);
            }
            Event::GeneralRef(reference) => {
                let name = reference.decode().map_err(|error| error.to_string())?;
                parser.text.push_str(&unescaped(&format!("&{name};"))?);
            }
            Event::End(element) => parser.end(element.name().as_ref()),
            Event::Eof => break,
            _ => {}
        }
    }
    parser.finish()
}

fn unescaped(text: &str) -> Result<String, String> {
    let text = quick_xml::escape::unescape(text).map_err(|error| error.to_string())?;
    Ok(text.into_owned())
}

/// Shapes that have no box.
const NOT_BOXES: [&str; 7] = [
    "points",
    "polyline",
    "tag",
    "mask",
    "cuboid",
    "skeleton",
    "ellipsoid",
];

#[derive(Default)]
struct Parser {
    read: ReadDataset,
    classes: Classes,
    has_root: bool,
    /// The elements that are open, the outermost first.
    open: Vec<String>,
    /// The text of the innermost one so far.
    text: String,
}

impl Parser {
    fn start(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        let name = String::from_utf8_lossy(element.name().as_ref()).into_owned();
        if self.open.is_empty() && name != "annotations" {
            return Err(format!(
                "it begins with <{name}>, where CVAT's begin with <annotations>"
            ));
        }
        self.has_root = true;
        self.text.clear();
        let attributes = Attributes::of(element)?;
        match name.as_str() {
            "track" => {
                return Err(
                    "it is of CVAT for video; export the task as `CVAT for images 1.1`".into(),
                );
            }
            "image" => self.image(&attributes)?,
            "box" | "polygon" | "ellipse" => {
                let corners = Self::corners(&name, &attributes);
                let corners = corners.map_err(|reason| self.of_image(&reason))?;
                self.shape(&attributes, &corners)?;
            }
            other if NOT_BOXES.contains(&other) => self.read.left_out += 1,
            _ => {}
        }
        self.open.push(name);
        Ok(())
    }

    fn end(&mut self, name: &[u8]) {
        let is_name_of_label = name == b"name" && self.parent() == Some("label");
        if is_name_of_label {
            self.classes.id_of(self.text.trim());
        }
        self.open.pop();
        self.text.clear();
    }

    /// What holds the innermost open element.
    fn parent(&self) -> Option<&str> {
        let place = self.open.len().checked_sub(2)?;
        self.open.get(place).map(String::as_str)
    }

    fn image(&mut self, attributes: &Attributes) -> Result<(), String> {
        let images = &mut self.read.dataset.images;
        let name = attributes.text("name")?.to_owned();
        let side = |key: &str| {
            let value = attributes
                .number(key)
                .map_err(|error| format!("`{name}`: {error}"))?;
            let whole = value.fract() == 0.0 && (1.0..=65_535.0).contains(&value);
            whole
                .then_some(value as u32)
                .ok_or_else(|| format!("`{name}`: {key} is {value}, which is no length in pixels"))
        };
        let (width, height) = (side("width")?, side("height")?);
        images.push(Image {
            id: images.len() as u64 + 1,
            file_name: name,
            width,
            height,
            ..Image::default()
        });
        Ok(())
    }

    /// A reason with the image that is open.
    fn of_image(&self, reason: &str) -> String {
        let image = self.read.dataset.images.last();
        image.map_or_else(
            || reason.to_owned(),
            |image| format!("`{}`: {reason}", image.file_name),
        )
    }

    /// The corners of a shape.
    fn corners(shape: &str, attributes: &Attributes) -> Result<Vec<[f64; 2]>, String> {
        match shape {
            "box" => {
                let [left, top, right, bottom] =
                    ["xtl", "ytl", "xbr", "ybr"].map(|key| attributes.number(key));
                let (left, top, right, bottom) = (left?, top?, right?, bottom?);
                let degrees = attributes.number_or("rotation", 0.0)?;
                Ok(rotated([left, top, right, bottom], degrees))
            }
            "ellipse" => {
                let [x, y, rx, ry] = ["cx", "cy", "rx", "ry"].map(|key| attributes.number(key));
                let (x, y, rx, ry) = (x?, y?, rx?, ry?);
                let degrees = attributes.number_or("rotation", 0.0)?;
                Ok(rotated([x - rx, y - ry, x + rx, y + ry], degrees))
            }
            _ => points(attributes.text("points")?),
        }
    }

    fn shape(&mut self, attributes: &Attributes, corners: &[[f64; 2]]) -> Result<(), String> {
        let label = attributes.text("label")?.trim();
        let category_id = self.classes.id_of(label);
        let Some(image) = self.read.dataset.images.last() else {
            return Err(format!("a shape of `{label}` stands outside an image"));
        };
        let bbox = enclosing(corners)
            .ok_or_else(|| format!("`{}`: a shape of `{label}` has no number", image.file_name))?;
        let annotations = &mut self.read.dataset.annotations;
        annotations.push(Annotation {
            id: annotations.len() as u64 + 1,
            image_id: image.id,
            category_id,
            bbox: Some(bbox),
            area: Some(bbox[2] * bbox[3]),
            ..Annotation::default()
        });
        Ok(())
    }

    fn finish(mut self) -> Result<ReadDataset, String> {
        if !self.has_root {
            return Err("it is no XML file of CVAT's".into());
        }
        if let Some(name) = self.open.last() {
            return Err(format!("it ends inside <{name}>"));
        }
        self.read.dataset.categories = self.classes.categories();
        Ok(self.read)
    }
}

/// The points of `x,y;x,y;…`.
fn points(text: &str) -> Result<Vec<[f64; 2]>, String> {
    text.split(';')
        .map(|point| {
            let mut numbers = point.split(',').map(|number| number.trim().parse());
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(x)), Some(Ok(y)), None) => Ok([x, y]),
                _ => Err(format!("`{point}` is no point")),
            }
        })
        .collect()
}

/// The attributes of an element.
struct Attributes {
    element: String,
    values: Vec<(String, String)>,
}

impl Attributes {
    fn of(element: &BytesStart<'_>) -> Result<Self, String> {
        let name = String::from_utf8_lossy(element.name().as_ref()).into_owned();
        let mut values = Vec::new();
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|error| format!("<{name}>: {error}"))?;
            let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
            let value = String::from_utf8_lossy(&attribute.value);
            values.push((key, unescaped(&value)?));
        }
        Ok(Self {
            element: name,
            values,
        })
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        let value = self.values.iter().find(|(name, _)| name == key);
        let value = value.map(|(_, value)| value.as_str());
        value.ok_or_else(|| format!("<{}> has no `{key}`", self.element))
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        let text = self.text(key)?;
        let number = text.trim().parse::<f64>().ok().filter(|it| it.is_finite());
        number.ok_or_else(|| {
            format!(
                "<{}>: `{key}` is `{text}`, which is no number",
                self.element
            )
        })
    }

    fn number_or(&self, key: &str, absent: f64) -> Result<f64, String> {
        if self.values.iter().any(|(name, _)| name == key) {
            self.number(key)
        } else {
            Ok(absent)
        }
    }
}

/// Writes a data set as text; tells how many annotations were taken over. The score of a detection is an attribute,
/// which the labels define.
///
/// # Errors
///
/// Returns what went wrong, in words.
pub(super) fn write(dataset: &Dataset) -> Result<(String, usize), String> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    let written = write_to(&mut writer, dataset).map_err(|error| error.to_string())?;
    let text = String::from_utf8(writer.into_inner()).map_err(|error| error.to_string())?;
    Ok((text + "\n", written))
}

fn write_to(writer: &mut Writer<Vec<u8>>, dataset: &Dataset) -> std::io::Result<usize> {
    let of_images = by_image(dataset);
    let has_scores = dataset.annotations.iter().any(|it| it.score.is_some());
    let mut written = 0;
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
    writer
        .create_element("annotations")
        .write_inner_content(|writer| {
            text(writer, "version", "1.1")?;
            writer
                .create_element("meta")
                .write_inner_content(|writer| {
                    writer
                        .create_element("task")
                        .write_inner_content(|writer| {
                            writer
                                .create_element("labels")
                                .write_inner_content(|writer| {
                                    (dataset.categories.iter())
                                        .try_for_each(|it| label(writer, it, has_scores))
                                })?;
                            Ok(())
                        })?;
                    Ok(())
                })?;
            for (place, image) in dataset.images.iter().enumerate() {
                let (id, width, height) = (
                    place.to_string(),
                    image.width.to_string(),
                    image.height.to_string(),
                );
                let attributes = [
                    ("id", id.as_str()),
                    ("name", image.file_name.as_str()),
                    ("width", width.as_str()),
                    ("height", height.as_str()),
                ];
                writer
                    .create_element("image")
                    .with_attributes(attributes)
                    .write_inner_content(|writer| {
                        for annotation in of_images.get(&image.id).into_iter().flatten() {
                            written += usize::from(shape(writer, dataset, annotation)?);
                        }
                        Ok(())
                    })?;
            }
            Ok(())
        })?;
    Ok(written)
}

fn text(writer: &mut Writer<Vec<u8>>, name: &str, text: &str) -> std::io::Result<()> {
    writer
        .create_element(name)
        .write_text_content(BytesText::new(text))?;
    Ok(())
}

fn label(
    writer: &mut Writer<Vec<u8>>,
    category: &Category,
    has_scores: bool,
) -> std::io::Result<()> {
    writer
        .create_element("label")
        .write_inner_content(|writer| {
            text(writer, "name", &category.name)?;
            writer
                .create_element("attributes")
                .write_inner_content(|writer| {
                    if has_scores {
                        writer
                            .create_element("attribute")
                            .write_inner_content(|writer| {
                                text(writer, "name", "score")?;
                                text(writer, "mutable", "False")?;
                                text(writer, "input_type", "number")?;
                                text(writer, "default_value", "1")?;
                                text(writer, "values", "0\n1\n0.0001")
                            })?;
                    }
                    Ok(())
                })?;
            Ok(())
        })?;
    Ok(())
}

/// Whether it has a place there.
fn shape(
    writer: &mut Writer<Vec<u8>>,
    dataset: &Dataset,
    annotation: &Annotation,
) -> std::io::Result<bool> {
    let category = (dataset.categories.iter()).find(|it| it.id == annotation.category_id);
    let (Some(category), Some([x, y, width, height]), false) =
        (category, annotation.bbox, annotation.iscrowd)
    else {
        return Ok(false);
    };
    let edges = [x, y, x + width, y + height].map(|edge| format!("{edge:.4}"));
    let [left, top, right, bottom] = edges.each_ref().map(String::as_str);
    let source = if annotation.score.is_some() {
        "auto"
    } else {
        "manual"
    };
    let element = writer.create_element("box").with_attributes([
        ("label", category.name.as_str()),
        ("source", source),
        ("occluded", "0"),
        ("xtl", left),
        ("ytl", top),
        ("xbr", right),
        ("ybr", bottom),
        ("z_order", "0"),
    ]);
    match annotation.score {
        Some(score) => element.write_inner_content(|writer| {
            let score = format!("{score:.4}");
            let attribute = writer.create_element("attribute");
            let attribute = attribute.with_attribute(("name", "score"));
            attribute.write_text_content(BytesText::new(&score))?;
            Ok(())
        })?,
        None => element.write_empty()?,
    };
    Ok(true)
}

#[cfg(test)]
mod tests;
