use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use retinanet_images::Range16Bit;
use serde::{Deserialize, Serialize};

use crate::ServiceError;

/// Settings of the service.
///
/// # Memory
///
/// At most `max_waiting` bodies of `max_body_bytes` are held, and `2 × batch` pictures of
/// `3 × max_pixels` bytes; while a picture is decoded, it may take twice or thrice that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// Where to listen; port 0 takes a free one. Only this machine by default.
    pub address: SocketAddr,
    /// Names that lead to the service, besides `localhost` and addresses; requests to others are refused.
    pub allow_hosts: Vec<String>,
    /// The lowest score of an answer where a request does not ask for another, in `[0, 1]`.
    pub score: f32,
    /// The most pictures that go through the detector at once, at least 1.
    pub batch: NonZeroUsize,
    /// How many milliseconds a batch that is not full waits for more pictures.
    pub max_wait_ms: u64,
    /// The most bytes of an image file, at least 1.
    pub max_body_bytes: NonZeroUsize,
    /// The most pixels of an image, at least 1.
    pub max_pixels: u64,
    /// The values of 16-bit images that become black and white; none is `[0, 65535]`.
    pub range_16_bit: Option<Range16Bit>,
    /// The most pictures that are received, decoded or waiting at once, at least 1; others are
    /// told to come again.
    pub max_waiting: NonZeroUsize,
    /// The most connections, at least 1; others wait to be accepted.
    pub max_connections: NonZeroUsize,
    /// How many seconds a client may take to send a header, then a body, and to read an answer;
    /// above 0, at most a day.
    pub timeout_seconds: f64,
    /// How many seconds requests have to finish once the service shall stop; 0 to a day.
    pub stop_seconds: f64,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            allow_hosts: Vec::new(),
            score: 0.3,
            batch: at_least_1(4),
            max_wait_ms: 2,
            max_body_bytes: at_least_1(16 << 20),
            max_pixels: 50_000_000,
            range_16_bit: None,
            max_waiting: at_least_1(64),
            max_connections: at_least_1(512),
            timeout_seconds: 30.0,
            stop_seconds: 10.0,
        }
    }
}

impl ServiceConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns an error that names the key at fault.
    pub fn check(&self) -> Result<(), ServiceError> {
        const DAY: f64 = 86_400.0;
        let out_of_range =
            |key, got: String, allowed| Err(ServiceError::OutOfRange { key, got, allowed });
        if !(0.0..=1.0).contains(&self.score) {
            return out_of_range("score", self.score.to_string(), "0 to 1");
        }
        if self.max_pixels == 0 {
            return out_of_range("max_pixels", self.max_pixels.to_string(), "at least 1");
        }
        if self.max_wait_ms > 10_000 {
            return out_of_range("max_wait_ms", self.max_wait_ms.to_string(), "at most 10000");
        }
        if !(self.timeout_seconds > 0.0 && self.timeout_seconds <= DAY) {
            let got = self.timeout_seconds.to_string();
            return out_of_range("timeout_seconds", got, "above 0 and at most a day");
        }
        if !(0.0..=DAY).contains(&self.stop_seconds) {
            let got = self.stop_seconds.to_string();
            return out_of_range("stop_seconds", got, "0 to a day");
        }
        Ok(())
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds)
    }

    pub(crate) fn stop_within(&self) -> Duration {
        Duration::from_secs_f64(self.stop_seconds)
    }
}

fn at_least_1(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ServiceConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn the_defaults_are_sound_and_only_for_this_machine() {
        let config = read("{}").unwrap();
        assert_eq!(config, ServiceConfig::default());
        assert!(config.check().is_ok());
        assert!(config.address.ip().is_loopback());
    }

    #[test]
    fn an_unknown_key_or_a_count_of_0_is_refused() {
        for json in [
            r#"{"port": 80}"#,
            r#"{"batch": 0}"#,
            r#"{"max_body_bytes": 0}"#,
            r#"{"max_waiting": 0}"#,
            r#"{"max_connections": 0}"#,
            r#"{"address": "8080"}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        for (key, value) in [
            ("score", "1.5"),
            ("score", "-0.1"),
            ("max_pixels", "0"),
            ("max_wait_ms", "10001"),
            ("timeout_seconds", "0"),
            ("timeout_seconds", "1e300"),
            ("stop_seconds", "-1"),
        ] {
            let config = read(&format!(r#"{{"{key}": {value}}}"#)).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{key} = {value}: {error}");
        }
        let config = ServiceConfig {
            timeout_seconds: f64::NAN,
            ..ServiceConfig::default()
        };
        assert!(config.check().is_err());
    }
}
