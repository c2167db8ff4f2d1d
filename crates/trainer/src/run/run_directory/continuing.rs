//! Whether a config continues a run, and what has changed.

use std::collections::{BTreeMap, BTreeSet};

use retinanet_experiment::{ExperimentConfig, Resume, config_to_toml, resume_of};

use super::RunDirectory;
use super::changes::{Change, Changes};
use super::error::RunDirectoryError;

impl RunDirectory {
    /// Checks that a config continues this run, as [`check_continues`](Self::check_continues); the
    /// config is then the run's. Returns what has changed.
    ///
    /// # Errors
    ///
    /// Returns an error that names the keys that differ and may not.
    pub fn continue_with(
        &self,
        config: &ExperimentConfig,
    ) -> Result<Vec<Change>, RunDirectoryError> {
        let changes = self.check_continues(config)?;
        self.write_config(config)?;
        Ok(changes)
    }

    /// Checks that a config continues this run: all that decides how the weights move must be as
    /// it was; how long it goes on and how it is watched may change. Returns what has changed.
    ///
    /// # Errors
    ///
    /// Returns an error that names the keys that differ and may not.
    pub fn check_continues(
        &self,
        config: &ExperimentConfig,
    ) -> Result<Vec<Change>, RunDirectoryError> {
        let was = flatten(&self.config().map_err(RunDirectoryError::Config)?)?;
        let is = flatten(config)?;
        let keys: BTreeSet<_> = was.keys().chain(is.keys()).collect();
        let show = |values: &BTreeMap<String, String>, key: &String| {
            values.get(key).map_or("not set", String::as_str).to_owned()
        };
        let changes = (keys.into_iter())
            .filter(|&key| was.get(key) != is.get(key))
            .map(|key| Change {
                key: key.clone(),
                was: show(&was, key),
                is: show(&is, key),
            });
        let has_checkpoint = self.newest()?.0.is_some();
        let may_change = |change: &Change| match resume_of(&change.key) {
            Resume::No => false,
            Resume::Yes => true,
            // A length in another unit would be another for what else counts in it.
            Resume::Length => {
                let key = &change.key;
                was.contains_key(key) == is.contains_key(key)
                    && !config.schedule.follows_the_length()
            }
            Resume::AfterCheckpoint => has_checkpoint,
        };
        let (allowed, refused): (Vec<_>, Vec<_>) = changes.partition(may_change);
        if !refused.is_empty() {
            return Err(RunDirectoryError::Differs {
                root: self.root.clone(),
                refused: Changes(refused),
            });
        }
        Ok(allowed)
    }
}

/// The config as dotted keys and their values.
fn flatten(config: &ExperimentConfig) -> Result<BTreeMap<String, String>, RunDirectoryError> {
    fn collect(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
        if let toml::Value::Table(table) = value {
            for (key, value) in table {
                collect(&format!("{prefix}.{key}"), value, into);
            }
        } else {
            into.insert(prefix.trim_start_matches('.').to_owned(), value.to_string());
        }
    }
    let text = config_to_toml(config).map_err(RunDirectoryError::Config)?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| RunDirectoryError::Io(std::io::Error::other(error)))?;
    let mut flat = BTreeMap::new();
    collect("", &toml::Value::Table(table), &mut flat);
    Ok(flat)
}
