//! Weights from the Hugging Face Hub: `hf:OWNER/NAME` or `hf:OWNER/NAME/FILE`.

use std::path::PathBuf;

use anyhow::anyhow;

use crate::failure::Failure;

/// What a place on the Hub begins with.
const PREFIX: &str = "hf:";

/// The file that repositories of weights have where none is named.
const DEFAULT_FILE: &str = "model.safetensors";

/// Where the weights are on this machine: fetched once if they are on the Hub, and as given if they
/// are a file.
pub(crate) fn local_file(pretrained: &str) -> Result<String, Failure> {
    let Some(place) = pretrained.strip_prefix(PREFIX) else {
        return Ok(pretrained.to_owned());
    };
    let (repository, file) = parse(place).ok_or_else(|| {
        Failure::usage(anyhow!(
            "`model.pretrained`: `{pretrained}` is no place on the Hugging Face Hub; one looks \
             like `hf:timm/resnet50.tv_in1k` or `hf:OWNER/NAME/FILE`"
        ))
    })?;
    let path = fetch(&repository, file)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Repository and file of `OWNER/NAME` or `OWNER/NAME/FILE`.
fn parse(place: &str) -> Option<(String, &str)> {
    let mut parts = place.splitn(3, '/');
    let (owner, name) = (parts.next()?, parts.next()?);
    let file = parts.next().unwrap_or(DEFAULT_FILE);
    let all_said = [owner, name, file].iter().all(|part| !part.is_empty());
    all_said.then(|| (format!("{owner}/{name}"), file))
}

/// Fetches a file into the Hub's cache, unless it is there.
#[cfg(feature = "hub")]
fn fetch(repository: &str, file: &str) -> Result<PathBuf, Failure> {
    use anyhow::Context;

    hf_hub::api::sync::ApiBuilder::from_env()
        .with_progress(false)
        .build()
        .and_then(|api| api.model(repository.to_owned()).get(file))
        .with_context(|| {
            format!(
                "cannot fetch `{file}` of `{repository}` from the Hugging Face Hub; is this \
                 machine online, and is the name right?"
            )
        })
        .map_err(Failure::Work)
}

#[cfg(not(feature = "hub"))]
fn fetch(repository: &str, file: &str) -> Result<PathBuf, Failure> {
    Err(Failure::usage(anyhow!(
        "this program was built without the feature `hub`, which fetches weights; download \
         https://huggingface.co/{repository}/resolve/main/{file} and give its path as \
         `model.pretrained`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_owner_repository_and_perhaps_a_file() {
        assert_eq!(
            parse("timm/resnet50.tv_in1k"),
            Some(("timm/resnet50.tv_in1k".to_owned(), DEFAULT_FILE))
        );
        let nested = parse("a/b/c/d.pth");
        assert_eq!(nested, Some(("a/b".to_owned(), "c/d.pth")));
        for place in ["", "timm", "timm/", "/resnet50", "a/b/"] {
            assert_eq!(parse(place), None, "{place}");
        }
    }

    #[test]
    fn a_file_stays_as_it_is() {
        assert_eq!(local_file("weights/r50.pth").unwrap(), "weights/r50.pth");
    }
}
