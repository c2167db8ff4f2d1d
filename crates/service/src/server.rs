use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use crate::batcher::{Batching, DetectorThread};
use crate::detect::{Detect, ModelInfo};
use crate::label_studio::FetchPicture;
use crate::metrics::{Counted, Metrics};
use crate::routes::{Service, router};
use crate::{ServiceConfig, ServiceError};

/// The most bytes of a header.
const MAX_HEADER: usize = 64 << 10;

/// Tells a service to stop; clones tell the same service.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// One that has not stopped anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the service, from any thread; also one that starts later.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(&self) {
        // It cannot fail: `self` keeps the sender.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

/// Serves until `stop` says so, then finishes the requests that it has begun.
///
/// `ready` learns the address once connections are accepted. No more threads are left behind, and
/// the detector is gone, when this returns `Ok`.
///
/// # Errors
///
/// Returns an error if a setting is out of range, the address cannot be listened on, the system
/// gives no threads, or the detector does not come back from its last batch.
pub fn run(
    config: &ServiceConfig,
    detector: impl Detect,
    info: ModelInfo,
    stop: &Stop,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServiceError> {
    run_with(config, detector, info, None, stop, ready)
}

/// The same, with Label Studio's protocol too where something gets the pictures of its tasks.
///
/// # Errors
///
/// As [`run`].
pub fn run_with(
    config: &ServiceConfig,
    detector: impl Detect,
    info: ModelInfo,
    label_studio: Option<Arc<dyn FetchPicture>>,
    stop: &Stop,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServiceError> {
    config.check()?;
    let runtime = runtime()?;
    let listener = listen(&runtime, config.address)?;
    let address = listener
        .local_addr()
        .map_err(|source| ServiceError::Listen {
            address: config.address,
            source,
        })?;

    let metrics = Arc::new(Metrics::new()?);
    let batching = Batching {
        size: config.batch.get(),
        max_wait: Duration::from_millis(config.max_wait_ms),
        sizes: metrics.batch_sizes.clone(),
    };
    let (jobs, detector) = DetectorThread::start(detector, batching)?;
    let server = Server {
        router: router(
            Service::new(config, info, Arc::clone(&metrics), jobs),
            label_studio,
        ),
        metrics,
        timeout: config.timeout(),
        places: Arc::new(Semaphore::new(
            config.max_connections.get().min(Semaphore::MAX_PERMITS),
        )),
    };
    ready(address);
    runtime.block_on(server.serve(listener, stop, config.stop_within()));
    // A decoder may be at work for a client that has left.
    runtime.shutdown_timeout(config.stop_within());
    detector.join(config.stop_within())
}

/// Few threads for the connections, which hardly compute; decoders up to the machine's.
fn runtime() -> Result<Runtime, ServiceError> {
    let decoders = available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(decoders)
        .thread_name("service")
        .enable_io()
        .enable_time()
        .build()
        .map_err(ServiceError::Threads)
}

fn listen(runtime: &Runtime, address: SocketAddr) -> Result<TcpListener, ServiceError> {
    let listener = runtime.block_on(TcpListener::bind(address));
    listener.map_err(|source| ServiceError::Listen { address, source })
}

struct Server {
    router: Router,
    metrics: Arc<Metrics>,
    timeout: Duration,
    /// A place for every connection.
    places: Arc<Semaphore>,
}

impl Server {
    async fn serve(self, listener: TcpListener, stop: &Stop, stop_within: Duration) {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut stopped = pin!(stop.stopped());
        loop {
            let (stream, place) = tokio::select! {
                () = &mut stopped => break,
                accepted = self.accept(&listener) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            connections.spawn(self.connection(stream, place, &graceful));
        }
        drop(listener);
        // Whoever is not done by then is cut off.
        let _ = timeout(stop_within, graceful.shutdown()).await;
        connections.shutdown().await;
    }

    async fn accept(&self, listener: &TcpListener) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                // Of this connection, or of too many open files, which other connections free.
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// What a connection does, until the client or a timeout ends it.
    fn connection(
        &self,
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
        graceful: &GracefulShutdown,
    ) -> impl Future<Output = ()> + use<> {
        // Answers are small, and nobody gains by holding them back; without it they come later.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeout)
            .max_buf_size(MAX_HEADER)
            .serve_connection(
                TokioIo::new(Box::pin(stream)),
                TowerToHyperService::new(self.router.clone()),
            );
        let connection = graceful.watch(connection);
        let counted = Counted::new(&self.metrics.connections);
        async move {
            // Its error is the client's: it left, or sent what is not HTTP.
            let _ = connection.await;
            drop((place, counted));
        }
    }
}
