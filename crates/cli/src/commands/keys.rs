//! The keys of a config, for a reader at a terminal and for `docs/config.md`.

use std::fmt::Write;

use anyhow::anyhow;
use retinanet_experiment::{config_keys, ConfigKey, Resume};

use crate::args::KeysArguments;
use crate::console;
use crate::failure::Failure;

pub(crate) fn run(arguments: &KeysArguments) -> Result<(), Failure> {
    let beginning = arguments.section.as_deref().unwrap_or_default();
    let keys: Vec<&ConfigKey> = (config_keys().iter())
        .filter(|key| key.path.starts_with(beginning))
        .collect();
    if keys.is_empty() {
        return Err(Failure::usage(anyhow!(
            "no key begins with `{beginning}`; without it all are listed"
        )));
    }
    let text = if arguments.markdown {
        document(&keys)
    } else {
        keys.iter().map(|key| entry(key)).collect()
    };
    console::result(text.trim_end());
    Ok(())
}

/// A key for a reader at a terminal.
fn entry(key: &ConfigKey) -> String {
    let default = match key.default.as_str() {
        "" => "not set".to_owned(),
        default => default.to_owned(),
    };
    let mut facts = vec![key.value.replace('`', "")];
    facts.extend((!key.unit.is_empty()).then(|| format!("unit: {}", key.unit)));
    facts.extend((!key.kinds.is_empty()).then(|| format!("beside kind {}", key.kinds.join(", "))));
    facts.extend(change(key.resume).map(str::to_owned));
    format!(
        "{} = {default}\n    {}\n    {}\n\n",
        key.path,
        facts.join("; "),
        key.meaning
    )
}

const fn change(resume: Resume) -> Option<&'static str> {
    match resume {
        Resume::No => None,
        Resume::Yes => Some("a run that goes on may change it"),
        Resume::Length => {
            Some("a run that goes on may change it, unless the learning rate follows the length")
        }
        Resume::AfterCheckpoint => Some("a run that goes on does not use it"),
    }
}

/// Tables of keys, one for each section.
fn document(keys: &[&ConfigKey]) -> String {
    let mut text = String::new();
    let mut section = None;
    for key in keys {
        if section != Some(key.section()) {
            section = Some(key.section());
            let title = match key.section() {
                "" => "the config itself".to_owned(),
                section => format!("`[{section}]`"),
            };
            let _ = write!(
                text,
                "\n### {title}\n\n| key | value | default | unit | changes | meaning |\n|---|---|---|---|---|---|\n"
            );
        }
        text.push_str(&row(key));
    }
    text
}

fn row(key: &ConfigKey) -> String {
    let default = match key.default.as_str() {
        "" => String::new(),
        default => format!("`{default}`"),
    };
    let kinds: Vec<String> = key.kinds.iter().map(|kind| format!("`{kind}`")).collect();
    let beside = match kinds.as_slice() {
        [] => String::new(),
        kinds => format!("({}) ", kinds.join(", ")),
    };
    let changes = match key.resume {
        Resume::No => "",
        Resume::Yes => "yes",
        Resume::Length => "length",
        Resume::AfterCheckpoint => "not used",
    };
    let cells = [
        format!("`{}`", key.name()),
        key.value.clone(),
        default,
        key.unit.to_owned(),
        changes.to_owned(),
        format!("{beside}{}", key.meaning),
    ];
    format!(
        "| {} |\n",
        cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_an_entry_and_a_row() {
        let keys: Vec<&ConfigKey> = config_keys().iter().collect();
        let text = document(&keys);
        for key in keys {
            assert!(entry(key).starts_with(&key.path));
            assert!(text.contains(&row(key)), "{}", key.path);
        }
    }
}
