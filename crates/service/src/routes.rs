use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use image::RgbImage;
use retinanet_boxes::{CategoryId, Detection};
use retinanet_images::{Decoding, decode_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::PAGE;
use crate::batcher::{Detected, Job};
use crate::host;
use crate::label_studio::{self, FetchPicture};
use crate::metrics::{Counted, Metrics, Phases, count};
use crate::refusal::Refusal;
use crate::upload::{self, Limits, Upload};
use crate::{ModelInfo, ServiceConfig};

/// The page has no resources but itself and the photos that it shows.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'";

/// What all requests share.
pub(crate) struct Service {
    pub(crate) info: ModelInfo,
    pub(crate) config: ServiceConfig,
    pub(crate) metrics: Arc<Metrics>,
    /// A place for every request that may be worked on.
    pub(crate) places: Arc<Semaphore>,
    /// A place for every picture that may be decoded and not yet with the detector: the next
    /// batch, while one is computed.
    decoded: Arc<Semaphore>,
    jobs: Sender<Job>,
}

impl Service {
    pub(crate) fn new(
        config: &ServiceConfig,
        info: ModelInfo,
        metrics: Arc<Metrics>,
        jobs: Sender<Job>,
    ) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self {
            info,
            config: config.clone(),
            metrics,
            places: semaphore(config.max_waiting.get().min(Semaphore::MAX_PERMITS)),
            decoded: semaphore(config.batch.get().min(Semaphore::MAX_PERMITS)),
            jobs,
        }
    }
}

pub(crate) fn router(service: Service, label_studio: Option<Arc<dyn FetchPicture>>) -> Router {
    let service = Arc::new(service);
    let metrics = Arc::clone(&service.metrics);
    let hosts: Arc<[String]> = service.config.allow_hosts.clone().into();
    let own = Router::new()
        .route("/", get(page))
        .route("/detect", post(detect))
        .route("/health", get(health))
        .route("/metrics", get(render_metrics))
        .with_state(Arc::clone(&service));
    let routes = match label_studio {
        Some(pictures) => own.merge(label_studio::router(service, pictures)),
        None => own,
    };
    routes
        .fallback(async || Refusal::UnknownPath)
        .method_not_allowed_fallback(async || Refusal::Method)
        .layer(middleware::from_fn_with_state(hosts, host::require))
        .layer(middleware::from_fn_with_state(metrics, count))
}

async fn page() -> impl IntoResponse {
    let policy = [(CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (policy, Html(PAGE))
}

async fn health(State(service): State<Arc<Service>>) -> Json<Value> {
    let Service { info, config, .. } = service.as_ref();
    let classes = info.classes.iter().map(|(_, class)| class);
    Json(json!({
        "status": "ok",
        "model": info.name,
        "classes": classes.collect::<Vec<_>>(),
        "details": info.details,
        "score": config.score,
        "max_body_bytes": config.max_body_bytes,
        "max_pixels": config.max_pixels,
    }))
}

async fn render_metrics(State(service): State<Arc<Service>>) -> Response {
    match service.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Refusal::Metrics(error).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    score: Option<f32>,
}

#[derive(Serialize)]
struct Answer {
    width: u32,
    height: u32,
    detections: Vec<Found>,
    milliseconds: Milliseconds,
}

#[derive(Serialize)]
pub(crate) struct Found {
    category_id: CategoryId,
    pub(crate) name: String,
    /// `[x, y, width, height]` in pixels of the upright image.
    pub(crate) bbox: [f32; 4],
    pub(crate) score: f32,
}

#[derive(Serialize)]
struct Milliseconds {
    decode: f64,
    wait: f64,
    detect: f64,
}

async fn detect(
    State(service): State<Arc<Service>>,
    options: Result<Query<Options>, QueryRejection>,
    request: Request,
) -> Result<Json<Answer>, Refusal> {
    let _in_flight = Counted::new(&service.metrics.in_flight);
    let began = Instant::now();
    let time = service.config.timeout();
    let Ok(_place) = service.places.try_acquire() else {
        upload::discard(request, time).await;
        return Err(Refusal::Busy);
    };
    let max_bytes = service.config.max_body_bytes.get();
    let form = upload::boundary(&request);
    let bytes = upload::read(request, Limits { max_bytes, time }).await?;
    // Only now, because the client sees no answer before it has sent the body.
    let min_score = service.min_score(options)?;
    let Upload { bytes, name } = match form {
        Some(boundary) => upload::file_of(bytes, boundary).await?,
        None => Upload { bytes, name: None },
    };
    if bytes.is_empty() {
        return Err(Refusal::Empty);
    }
    let received = Instant::now();

    let queued = Counted::new(&service.metrics.queue);
    let decoded = service.decode(bytes, name).await?;
    let (width, height) = decoded.picture.dimensions();
    let decode = decoded.time;
    let detected = service.submit(decoded, queued).await?;

    let phases = Phases {
        read: received - began,
        decode,
        wait: (received.elapsed()).saturating_sub(decode + detected.time),
        detect: detected.time,
    };
    let detections = service.found(detected.objects, min_score)?;
    service.metrics.answered(phases);
    Ok(Json(Answer {
        width,
        height,
        detections,
        milliseconds: phases.into(),
    }))
}

pub(crate) struct Decoded {
    pub(crate) picture: RgbImage,
    time: Duration,
    place: OwnedSemaphorePermit,
}

impl Service {
    fn min_score(&self, options: Result<Query<Options>, QueryRejection>) -> Result<f32, Refusal> {
        let Query(options) = options.map_err(|error| Refusal::Query(error.body_text()))?;
        let score = options.score.unwrap_or(self.config.score);
        if (0.0..=1.0).contains(&score) {
            Ok(score)
        } else {
            Err(Refusal::Query(format!(
                "`score` must be 0 to 1, got {score}"
            )))
        }
    }

    /// Decodes as soon as there is a place, which a client that leaves gives back only after the
    /// decoder is done: memory is bounded by the places.
    pub(crate) async fn decode(
        &self,
        bytes: Vec<u8>,
        name: Option<String>,
    ) -> Result<Decoded, Refusal> {
        let place = Arc::clone(&self.decoded).acquire_owned().await;
        let place = place.map_err(|_| Refusal::Stopping)?;
        let ServiceConfig {
            max_pixels,
            range_16_bit,
            ..
        } = self.config;
        let settings = Decoding {
            max_pixels,
            range_16_bit,
        };
        let decoding = spawn_blocking(move || {
            let began = Instant::now();
            let picture = decode_bytes(&bytes, settings)?;
            Ok(Decoded {
                picture,
                time: began.elapsed(),
                place,
            })
        });
        match decoding.await {
            Ok(decoded) => decoded.map_err(|error| Refusal::Picture { name, error }),
            Err(error) if error.is_panic() => Err(Refusal::DecoderPanicked),
            Err(_) => Err(Refusal::Stopping),
        }
    }

    pub(crate) async fn submit(
        &self,
        decoded: Decoded,
        queued: Counted,
    ) -> Result<Detected, Refusal> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            picture: decoded.picture,
            reply,
            held: (decoded.place, queued),
        };
        self.jobs.send(job).map_err(|_| Refusal::Stopping)?;
        match answer.await {
            Ok(result) => result.map_err(Refusal::Detector),
            Err(_) => Err(Refusal::Stopping),
        }
    }

    /// The objects in the words of the answer, the best first.
    pub(crate) fn found(
        &self,
        mut objects: Vec<Detection>,
        min_score: f32,
    ) -> Result<Vec<Found>, Refusal> {
        let classes = &self.info.classes;
        objects.retain(|object| object.score >= min_score);
        objects.sort_by(|a, b| b.score.total_cmp(&a.score));
        let found = |Detection { bbox, class, score }| {
            let category_id = classes
                .category(class)
                .ok_or_else(|| Refusal::Detector(format!("it has no class {}", class.0)))?;
            // JSON has no such numbers.
            if !bbox.to_array().iter().all(|edge| edge.is_finite()) {
                return Err(Refusal::Detector("a box is not finite".to_owned()));
            }
            Ok(Found {
                category_id,
                name: classes.name(class).to_owned(),
                bbox: [bbox.x1, bbox.y1, bbox.width(), bbox.height()],
                score,
            })
        };
        objects.into_iter().map(found).collect()
    }
}

impl From<Phases> for Milliseconds {
    fn from(phases: Phases) -> Self {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        Self {
            decode: milliseconds(phases.decode),
            wait: milliseconds(phases.wait),
            detect: milliseconds(phases.detect),
        }
    }
}
