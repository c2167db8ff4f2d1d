//! Reads a config from its table, and says in one line what is wrong with it: the key by its path, what it may be, and
//! what it is.

use toml::{Table, Value};

use crate::config::ExperimentConfig;
use crate::keys::{ConfigKey, MOVED, NAMED, TAG, config_keys};
use crate::schema::join;

/// The config that a table says, with all keys.
pub(crate) fn explain(table: &Table) -> Result<ExperimentConfig, String> {
    check_names(table, "")?;
    read(table.clone()).map_err(|message| {
        let path = culprit(table, &message);
        let kind = kind_beside(table, &path);
        told(&path.join("."), kind, value_at(table, &path), &message)
    })
}

fn read(table: Table) -> Result<ExperimentConfig, String> {
    let read = table.try_into::<ExperimentConfig>();
    read.map_err(|error| error.message().to_owned())
}

/// Refuses keys that there are not, or that mean nothing beside their section's kind.
fn check_names(table: &Table, section: &str) -> Result<(), String> {
    for (name, value) in table {
        let path = join(section, name);
        let entries: Vec<_> = config_keys()
            .iter()
            .filter(|key| key.path == path)
            .collect();
        let kind = table.get(TAG).and_then(Value::as_str);
        if let (Some(first), Some(kind)) = (entries.first(), kind)
            && !entries.iter().any(|key| key.stands_beside(kind))
        {
            return Err(means_nothing(first, kind));
        }
        let is_section = is_section(&path);
        match value {
            Value::Table(table) if is_section => check_names(table, &path)?,
            value if is_section => return Err(not_a_section(&path, value)),
            _ if entries.is_empty() => return Err(unknown(section, name, kind)),
            _ => {}
        }
    }
    Ok(())
}

fn is_section(path: &str) -> bool {
    let inside = format!("{path}.");
    config_keys()
        .iter()
        .any(|key| key.path.starts_with(&inside))
}

/// The kind of the section that a key is in.
fn kind_beside<'a>(table: &'a Table, path: &[String]) -> Option<&'a str> {
    let (_, section) = path.split_last()?;
    let table = match section {
        [] => table,
        section => value_at(table, section)?.as_table()?,
    };
    table.get(TAG)?.as_str()
}

fn means_nothing(key: &ConfigKey, kind: &str) -> String {
    let section = key.section();
    let takes: Vec<_> = (config_keys().iter())
        .filter(|other| other.section() == section && other.name() != TAG)
        .filter(|other| other.kinds.iter().any(|it| it == kind))
        .map(|other| format!("`{}`", other.name()))
        .collect();
    let takes = if takes.is_empty() {
        "has no settings of its own".to_owned()
    } else {
        format!("has {}", takes.join(", "))
    };
    format!(
        "`{}` means nothing beside `kind = \"{kind}\"`, which {takes}",
        key.path
    )
}

fn not_a_section(path: &str, value: &Value) -> String {
    let is_tag = |key: &&ConfigKey| key.section() == path && key.name() == TAG;
    let allowed = match config_keys().iter().find(is_tag) {
        Some(tag) => format!("a table such as `{{ kind = {} }}`", tag.default),
        None => "a table of keys".to_owned(),
    };
    format!("`{path}` must be {allowed}, got {value}")
}

fn unknown(section: &str, name: &str, kind: Option<&str>) -> String {
    let path = join(section, name);
    if name == "name" && NAMED.contains(&section) {
        return format!("`{path}` is `{section}.{TAG}` since 0.2, and both are given");
    }
    if let Some((_, new)) = MOVED.iter().find(|(old, _)| *old == path) {
        return format!("`{path}` is `{new}` since 0.2");
    }
    let start = if section.is_empty() {
        String::new()
    } else {
        format!("{section}.")
    };
    let mut known: Vec<&str> = Vec::new();
    for key in config_keys() {
        let fits = kind.is_none_or(|kind| key.section() != section || key.stands_beside(kind));
        let here = key.path.strip_prefix(&start).filter(|_| fits);
        let here = here.and_then(|rest| rest.split('.').next());
        known.extend(here.filter(|name| !known.contains(name)));
    }
    let elsewhere = || config_keys().iter().find(|key| key.name() == name);
    match (nearest(name, &known), elsewhere()) {
        (Some(nearest), _) => format!("unknown key `{path}`, did you mean `{nearest}`?"),
        (None, Some(key)) => format!("unknown key `{path}`, did you mean `{}`?", key.path),
        (None, None) => format!("unknown key `{path}`; here are `{}`", known.join("`, `")),
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let similarity = |known: &&'a str| {
        let similarity = strsim::jaro_winkler(&name, &known.to_lowercase());
        (similarity, *known)
    };
    let best = known
        .iter()
        .map(similarity)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(similarity, _)| *similarity > 0.7)
        .map(|it| it.1)
}

/// The path of the key that makes reading fail so: alone in its sections, it makes the same failure. Serde itself loses the
/// path where it reads a tagged table.
fn culprit(table: &Table, message: &str) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut section = table;
    loop {
        let fails = |name: &&String| {
            let alone = alone(table, &path, name);
            read(alone).is_err_and(|alone| alone == message)
        };
        let Some(name) = section.keys().find(fails) else {
            return path;
        };
        path.push(name.clone());
        match &section[name] {
            Value::Table(inner) if is_section(&path.join(".")) => section = inner,
            _ => return path,
        }
    }
}

/// A config of one key, and of the kinds of the sections that it is in.
fn alone(table: &Table, sections: &[String], name: &str) -> Table {
    let mut own = Table::new();
    let (inner, rest) = match sections {
        [] => (table.get(name).cloned(), &[][..]),
        [section, rest @ ..] => {
            let inner = table.get(section).and_then(Value::as_table);
            let inner = inner.map(|inner| Value::Table(alone(inner, rest, name)));
            (inner, sections)
        }
    };
    if let Some(kind) = table.get(TAG) {
        own.insert(TAG.to_owned(), kind.clone());
    }
    if let Some(inner) = inner {
        own.insert(rest.first().map_or(name, String::as_str).to_owned(), inner);
    }
    own
}

fn value_at<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() {
        return Some(value);
    }
    value_at(value.as_table()?, rest)
}

/// Serde's message as a sentence of ours.
fn told(path: &str, kind: Option<&str>, value: Option<&Value>, message: &str) -> String {
    let got = value.map_or_else(String::new, Value::to_string);
    // What serde says is of an element, or of a key within.
    let is_within = value.is_some_and(|value| match value {
        Value::Array(_) => !message.contains(", got "),
        value => value.is_table(),
    });
    if is_within && let Some(allowed) = allowed(path, kind) {
        return format!("`{path}` must be {allowed}, got {got}");
    }
    if message.starts_with("must be") {
        let has_got = message.contains(", got ");
        let got = if has_got {
            String::new()
        } else {
            format!(", got {got}")
        };
        return format!("`{path}` {message}{got}");
    }
    if message.starts_with("unknown variant") {
        let mut quoted = message.split('`').skip(1).step_by(2);
        let variant = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        return match nearest(variant, &known) {
            Some(nearest) => {
                let variant = variant.escape_debug();
                format!("`{path}`: unknown value `{variant}`, did you mean `{nearest}`?")
            }
            None => format!(
                "`{path}`: unknown value `{}`; it allows `{}`",
                variant.escape_debug(),
                known.join("`, `")
            ),
        };
    }
    match message.split_once(", expected ") {
        Some((_, expected)) if message.starts_with("invalid") => {
            let words = in_words(expected);
            let is_choice = matches!(words, TEXT | "variant identifier" | "string only");
            let allowed = is_choice.then(|| allowed(path, kind));
            let choice = allowed.flatten().filter(|it| it.starts_with("one of"));
            let allowed = choice.unwrap_or_else(|| words.to_owned());
            format!("`{path}` must be {allowed}, got {got}")
        }
        _ => format!("`{path}`: {message}"),
    }
}

/// What a key may be, as the table of keys has it.
fn allowed(path: &str, kind: Option<&str>) -> Option<String> {
    let mut keys = config_keys().iter().filter(|key| key.path == path);
    let key = keys.find(|key| kind.is_none_or(|kind| key.stands_beside(kind)))?;
    let value = &key.value;
    let starts = |words: &[&str]| words.iter().any(|word| value.starts_with(word));
    Some(if starts(&["\"", "`"]) {
        format!("one of {value}")
    } else if starts(&["number", "whole", "list", "text"]) {
        format!("a {value}")
    } else {
        value.clone()
    })
}

const TEXT: &str = "a text in quotes";

/// What serde expects, in a user's words.
fn in_words(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a string" | "string or map" | "path string" => TEXT,
        "u16" => "a whole number in [0, 65535]",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "an array of length 2" => "a list of 2",
        "an array of length 3" => "a list of 3",
        "an array of length 4" => "a list of 4",
        other => other,
    }
}
