use std::path::PathBuf;

use crate::PretrainedError;
use crate::cache::Cache;
use crate::place::Remote;

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The network, or the machine at its other end.
    #[error("{0}")]
    Network(String),
    /// Fewer bytes came than were announced.
    #[error("the connection ended after {came} of {announced} bytes")]
    CutOff {
        /// How many came.
        came: u64,
        /// How many should have.
        announced: u64,
    },
    /// What came has another checksum.
    #[error("what came has another SHA-256, {0}")]
    Checksum(String),
    /// The program cannot fetch.
    #[error("this program was built without the feature `download`")]
    NotBuiltIn,
}

impl Remote {
    /// Its file in the cache, fetched if it is not there.
    pub(crate) fn file(
        &self,
        cache: &Cache,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<PathBuf, PretrainedError> {
        let target = self.target(cache);
        if target.is_file() {
            let bytes = retinanet_files::read(&target)?;
            return match self.differs(&bytes) {
                None => Ok(target),
                Some((wanted, found)) => Err(PretrainedError::Checksum {
                    path: target,
                    wanted,
                    found,
                }),
            };
        }
        let bytes = self
            .fetch(progress)
            .and_then(|bytes| match self.differs(&bytes) {
                None => Ok(bytes),
                Some((_, found)) => Err(FetchError::Checksum(found)),
            });
        let bytes = bytes.map_err(|source| PretrainedError::Fetch {
            url: self.url.clone(),
            target: target.clone(),
            source,
        })?;
        if let Some(folder) = target.parent() {
            fs_err::create_dir_all(folder)?;
        }
        retinanet_files::write(&target, bytes)?;
        Ok(target)
    }

    fn target(&self, cache: &Cache) -> PathBuf {
        let parts = self.name.split('/');
        parts.fold(cache.folder().to_owned(), |path, part| path.join(part))
    }

    fn differs(&self, bytes: &[u8]) -> Option<(crate::Checksum, String)> {
        let wanted = self.checksum.clone()?;
        let found = wanted.differs(bytes)?;
        Some((wanted, found))
    }

    #[cfg(not(feature = "download"))]
    #[expect(clippy::unused_self, reason = "as where the feature is there")]
    fn fetch(&self, _progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::NotBuiltIn)
    }

    #[cfg(feature = "download")]
    fn fetch(&self, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Vec<u8>, FetchError> {
        use std::io::Read;
        use std::time::Duration;

        /// Silence for longer than this is no network.
        const PATIENCE: Duration = Duration::from_secs(30);
        const PIECE: usize = 1 << 18;

        let network = |error: &dyn ToString| FetchError::Network(error.to_string());
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build()
            .new_agent();
        let mut request = agent.get(&self.url);
        if let Some(token) = self.token() {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| network(&error))?;
        let length = response.headers().get("content-length");
        let announced = length.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let mut reader = response.into_body().into_reader();
        let mut bytes = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let count = reader.read(&mut piece).map_err(|error| network(&error))?;
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..count]);
            progress(bytes.len() as u64, announced);
        }
        match announced {
            Some(announced) if announced != bytes.len() as u64 => Err(FetchError::CutOff {
                came: bytes.len() as u64,
                announced,
            }),
            _ => Ok(bytes),
        }
    }

    /// The user's key to the Hub, for files that are not everybody's.
    #[cfg(feature = "download")]
    fn token(&self) -> Option<String> {
        let is_on_hub = self.name.starts_with("hf/");
        let token = std::env::var("HF_TOKEN").ok()?;
        (is_on_hub && !token.is_empty()).then_some(token)
    }
}

#[cfg(feature = "download")]
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;
    use crate::weights_file;

    /// A server that answers one request with this head and body; gives its address, and the request in the end.
    fn server(head: &'static str, body: &'static [u8]) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/w/b.pth", listener.local_addr().unwrap());
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        (address, answers)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";

    #[test]
    fn a_file_is_fetched_once_and_then_taken_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let (address, answers) = server(OK, b"abc");
        let place = format!("{address}#sha256=ba7816bf");
        let mut told = Vec::new();
        let path = weights_file(&place, &cache, &mut |done, total| told.push((done, total)));
        let path = path.unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"abc");
        assert_eq!(told, [(3, Some(3))]);
        assert!(answers.join().unwrap().starts_with("GET /w/b.pth "));
        // The server is gone.
        let again = weights_file(&place, &cache, &mut |_, _| {}).unwrap();
        assert_eq!(again, path);

        fs_err::write(&path, "abd").unwrap();
        let error = weights_file(&place, &cache, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, PretrainedError::Checksum { .. }), "{error}");
    }

    #[test]
    fn what_is_cut_off_or_another_or_not_there_leaves_no_file() {
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n";
        let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
        for (head, checksum) in [(cut, "ba7816bf"), (OK, "00000000"), (gone, "ba7816bf")] {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::at(folder.path().join("cache"));
            let (address, answers) = server(head, b"abc");
            let place = format!("{address}#sha256={checksum}");
            let error = weights_file(&place, &cache, &mut |_, _| {}).unwrap_err();
            assert!(matches!(error, PretrainedError::Fetch { .. }), "{error}");
            // It says which file to put where.
            let target = cache.folder().join("url").join(checksum).join("b.pth");
            assert!(
                error.to_string().contains(&*target.to_string_lossy()),
                "{error}"
            );
            assert!(!target.exists());
            answers.join().unwrap();
        }
    }
}
