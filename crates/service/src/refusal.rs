use std::error::Error;
use std::iter;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use retinanet_images::BytesError;
use serde_json::json;

/// Why a request gets no detections.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request has no body; send an image file as it is, as curl's --data-binary does")]
    Empty,
    #[error("the body ended early")]
    Cut,
    #[error("{0}")]
    Query(String),
    #[error("the image file is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the body took longer than {seconds} s")]
    Slow { seconds: f64 },
    #[error("{}", with_causes(.0))]
    Picture(BytesError),
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
    fn status(&self) -> StatusCode {
        match self {
            Self::Empty | Self::Cut | Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } | Self::Picture(BytesError::TooManyPixels { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Slow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Picture(BytesError::UnknownFormat(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Picture(_) | Self::DecoderPanicked => StatusCode::UNPROCESSABLE_ENTITY,
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

/// The error with its causes, where they say more.
fn with_causes(error: &BytesError) -> String {
    if let BytesError::UnknownFormat(_) = error {
        return error.to_string();
    }
    let causes = iter::successors(Some(error as &dyn Error), |&error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
