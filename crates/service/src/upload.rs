use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use multer::Multipart;
use tokio::time::timeout;

use crate::refusal::Refusal;

/// What a body may cost.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_bytes: usize,
    pub(crate) time: Duration,
}

/// Reads a request's body.
///
/// Of a body that is too large, the rest is read too and thrown away: a client that is still
/// sending when the connection closes never sees the answer.
pub(crate) async fn read(request: Request, limits: Limits) -> Result<Vec<u8>, Refusal> {
    let Limits { max_bytes, time } = limits;
    let too_large = Refusal::TooLarge { max_bytes };
    let mut fits = request.body().size_hint().lower() <= max_bytes as u64;
    // Such a client sends the body only when it is told to.
    let asks_first = request.headers().contains_key(header::EXPECT);
    if !fits && asks_first {
        return Err(too_large);
    }
    match timeout(time, collect(request.into_body(), max_bytes, &mut fits)).await {
        Ok(Err(refusal)) => Err(refusal),
        _ if !fits => Err(too_large),
        Ok(Ok(bytes)) => Ok(bytes),
        Err(_) => Err(Refusal::Slow {
            seconds: time.as_secs_f64(),
        }),
    }
}

/// What was sent.
pub(crate) struct Upload {
    /// The file.
    pub(crate) bytes: Vec<u8>,
    /// Its name, if a form gives one.
    pub(crate) name: Option<String>,
}

/// What separates the parts of a request that is a form, as `curl -F` sends it.
pub(crate) fn boundary(request: &Request) -> Option<String> {
    let kind = request.headers().get(header::CONTENT_TYPE)?;
    multer::parse_boundary(kind.to_str().ok()?).ok()
}

/// The one file of a form.
pub(crate) async fn file_of(form: Vec<u8>, boundary: String) -> Result<Upload, Refusal> {
    let mut form = Multipart::new(Body::from(form).into_data_stream(), boundary);
    let mut file = None;
    while let Some(field) = form.next_field().await.map_err(Refusal::Form)? {
        let Some(name) = field.file_name().map(str::to_owned) else {
            continue;
        };
        if file.is_some() {
            return Err(Refusal::Files);
        }
        file = Some(Upload {
            bytes: field.bytes().await.map_err(Refusal::Form)?.to_vec(),
            name: Some(name),
        });
    }
    file.ok_or(Refusal::NoFile)
}

/// Reads a body and throws it away, for as long as the time allows.
pub(crate) async fn discard(request: Request, time: Duration) {
    let nothing = Limits { max_bytes: 0, time };
    // Whatever becomes of it, the request is refused.
    let _ = read(request, nothing).await;
}

/// The whole body; `fits` becomes false, and what was read is let go, once it is too large.
async fn collect(mut body: Body, max_bytes: usize, fits: &mut bool) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::Cut)?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        *fits &= bytes.len() + data.len() <= max_bytes;
        if *fits {
            bytes.extend_from_slice(data);
        } else {
            bytes = Vec::new();
        }
    }
    Ok(bytes)
}
