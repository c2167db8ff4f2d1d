//! The keys of the config, read from the structs that own them.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::config::ExperimentConfig;

/// The key that chooses among the kinds of a section.
pub(crate) const TAG: &str = "kind";

/// A key as its struct has it.
pub(crate) struct SchemaKey {
    pub(crate) path: String,
    /// The kinds of its section that it stands beside; all where there are none.
    pub(crate) kinds: Vec<String>,
    /// What it may be.
    pub(crate) value: String,
    pub(crate) default: String,
    pub(crate) meaning: String,
}

/// All keys, in the order of the structs.
pub(crate) fn schema_keys() -> Vec<SchemaKey> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings
        .into_generator()
        .into_root_schema_for::<ExperimentConfig>();
    let mut keys = Vec::new();
    if let Some(schema) = schema.as_object() {
        section(schema, "", &mut keys);
    }
    keys
}

fn section(schema: &Map<String, Value>, path: &str, keys: &mut Vec<SchemaKey>) {
    let variants = variants(schema);
    if !variants.is_empty() {
        let of_kind = |(kind, variant): &(String, &Map<String, Value>)| match text(variant) {
            meaning if meaning.is_empty() => format!("`{kind}`"),
            meaning => format!("`{kind}`: {meaning}"),
        };
        let names: Vec<_> = variants
            .iter()
            .map(|(kind, _)| format!("`{kind}`"))
            .collect();
        let default = schema.get("default").and_then(|it| it.get(TAG));
        keys.push(SchemaKey {
            path: join(path, TAG),
            kinds: Vec::new(),
            value: names.join(", "),
            default: default.map_or_else(String::new, shown),
            meaning: variants.iter().map(of_kind).collect::<Vec<_>>().join(" "),
        });
    }
    for (kind, variant) in &variants {
        for (name, property) in properties(variant).filter(|(name, _)| *name != TAG) {
            let before = keys.len();
            key(property, None, &join(path, name), keys);
            let added = keys.split_off(before);
            for added in added {
                add_to_kind(added, kind, keys);
            }
        }
    }
    for (name, property) in properties(schema).filter(|(name, _)| *name != TAG) {
        let default = schema.get("default").and_then(|it| it.get(name));
        key(property, default, &join(path, name), keys);
    }
}

/// Kinds that have the same key share an entry.
fn add_to_kind(added: SchemaKey, kind: &str, keys: &mut Vec<SchemaKey>) {
    let same = |key: &&mut SchemaKey| {
        key.path == added.path && key.value == added.value && key.default == added.default
    };
    match keys.iter_mut().find(same) {
        Some(key) => key.kinds.push(kind.to_owned()),
        None => keys.push(SchemaKey {
            kinds: vec![kind.to_owned()],
            ..added
        }),
    }
}

/// A key, or the keys of a section. `default` is what the section around it says; else it is the key's own.
fn key(
    schema: &Map<String, Value>,
    default: Option<&Value>,
    path: &str,
    keys: &mut Vec<SchemaKey>,
) {
    let default = default.or_else(|| schema.get("default"));
    let inner = given(schema);
    if inner.contains_key("properties") || !variants(inner).is_empty() {
        let mut inner = inner.clone();
        if let Some(default) = default.filter(|it| it.is_object()) {
            inner.insert("default".to_owned(), default.clone());
        }
        section(&inner, path, keys);
        return;
    }
    let (meaning, of_values) = (text(schema), meanings_of_values(inner));
    keys.push(SchemaKey {
        path: path.to_owned(),
        kinds: Vec::new(),
        value: value(inner),
        default: default.map_or_else(String::new, shown),
        meaning: [meaning, of_values].join(" ").trim().to_owned(),
    });
}

/// What an optional key is if it is given.
fn given(schema: &Map<String, Value>) -> &Map<String, Value> {
    let any = schema.get("anyOf").and_then(Value::as_array);
    let inner = any.and_then(|any| match any.as_slice() {
        [inner, null] if null.get("type") == Some(&Value::from("null")) => inner.as_object(),
        _ => None,
    });
    inner.unwrap_or(schema)
}

/// The kinds of a section, each with its keys.
fn variants(schema: &Map<String, Value>) -> Vec<(String, &Map<String, Value>)> {
    let one_of = schema.get("oneOf").and_then(Value::as_array);
    let variants = one_of.into_iter().flatten().filter_map(Value::as_object);
    let kind = |variant: &Map<String, Value>| {
        let kind = variant.get("properties")?.get(TAG)?.get("const")?;
        Some(kind.as_str()?.to_owned())
    };
    variants
        .filter_map(|variant| Some((kind(variant)?, variant)))
        .collect()
}

fn properties(schema: &Map<String, Value>) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties.into_iter().flatten();
    properties.filter_map(|(name, property)| Some((name.as_str(), property.as_object()?)))
}

/// What a key may be, in words.
fn value(schema: &Map<String, Value>) -> String {
    if let Some(range) = schema.get("range").and_then(Value::as_str) {
        return match type_of(schema) {
            "number" => format!("number {}", after_a_noun(range)),
            "integer" => format!("whole number {}", after_a_noun(range)),
            _ => range.to_owned(),
        };
    }
    let names = names_of_values(schema);
    if !names.is_empty() {
        return names.join(", ");
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let choices = choices.iter().filter_map(Value::as_object).map(value);
        return choices.collect::<Vec<_>>().join(" or ");
    }
    match type_of(schema) {
        "boolean" => "true or false".to_owned(),
        "string" => "text".to_owned(),
        "array" => list(schema),
        "object" => "table".to_owned(),
        other => other.to_owned(),
    }
}

/// "in [0, 1]", and "that is at least 1".
fn after_a_noun(range: &str) -> String {
    if range.starts_with("in ") {
        range.to_owned()
    } else {
        format!("that is {range}")
    }
}

fn list(schema: &Map<String, Value>) -> String {
    let item = schema.get("items").and_then(Value::as_object);
    let item = item.map_or_else(|| "values".to_owned(), value);
    match schema.get("minItems").and_then(Value::as_u64) {
        Some(length) => format!("list of {length}, each {item}"),
        None => format!("list, each {item}"),
    }
}

/// The type, without null.
fn type_of(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => names.first().and_then(Value::as_str).unwrap_or_default(),
        _ => "",
    }
}

/// The names that a key may have as its value.
fn names_of_values(schema: &Map<String, Value>) -> Vec<String> {
    let listed = schema.get("enum").and_then(Value::as_array);
    let described = schema.get("oneOf").and_then(Value::as_array);
    let described = described
        .into_iter()
        .flatten()
        .filter_map(|it| it.get("const"));
    let alone = schema.get("const");
    let all = listed.into_iter().flatten().chain(described).chain(alone);
    all.filter(|it| !it.is_null())
        .map(|it| format!("`{}`", shown(it)))
        .collect()
}

fn meanings_of_values(schema: &Map<String, Value>) -> String {
    let described = schema.get("oneOf").and_then(Value::as_array);
    let meaning = |it: &Value| {
        let (name, meaning) = (it.get("const")?, text(it.as_object()?));
        (!meaning.is_empty()).then(|| format!("`{}`: {meaning}", shown(name)))
    };
    let meanings = described.into_iter().flatten().filter_map(meaning);
    meanings.collect::<Vec<_>>().join(" ")
}

/// The documentation in one line.
fn text(schema: &Map<String, Value>) -> String {
    let text = schema.get("description").and_then(Value::as_str);
    let words = text.unwrap_or_default().split_whitespace();
    without_links_to_code(&words.collect::<Vec<_>>().join(" "))
}

/// The text of links that lead into the documentation of code, in place of them.
fn without_links_to_code(text: &str) -> String {
    let Some((before, rest)) = text.split_once('[') else {
        return text.to_owned();
    };
    let link = rest.split_once("](").and_then(|(label, rest)| {
        let (target, after) = rest.split_once(')')?;
        (!label.contains('[') && target.contains("::")).then_some((label, after))
    });
    match link {
        Some((label, after)) => format!("{before}{label}{}", without_links_to_code(after)),
        None => format!("{before}[{}", without_links_to_code(rest)),
    }
}

/// A value as TOML has it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(shown).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

/// A key's path in a section; the whole config's is empty.
pub(crate) fn join(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_code_are_their_text() {
        let text = "[0, 1], [`skipped`](crate::Batch::skipped) and [a paper](https://arxiv.org)";
        let expected = "[0, 1], `skipped` and [a paper](https://arxiv.org)";
        assert_eq!(without_links_to_code(text), expected);
    }
}
