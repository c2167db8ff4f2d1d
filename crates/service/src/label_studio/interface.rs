//! A project's labelling interface: which controls boxes are for, and what its labels are called.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Where boxes go in a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The name of its `<RectangleLabels>`.
    pub(crate) from_name: String,
    /// The name of its `<Image>`.
    pub(crate) to_name: String,
    /// The field of a task's data that names the picture.
    pub(crate) field: String,
    pub(crate) labels: Vec<String>,
}

#[derive(Default)]
struct Controls {
    /// Name, picture and labels of the first `<RectangleLabels>`.
    boxes: Option<(String, String, Vec<String>)>,
    is_open: bool,
    /// The fields of the `<Image>`s, by their names.
    pictures: HashMap<String, String>,
}

impl Interface {
    /// Reads an interface's XML.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with it, in words.
    pub(crate) fn parse(xml: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(xml);
        reader.config_mut().expand_empty_elements = true;
        let mut controls = Controls::default();
        loop {
            let place = reader.buffer_position();
            let event = reader.read_event();
            match event.map_err(|error| format!("at byte {place}: {error}"))? {
                Event::Start(element) => controls.start(&element)?,
                Event::End(element) if element.name().as_ref() == b"RectangleLabels" => {
                    controls.is_open = false;
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let (from_name, to_name, labels) = (controls.boxes)
            .ok_or("it has no <RectangleLabels>, and boxes are all that is detected")?;
        let field = controls.pictures.remove(&to_name);
        let field = field.ok_or_else(|| {
            format!("it has no <Image name=\"{to_name}\"> with a value like \"$image\"")
        })?;
        Ok(Self {
            from_name,
            to_name,
            field,
            labels,
        })
    }

    /// What the interface calls a class, in whatever case.
    pub(crate) fn label(&self, class: &str) -> Option<&str> {
        let exact = self.labels.iter().find(|label| *label == class);
        let same = |label: &&String| label.to_lowercase() == class.to_lowercase();
        exact
            .or_else(|| self.labels.iter().find(same))
            .map(String::as_str)
    }
}

impl Controls {
    fn start(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        match element.name().as_ref() {
            b"RectangleLabels" if self.boxes.is_none() => {
                let [name, picture] = ["name", "toName"].map(|key| attribute(element, key));
                let missing = "its <RectangleLabels> has no name or no toName";
                let (name, picture) = (name?.ok_or(missing)?, picture?.ok_or(missing)?);
                self.boxes = Some((name, picture, Vec::new()));
                self.is_open = true;
            }
            b"Label" if self.is_open => {
                if let Some((_, _, labels)) = &mut self.boxes {
                    labels.extend(attribute(element, "value")?);
                }
            }
            b"Image" => {
                let [name, value] = ["name", "value"].map(|key| attribute(element, key));
                if let (Some(name), Some(value)) = (name?, value?)
                    && let Some(field) = value.strip_prefix('$')
                {
                    self.pictures.insert(name, field.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Label Studio takes names of attributes in any case.
fn attribute(element: &BytesStart<'_>, key: &str) -> Result<Option<String>, String> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        if attribute.key.as_ref().eq_ignore_ascii_case(key.as_bytes()) {
            let value = String::from_utf8_lossy(&attribute.value);
            let value = quick_xml::escape::unescape(&value).map_err(|error| error.to_string())?;
            return Ok(Some(value.into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_for_boxes_is_read() {
        let xml = r##"<View>
            <Image name="photo" value="$picture" zoom="true"/>
            <Choices name="weather" toName="photo"><Choice value="rain"/></Choices>
            <RectangleLabels name="boxes" toName="photo">
                <Label value="Cat" background="#FFA39E"/><Label value="dog &amp; bone"/>
            </RectangleLabels>
            <Labels name="others" toName="photo"><Label value="no box"/></Labels>
        </View>"##;
        let interface = Interface::parse(xml).unwrap();
        let expected = Interface {
            from_name: "boxes".into(),
            to_name: "photo".into(),
            field: "picture".into(),
            labels: vec!["Cat".into(), "dog & bone".into()],
        };
        assert_eq!(interface, expected);
        assert_eq!(interface.label("cat"), Some("Cat"));
        assert_eq!(interface.label("bird"), None);
    }

    #[test]
    fn what_boxes_have_no_place_in_is_told() {
        for (xml, reason) in [
            (
                "<View><Image name='i' value='$i'/></View>",
                "no <RectangleLabels>",
            ),
            (
                "<View><RectangleLabels name='b' toName='i'/></View>",
                "<Image name=\"i\">",
            ),
            (
                "<View><Image name='i' value='fixed.png'/><RectangleLabels name='b' toName='i'/></View>",
                "\"$image\"",
            ),
            ("<View><RectangleLabels name='b'/></View>", "no toName"),
            ("<View><Image", "at byte"),
            ("", "no <RectangleLabels>"),
        ] {
            let told = Interface::parse(xml).unwrap_err();
            assert!(told.contains(reason), "{xml}: {told}");
        }
    }
}
