use std::path::PathBuf;

use crate::PretrainedError;
use crate::builtin::{self, Builtin};
use crate::checksum::Checksum;
use crate::torchvision;

/// Where weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Builtin(&'static Builtin),
    Remote(Remote),
    Local(PathBuf),
}

/// A file that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Where it is.
    pub(crate) url: String,
    /// Its place in the cache, with `/` between folders.
    pub(crate) name: String,
    /// What it must be.
    pub(crate) checksum: Option<Checksum>,
}

impl Place {
    pub(crate) fn parse(place: &str) -> Result<Self, PretrainedError> {
        let refuse = |reason: String| PretrainedError::Place {
            place: place.to_owned(),
            reason,
        };
        let lists = |names: Vec<&str>, of: &str| format!("{of} has {}", names.join(", "));
        if let Some(name) = place.strip_prefix("builtin:") {
            let builtin = builtin::find(name);
            return builtin
                .map(Self::Builtin)
                .ok_or_else(|| refuse(lists(builtin::names(), "the program")));
        }
        if let Some(name) = place.strip_prefix("torchvision:") {
            let remote = torchvision::find(name);
            return remote
                .map(Self::Remote)
                .ok_or_else(|| refuse(lists(torchvision::names(), "torchvision")));
        }
        if let Some(path) = place.strip_prefix("hf:") {
            let remote = on_the_hub(path);
            return remote.map(Self::Remote).ok_or_else(|| {
                refuse(
                    "a place on the Hugging Face Hub looks like `hf:timm/resnet50.tv_in1k` or `hf:OWNER/NAME/FILE`"
                        .to_owned(),
                )
            });
        }
        if ["https://", "http://"]
            .iter()
            .any(|it| place.starts_with(it))
        {
            return by_url(place).map(Self::Remote).ok_or_else(|| {
                refuse(
                    "an address of a file ends with what the file must be, as in \
                     `https://HOST/FILE.pth#sha256=` and at least 8 digits of its SHA-256"
                        .to_owned(),
                )
            });
        }
        Ok(Self::Local(PathBuf::from(place)))
    }
}

/// The file that repositories of weights have where none is named.
const DEFAULT_FILE: &str = "model.safetensors";

/// `OWNER/NAME` or `OWNER/NAME/FILE`.
fn on_the_hub(path: &str) -> Option<Remote> {
    let mut parts = path.splitn(3, '/');
    let (owner, name) = (parts.next()?, parts.next()?);
    let file = parts.next().unwrap_or(DEFAULT_FILE);
    let is_whole = [owner, name].iter().all(|it| is_plain(it)) && file.split('/').all(is_plain);
    is_whole.then(|| Remote {
        url: format!("{}/{owner}/{name}/resolve/main/{file}", hub()),
        name: format!("hf/{owner}/{name}/{file}"),
        checksum: None,
    })
}

/// The Hub, or what the Hub's own programs take for it.
fn hub() -> String {
    let endpoint = std::env::var("HF_ENDPOINT")
        .ok()
        .filter(|it| !it.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
    endpoint.trim_end_matches('/').to_owned()
}

/// An address with `#sha256=` at its end.
fn by_url(place: &str) -> Option<Remote> {
    let (url, fragment) = place.split_once('#')?;
    let digits = fragment.strip_prefix("sha256=")?;
    let checksum = Checksum::parse(digits)?;
    let path = url.split('?').next()?;
    let file = path.rsplit('/').next().filter(|file| is_plain(file))?;
    Some(Remote {
        url: url.to_owned(),
        // Two addresses may end alike, and are told apart by what their files are.
        name: format!("url/{}/{file}", digits.to_ascii_lowercase()),
        checksum: Some(checksum),
    })
}

/// Whether this can be a file's name in the cache.
fn is_plain(name: &str) -> bool {
    let is_fitting = |it: char| it.is_ascii_alphanumeric() || "-_.+".contains(it);
    !name.is_empty() && name != "." && name != ".." && name.chars().all(is_fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(place: &str) -> Remote {
        match Place::parse(place) {
            Ok(Place::Remote(remote)) => remote,
            other => panic!("{place}: {other:?}"),
        }
    }

    #[test]
    fn a_place_on_the_hub_names_owner_repository_and_perhaps_a_file() {
        let default = remote("hf:timm/resnet50.tv_in1k");
        assert_eq!(default.name, "hf/timm/resnet50.tv_in1k/model.safetensors");
        let nested = remote("hf:a/b/c/d.pth");
        assert!(
            nested.url.ends_with("/a/b/resolve/main/c/d.pth"),
            "{nested:?}"
        );
    }

    #[test]
    fn an_address_brings_its_checksum_along() {
        let remote = remote("https://host.org/a/b.pth?x=1#sha256=BA7816BF");
        assert_eq!(remote.url, "https://host.org/a/b.pth?x=1");
        assert_eq!(remote.name, "url/ba7816bf/b.pth");
        assert_eq!(remote.checksum, Checksum::parse("ba7816bf"));
    }

    #[test]
    fn what_names_nothing_is_refused_with_what_there_is() {
        for (place, said) in [
            ("builtin:resnet99", "resnet18"),
            ("torchvision:vgg", "resnet50"),
            ("hf:timm", "hf:OWNER/NAME/FILE"),
            ("hf:timm/", "hf:OWNER/NAME/FILE"),
            ("hf:a/../b", "hf:OWNER/NAME/FILE"),
            ("https://host.org/b.pth", "#sha256="),
            ("https://host.org/b.pth#sha256=12", "#sha256="),
            ("https://host.org/#sha256=ba7816bf", "#sha256="),
        ] {
            let error = Place::parse(place).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(said), "{error}");
        }
    }

    #[test]
    fn all_else_is_a_path() {
        for place in ["weights/r50.pth", "runs/other", "C:\\r50.pth"] {
            assert_eq!(
                Place::parse(place).unwrap(),
                Place::Local(PathBuf::from(place))
            );
        }
    }
}
