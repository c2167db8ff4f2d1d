use std::error::Error;
use std::iter;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use retinanet_images::BytesError;
use serde_json::{Value, json};

/// Why a request gets no detections.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the request has no body; send an image file as it is, as curl's --data-binary does, or as the \
         file of a form, as curl's -F does"
    )]
    Empty,
    #[error("the form cannot be read: {0}")]
    Form(multer::Error),
    #[error("the form has no file; send one as `curl -F image=@photo.jpg` does")]
    NoFile,
    #[error("the form has several files; send one a request")]
    Files,
    #[error(
        "the service does not answer to the name `{0}`; `retinanet serve --allow-host {0}` lets it"
    )]
    Host(String),
    #[error("the request names no host")]
    NoHost,
    #[error("the body ended early")]
    Cut,
    #[error("{0}")]
    Query(String),
    #[error("the image file is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the body took longer than {seconds} s")]
    Slow { seconds: f64 },
    #[error("{}{}", named(name.as_deref()), with_causes(error))]
    Picture {
        /// The file's name, if it was told.
        name: Option<String>,
        error: BytesError,
    },
    #[error("the body is not what Label Studio sends: {0}")]
    Json(serde_json::Error),
    #[error("the project's labelling interface: {0}")]
    Interface(String),
    #[error(
        "no label of the project is a class of the detector: it has {labels}, and the detector knows {classes}"
    )]
    NoCommonLabel { labels: String, classes: String },
    #[error("its data has no text `{field}`, which the labelling interface shows")]
    NoPicture { field: String },
    #[error("its picture cannot be had: {0}")]
    Fetch(String),
    #[error("task {id}: {refusal}")]
    Task { id: String, refusal: Box<Self> },
    #[error("the image cannot be decoded")]
    DecoderPanicked,
    #[error("too many pictures are waiting; come again")]
    Busy,
    #[error("the detector failed: {0}")]
    Detector(String),
    #[error("the metrics cannot be written: {0}")]
    Metrics(prometheus::Error),
    #[error("the service stops")]
    Stopping,
    #[error("nothing is here; POST an image to /detect, or see /, /health and /metrics")]
    UnknownPath,
    #[error("this path takes another method")]
    Method,
}

impl Refusal {
    /// With the task that it is about.
    pub(crate) fn of_task(self, id: Option<&Value>) -> Self {
        match id {
            Some(id) => Self::Task {
                id: id.to_string(),
                refusal: Box::new(self),
            },
            None => self,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Empty
            | Self::Cut
            | Self::Query(_)
            | Self::Form(_)
            | Self::NoFile
            | Self::Files
            | Self::Json(_)
            | Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Task { refusal, .. } => refusal.status(),
            Self::Host(_) => StatusCode::FORBIDDEN,
            Self::TooLarge { .. }
            | Self::Picture {
                error: BytesError::TooManyPixels { .. },
                ..
            } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Picture {
                error: BytesError::UnknownFormat(_),
                ..
            } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Picture { .. }
            | Self::DecoderPanicked
            | Self::Interface(_)
            | Self::NoCommonLabel { .. }
            | Self::NoPicture { .. }
            | Self::Fetch(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Detector(_) | Self::Metrics(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(json!({ "error": self.to_string() }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let second = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
        }
        response
    }
}

/// The beginning of a message on a file of this name.
fn named(name: Option<&str>) -> String {
    const LONGEST: usize = 100;
    name.map_or_else(String::new, |name| {
        let shown: String = name.chars().take(LONGEST).collect();
        format!("`{shown}`: ")
    })
}

/// The error with its causes, where they say more.
fn with_causes(error: &BytesError) -> String {
    if let BytesError::UnknownFormat(_) = error {
        return error.to_string();
    }
    let causes = iter::successors(Some(error as &dyn Error), |&error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
