//! Label Studio's protocol for what labels before people do: its "ML backend"
//! ([its description](https://labelstud.io/guide/ml_create), and `label_studio_ml/api.py` of its SDK).
//!
//! | | |
//! |---|---|
//! | `POST /setup` | a project's labelling interface, when somebody connects the service to it |
//! | `POST /predict` | tasks; answers their boxes |
//! | `GET /versions` | the model's name |
//! | `POST /webhook` | what people did; nothing is learnt from it |

mod interface;
mod picture;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use self::interface::Interface;
use self::picture::of_data_uri;
use crate::metrics::Counted;
use crate::refusal::Refusal;
use crate::routes::{Found, Service};
use crate::upload::{self, Limits};

/// Gets the pictures of tasks.
pub trait FetchPicture: Send + Sync + 'static {
    /// The bytes of an image file, at most `max_bytes`, by the address that a task names; an address without a host is
    /// Label Studio's own.
    ///
    /// # Errors
    ///
    /// Returns what is wrong, in words.
    fn fetch(&self, address: &str, max_bytes: usize) -> Result<Vec<u8>, String>;
}

struct Backend {
    service: Arc<Service>,
    pictures: Arc<dyn FetchPicture>,
}

/// The routes of the protocol.
pub(crate) fn router(service: Arc<Service>, pictures: Arc<dyn FetchPicture>) -> Router {
    Router::new()
        .route("/setup", post(setup))
        .route("/predict", post(predict))
        .route("/versions", get(versions))
        .route("/webhook", post(webhook))
        .with_state(Arc::new(Backend { service, pictures }))
}

#[derive(Deserialize)]
struct Setup {
    /// The labelling interface, as XML.
    schema: Option<String>,
}

/// Refuses an interface that no box of the detector could be shown in, so that whoever connects it is told.
async fn setup(
    State(backend): State<Arc<Backend>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let setup: Setup = backend.read(request).await?;
    // Older versions ask before there is one.
    if let Some(schema) = setup.schema.filter(|schema| !schema.trim().is_empty()) {
        let interface = Interface::parse(&schema).map_err(Refusal::Interface)?;
        backend.require_common_label(&interface)?;
    }
    Ok(Json(json!({ "model_version": backend.version() })))
}

async fn versions(State(backend): State<Arc<Backend>>) -> Json<Value> {
    Json(json!({ "versions": [backend.version()] }))
}

async fn webhook(
    State(backend): State<Arc<Backend>>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let _: Value = backend.read(request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "status": "ok" }))))
}

#[derive(Deserialize)]
struct Predict {
    tasks: Vec<Task>,
    label_config: Option<String>,
}

#[derive(Deserialize)]
struct Task {
    id: Option<Value>,
    data: Map<String, Value>,
}

async fn predict(
    State(backend): State<Arc<Backend>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let _in_flight = Counted::new(&backend.service.metrics.in_flight);
    let Ok(_place) = backend.service.places.try_acquire() else {
        upload::discard(request, backend.service.config.timeout()).await;
        return Err(Refusal::Busy);
    };
    let asked: Predict = backend.read(request).await?;
    let interface = asked.label_config.unwrap_or_default();
    let interface = Interface::parse(&interface).map_err(Refusal::Interface)?;
    backend.require_common_label(&interface)?;
    let mut results = Vec::with_capacity(asked.tasks.len());
    for task in &asked.tasks {
        let answer = backend.prelabel(task, &interface).await;
        results.push(answer.map_err(|refusal| refusal.of_task(task.id.as_ref()))?);
    }
    Ok(Json(json!({ "results": results })))
}

impl Backend {
    fn version(&self) -> &str {
        &self.service.info.name
    }

    /// The JSON of a request's body.
    async fn read<T: for<'de> Deserialize<'de>>(&self, request: Request) -> Result<T, Refusal> {
        let limits = Limits {
            max_bytes: self.service.config.max_body_bytes.get(),
            time: self.service.config.timeout(),
        };
        let bytes = upload::read(request, limits).await?;
        serde_json::from_slice(&bytes).map_err(Refusal::Json)
    }

    fn require_common_label(&self, interface: &Interface) -> Result<(), Refusal> {
        let classes = self.service.info.classes.iter();
        let names: Vec<&str> = classes.map(|(_, class)| class.name.as_str()).collect();
        if names.iter().any(|name| interface.label(name).is_some()) {
            return Ok(());
        }
        Err(Refusal::NoCommonLabel {
            labels: interface.labels.join(", "),
            classes: names.join(", "),
        })
    }

    /// The boxes of a task's picture, of the classes that the interface has labels for.
    async fn prelabel(&self, task: &Task, interface: &Interface) -> Result<Value, Refusal> {
        let address = task.data.get(&interface.field).and_then(Value::as_str);
        let address = address.ok_or_else(|| Refusal::NoPicture {
            field: interface.field.clone(),
        })?;
        let bytes = self.picture(address.to_owned()).await?;
        let queued = Counted::new(&self.service.metrics.queue);
        let decoded = self.service.decode(bytes, Some(address.to_owned())).await?;
        let sides = decoded.picture.dimensions();
        let detected = self.service.submit(decoded, queued).await?;
        let found = (self.service).found(detected.objects, self.service.config.score)?;
        let results: Vec<Value> = (found.iter().enumerate())
            .filter_map(|(place, found)| result(place, found, interface, sides))
            .collect();
        // What people sort tasks by: the least sure first are those worth correcting.
        let score = found.iter().map(|found| found.score).reduce(f32::min);
        Ok(json!({
            "model_version": self.version(),
            "score": score.unwrap_or(0.0),
            "result": results,
        }))
    }

    async fn picture(&self, address: String) -> Result<Vec<u8>, Refusal> {
        let max_bytes = self.service.config.max_body_bytes.get();
        let pictures = Arc::clone(&self.pictures);
        let fetching = spawn_blocking(move || {
            let own = of_data_uri(&address);
            own.unwrap_or_else(|| pictures.fetch(&address, max_bytes))
        });
        match fetching.await {
            Ok(fetched) => fetched.map_err(Refusal::Fetch),
            Err(_) => Err(Refusal::Stopping),
        }
    }
}

/// A box in percent of the picture's sides.
fn result(
    place: usize,
    found: &Found,
    interface: &Interface,
    (width, height): (u32, u32),
) -> Option<Value> {
    let label = interface.label(&found.name)?;
    let percent = |length: f32, side: u32| 100.0 * f64::from(length) / f64::from(side);
    let [x, y, box_width, box_height] = found.bbox;
    let value: HashMap<&str, Value> = [
        ("x", json!(percent(x, width))),
        ("y", json!(percent(y, height))),
        ("width", json!(percent(box_width, width))),
        ("height", json!(percent(box_height, height))),
        ("rotation", json!(0)),
        ("rectanglelabels", json!([label])),
    ]
    .into();
    Some(json!({
        "id": format!("retinanet{place}"),
        "type": "rectanglelabels",
        "from_name": interface.from_name,
        "to_name": interface.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": found.score,
        "value": value,
    }))
}
