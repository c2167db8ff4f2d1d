use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

/// What Prometheus, and whoever reads `GET /metrics`, learns of the service.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// Requests to `/detect` without an answer yet.
    pub(crate) in_flight: IntGauge,
    /// Pictures that wait for a decoder or the detector.
    pub(crate) queue: IntGauge,
    pub(crate) connections: IntGauge,
    pub(crate) batch_sizes: Histogram,
    seconds: HistogramVec,
    recent: Mutex<VecDeque<f64>>,
    recent_seconds: GaugeVec,
    uptime: Gauge,
    started: Instant,
}

/// How many answers the quantiles look back on.
const RECENT: usize = 1024;

const QUANTILES: [(&str, f64); 3] = [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)];

/// The status under which requests are counted whose client left before the answer; nobody sees it
/// anywhere else.
const CLIENT_LEFT: &str = "499";

/// Where the time of an answered picture went.
#[derive(Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) read: Duration,
    pub(crate) decode: Duration,
    pub(crate) wait: Duration,
    pub(crate) detect: Duration,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let seconds = HistogramOpts::new(
            "retinanet_detect_seconds",
            "Seconds of answered pictures, by phase",
        );
        // 1 ms to 33 s
        let seconds = seconds.buckets(prometheus::exponential_buckets(0.001, 2.0, 16)?);
        let batch_sizes = HistogramOpts::new("retinanet_batch_size", "Pictures in a batch");
        let batch_sizes = batch_sizes.buckets(prometheus::exponential_buckets(1.0, 2.0, 8)?);
        let requests = Opts::new(
            "retinanet_requests_total",
            "Requests, by path and status; 499 where the client left",
        );
        let recent = Opts::new(
            "retinanet_recent_detect_seconds",
            "Quantiles of the seconds of the last 1024 answered pictures",
        );
        let metrics = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(requests, &["path", "status"])?,
            in_flight: IntGauge::new(
                "retinanet_in_flight",
                "Requests to /detect without an answer yet",
            )?,
            queue: IntGauge::new(
                "retinanet_queue_length",
                "Pictures that wait for a decoder or the detector",
            )?,
            connections: IntGauge::new("retinanet_connections", "Open connections")?,
            batch_sizes: Histogram::with_opts(batch_sizes)?,
            seconds: HistogramVec::new(seconds, &["phase"])?,
            recent: Mutex::new(VecDeque::with_capacity(RECENT)),
            recent_seconds: GaugeVec::new(recent, &["quantile"])?,
            uptime: Gauge::new("retinanet_uptime_seconds", "Seconds since the start")?,
            started: Instant::now(),
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let registry = &self.registry;
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.in_flight.clone()))?;
        registry.register(Box::new(self.queue.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.batch_sizes.clone()))?;
        registry.register(Box::new(self.seconds.clone()))?;
        registry.register(Box::new(self.recent_seconds.clone()))?;
        registry.register(Box::new(self.uptime.clone()))
    }

    /// The text format of Prometheus.
    pub(crate) fn render(&self) -> Result<String, prometheus::Error> {
        self.uptime.set(self.started.elapsed().as_secs_f64());
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<f64> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_by(f64::total_cmp);
        for (label, quantile) in QUANTILES {
            if let Some(seconds) = at_quantile(&sorted, quantile) {
                let gauge = self.recent_seconds.with_label_values(&[label]);
                gauge.set(seconds);
            }
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts an answered picture.
    pub(crate) fn answered(&self, phases: Phases) {
        let Phases {
            read,
            decode,
            wait,
            detect,
        } = phases;
        let total = read + decode + wait + detect;
        for (phase, time) in [
            ("read", read),
            ("decode", decode),
            ("wait", wait),
            ("detect", detect),
            ("total", total),
        ] {
            let histogram = self.seconds.with_label_values(&[phase]);
            histogram.observe(time.as_secs_f64());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(total.as_secs_f64());
    }
}

/// The smallest value that so large a share of the values does not exceed.
fn at_quantile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Counts a request, also one whose client leaves before it is answered.
pub(crate) async fn count(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("other", MatchedPath::as_str).to_owned();
    let mut visit = Visit {
        metrics,
        path,
        status: None,
    };
    let response = next.run(request).await;
    visit.status = Some(response.status());
    response
}

struct Visit {
    metrics: Arc<Metrics>,
    path: String,
    status: Option<StatusCode>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let status = self.status.as_ref().map_or(CLIENT_LEFT, StatusCode::as_str);
        let requests = &self.metrics.requests;
        requests.with_label_values(&[&self.path, status]).inc();
    }
}

/// One more in a gauge, for as long as this lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(at_quantile(&hundred, 0.5), Some(50.0));
        assert_eq!(at_quantile(&hundred, 0.95), Some(95.0));
        assert_eq!(at_quantile(&hundred, 0.99), Some(99.0));
        assert_eq!(at_quantile(&[7.0], 0.5), Some(7.0));
        assert_eq!(at_quantile(&[], 0.5), None);
    }

    #[test]
    fn quantiles_forget_what_is_long_ago() {
        let metrics = Metrics::new().unwrap();
        let phases = |millis| Phases {
            read: Duration::ZERO,
            decode: Duration::ZERO,
            wait: Duration::ZERO,
            detect: Duration::from_millis(millis),
        };
        (0..10).for_each(|_| metrics.answered(phases(9000)));
        (0..RECENT).for_each(|_| metrics.answered(phases(250)));
        let text = metrics.render().unwrap();
        for quantile in ["0.5", "0.95", "0.99"] {
            let line = format!("retinanet_recent_detect_seconds{{quantile=\"{quantile}\"}} 0.25\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("retinanet_detect_seconds_count{phase=\"total\"} 1034\n"));
    }
}
