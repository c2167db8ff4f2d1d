//! As much of YAML as a list of classes needs: texts, lists and tables.

use saphyr_parser::{Event, Parser};

/// How deep lists and tables may be nested.
const DEEPEST: usize = 32;

/// A value of a document. Every scalar is the text that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Yaml {
    Text(String),
    List(Vec<Self>),
    /// In the order of the document; a key that is not text is empty.
    Table(Vec<(String, Self)>),
}

impl Yaml {
    /// Reads the first document of a text.
    ///
    /// # Errors
    ///
    /// Returns where and why if it is not YAML; aliases are refused too, as they can make a short text
    /// gigabytes.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut building = Building::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| error.to_string())?;
            let at = |what| format!("line {}: {what}", span.start.line());
            match event {
                Event::Alias(_) => return Err(at("aliases (`*name`) are not read")),
                Event::Scalar(text, ..) => building.add(Self::Text(text.into_owned())),
                Event::SequenceStart(..) => building.open(Self::List(Vec::new())),
                Event::MappingStart(..) => building.open(Self::Table(Vec::new())),
                Event::SequenceEnd | Event::MappingEnd => building.close(),
                Event::DocumentEnd => break,
                _ => {}
            }
            if building.open.len() > DEEPEST {
                return Err(at("lists and tables lie too deep in one another"));
            }
        }
        Ok(building.root.unwrap_or(Self::Table(Vec::new())))
    }

    /// The value at a key of a table.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Table(entries) => Some(&entries.iter().find(|(it, _)| it == key)?.1),
            Self::Text(_) | Self::List(_) => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::List(_) | Self::Table(_) => None,
        }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Building {
    root: Option<Yaml>,
    /// The lists and tables that have not ended, each with the key that waits for its value.
    open: Vec<(Yaml, Option<String>)>,
}

impl Building {
    fn open(&mut self, value: Yaml) {
        self.open.push((value, None));
    }

    fn close(&mut self) {
        if let Some((value, _)) = self.open.pop() {
            self.add(value);
        }
    }

    fn add(&mut self, value: Yaml) {
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some((Yaml::List(items), _)) => items.push(value),
            Some((Yaml::Table(entries), key)) => match key.take() {
                Some(key) => entries.push((key, value)),
                None => *key = Some(value.as_text().unwrap_or_default().to_owned()),
            },
            Some((Yaml::Text(_), _)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aliases_and_depth_are_bounded() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n";
        assert!(Yaml::parse(bomb).unwrap_err().contains("aliases"));
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(Yaml::parse(&deep).unwrap_err().contains("too deep"));
        assert!(Yaml::parse(&"[".repeat(100_000)).is_err());
        assert_eq!(Yaml::parse(""), Ok(Yaml::Table(Vec::new())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_text_panics(text in "[ \\-:,\\[\\]{}'\"#&*!|>%@a-c0-2\n\t\u{e9}]{0,80}") {
            let _ = Yaml::parse(&text);
        }
    }
}
