use std::io;
use std::net::SocketAddr;

/// Why there is no service, or why it did not stop as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A setting is out of range.
    #[error("`{key}` must be {allowed}, got {got}")]
    OutOfRange {
        /// The key of the config.
        key: &'static str,
        /// What the config says.
        got: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the service's threads")]
    Threads(#[source] io::Error),
    /// The metrics do not fit together.
    #[error("cannot set up the metrics")]
    Metrics(#[from] prometheus::Error),
    /// The service stopped, but the detector did not come back from its last batch.
    #[error("the detector still works on its last batch, {seconds} s after the service stopped")]
    DetectorStuck {
        /// How long it was waited for.
        seconds: f64,
    },
}
