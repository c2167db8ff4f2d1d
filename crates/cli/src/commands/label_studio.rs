//! The pictures of Label Studio's tasks: from Label Studio itself, from hosts that the owner names, and from a folder.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use retinanet_service::FetchPicture;

use crate::args::LabelStudioArguments;
use crate::failure::Failure;

/// What Label Studio's own SDK calls the variable of its token.
#[cfg(feature = "download")]
const TOKEN: &str = "LABEL_STUDIO_API_KEY";

/// How addresses of files on Label Studio's own disk begin.
const LOCAL: &str = "/data/local-files/?d=";

pub(crate) struct Pictures {
    /// Where Label Studio is, without a slash at the end.
    address: String,
    hosts: Vec<String>,
    files: Option<PathBuf>,
}

impl Pictures {
    /// Nothing if the service is not asked to speak Label Studio's protocol.
    pub(crate) fn new(arguments: &LabelStudioArguments) -> Result<Option<Self>, Failure> {
        let Some(address) = &arguments.label_studio else {
            return Ok(None);
        };
        let address = address.trim_end_matches('/');
        if authority(address).is_none() {
            return Err(Failure::usage(anyhow!(
                "`--label-studio {address}`: no address like http://localhost:8080"
            )));
        }
        let files = arguments.local_files.as_ref();
        let files = files.map(fs_err::canonicalize).transpose();
        Ok(Some(Self {
            address: address.to_owned(),
            hosts: arguments.picture_host.clone(),
            files: files.map_err(Failure::usage)?,
        }))
    }

    /// The full address of a picture, if it may be asked for.
    fn full(&self, address: &str) -> Result<String, String> {
        if address.starts_with('/') && !address.starts_with("//") {
            return Ok(format!("{}{address}", self.address));
        }
        let place =
            authority(address).ok_or_else(|| format!("`{address}` is no address of the web"))?;
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        let is_named = self
            .hosts
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host));
        if is_named || Some(place) == authority(&self.address) {
            Ok(address.to_owned())
        } else {
            Err(format!(
                "it is at `{host}`, where nothing is fetched from; `--picture-host {host}` lets it"
            ))
        }
    }
}

impl FetchPicture for Pictures {
    fn fetch(&self, address: &str, max_bytes: usize) -> Result<Vec<u8>, String> {
        if let (Some(files), Some(path)) = (&self.files, address.strip_prefix(LOCAL)) {
            return read(
                files,
                &retinanet_dataset_tools::decoded_query(path),
                max_bytes,
            );
        }
        let address = self.full(address)?;
        download(&self.address, &address, max_bytes)
    }
}

/// Host and port of an address of the web; nothing with a name before it, behind which another host could hide.
fn authority(address: &str) -> Option<&str> {
    let rest = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| address.strip_prefix(scheme))?;
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let authority = &rest[..end];
    (!authority.is_empty() && !authority.contains('@')).then_some(authority)
}

/// A file below a folder, wherever links lead.
fn read(folder: &Path, name: &str, max_bytes: usize) -> Result<Vec<u8>, String> {
    let path = folder.join(name.trim_start_matches('/'));
    let path = fs_err::canonicalize(path).map_err(|error| error.to_string())?;
    if !path.starts_with(folder) {
        return Err(format!("`{name}` is not below the folder of local files"));
    }
    retinanet_files::require_file(&path).map_err(|error| error.to_string())?;
    let bytes = fs_err::metadata(&path).map_err(|error| error.to_string())?;
    if bytes.len() > max_bytes as u64 {
        return Err(format!("it is larger than {max_bytes} bytes"));
    }
    fs_err::read(&path).map_err(|error| error.to_string())
}

#[cfg(feature = "download")]
fn download(label_studio: &str, address: &str, max_bytes: usize) -> Result<Vec<u8>, String> {
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    let in_words = |error: ureq::Error| {
        let hint = match error {
            ureq::Error::StatusCode(401 | 403) => {
                format!("; is the right token in {TOKEN}?")
            }
            _ => String::new(),
        };
        format!("{address}: {error}{hint}")
    };
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .build()
        .new_agent();
    let mut request = agent.get(address);
    // Nobody else sees the token.
    let is_own = authority(address) == authority(label_studio);
    if let Some(token) = std::env::var(TOKEN).ok().filter(|_| is_own) {
        let header = authorization(&agent, label_studio, &token).map_err(in_words)?;
        request = request.header("Authorization", header);
    }
    let mut response = request.call().map_err(in_words)?;
    let body = response.body_mut().with_config().limit(max_bytes as u64);
    body.read_to_vec().map_err(in_words)
}

/// A personal access token is changed for one that is good for some minutes; an older one is used as it is.
#[cfg(feature = "download")]
fn authorization(
    agent: &ureq::Agent,
    label_studio: &str,
    token: &str,
) -> Result<String, ureq::Error> {
    if token.matches('.').count() != 2 {
        return Ok(format!("Token {token}"));
    }
    let body = serde_json::json!({ "refresh": token }).to_string();
    let request = agent.post(format!("{label_studio}/api/token/refresh/"));
    let request = request.header("Content-Type", "application/json");
    let answer = request.send(body)?.body_mut().read_to_string()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    Ok(format!(
        "Bearer {}",
        answer["access"].as_str().unwrap_or_default()
    ))
}

#[cfg(not(feature = "download"))]
fn download(_: &str, address: &str, _: usize) -> Result<Vec<u8>, String> {
    Err(format!(
        "this program was built without the feature `download`, and `{address}` is not among local files"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(hosts: &[&str], files: Option<&Path>) -> Pictures {
        let arguments = LabelStudioArguments {
            label_studio: Some("http://labels.example:8080/".into()),
            picture_host: hosts.iter().map(|host| (*host).to_owned()).collect(),
            local_files: files.map(Path::to_owned),
        };
        Pictures::new(&arguments).unwrap().unwrap()
    }

    #[test]
    fn pictures_come_from_label_studio_and_from_hosts_that_are_named() {
        let pictures = pictures(&["photos.example"], None);
        let own = "http://labels.example:8080/data/upload/1/a.png";
        for (address, full) in [
            ("/data/upload/1/a.png", own),
            (own, own),
            (
                "https://photos.example/b.png",
                "https://photos.example/b.png",
            ),
            (
                "https://photos.example:99/b.png",
                "https://photos.example:99/b.png",
            ),
        ] {
            assert_eq!(pictures.full(address).as_deref(), Ok(full));
        }
        for address in [
            "http://labels.example/a.png",
            "http://127.0.0.1/a.png",
            "http://photos.example@evil.example/a.png",
            "http://evil.example\\@photos.example/a.png",
            "//evil.example/a.png",
            "file:///etc/passwd",
            "s3://bucket/a.png",
            "a.png",
        ] {
            assert!(pictures.full(address).is_err(), "{address}");
        }
        let told = pictures.full("http://other.example/a.png").unwrap_err();
        assert!(told.contains("--picture-host other.example"), "{told}");
    }

    #[test]
    fn local_files_are_below_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("photos");
        fs_err::create_dir(&inside).unwrap();
        fs_err::write(folder.path().join("secret"), "x").unwrap();
        fs_err::write(inside.join("a b.png"), "picture").unwrap();
        let pictures = pictures(&[], Some(&inside));
        let fetch = |path: &str| pictures.fetch(&format!("{LOCAL}{path}"), 100);
        assert_eq!(fetch("a%20b.png"), Ok(b"picture".to_vec()));
        for path in ["../secret", "nowhere.png", "", "..%2Fsecret"] {
            assert!(fetch(path).is_err(), "{path}");
        }
        let large = pictures.fetch(&format!("{LOCAL}a b.png"), 3).unwrap_err();
        assert!(large.contains("larger than 3 bytes"), "{large}");
    }
}
