//! Which names the service answers to. A page of another origin can make a name of its own lead to this
//! machine (DNS rebinding), and would then be asked by the browser as if it were the service's own page.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::refusal::Refusal;

/// Refuses requests to names that are not the service's.
pub(crate) async fn require(
    State(allowed): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    match host {
        Some(host) if is_own(host.host(), &allowed) => next.run(request).await,
        Some(host) => Refusal::Host(host.host().to_owned()).into_response(),
        None => Refusal::NoHost.into_response(),
    }
}

/// Whether a name is an address, which nobody else can make lead here, this machine's own, or one of
/// those that the owner allows.
fn is_own(host: &str, allowed: &[String]) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_the_owners_names_are_own() {
        let allowed = ["photos.example".to_owned()];
        for host in [
            "127.0.0.1",
            "192.168.0.7",
            "[::1]",
            "localhost",
            "LocalHost",
            "Photos.example",
        ] {
            assert!(is_own(host, &allowed), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!is_own(host, &allowed), "{host}");
        }
    }
}
