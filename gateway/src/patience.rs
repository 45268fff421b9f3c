//! Requests that ask to wait: until the read model has the position that they name.
//!
//! A service answers such a request when it can, and says that it cannot after the time that the request allows
//! (`?wait=`, 5 s where it does not say). That time is not counted against the route's time-out.

use axum::http::Request;
use service::config::Span;
use std::time::Duration;

/// What a request that names a position waits, unless it says how long.
const USUAL: Duration = Duration::from_secs(5);

/// How much longer than others this request may take; at most `longest`.
pub(crate) fn asked<B>(request: &Request<B>, longest: Duration) -> Duration {
    if longest.is_zero() {
        return longest;
    }
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
    };
    if parameter("after").is_none() && !request.headers().contains_key("waybill-position") {
        return Duration::ZERO;
    }
    parameter("wait").and_then(|text| text.parse().ok()).map_or(USUAL, |Span(wait)| wait).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_a_position_may_wait_and_not_for_ever() {
        let longest = Duration::from_secs(30);
        let of = |target: &str, header: bool| {
            let mut request = Request::get(target).body(()).unwrap();
            if header {
                request.headers_mut().insert("waybill-position", "ORDERS:1".parse().unwrap());
            }
            asked(&request, longest).as_millis()
        };
        for (target, header, milliseconds) in [
            ("/a", false, 0),
            ("/a?wait=2", false, 0),
            ("/a?after=", false, 0),
            ("/a?after=ORDERS:1", false, 5000),
            ("/a", true, 5000),
            ("/a?wait=2", true, 2000),
            ("/a?wait=0.5&x", true, 500),
            ("/a?x=1&wait=250ms", true, 250),
            ("/a?wait=3s", true, 3000),
            ("/a?wait=3600", true, 30_000),
            ("/a?wait=-1", true, 5000),
            ("/a?wait=NaN", true, 5000),
        ] {
            assert_eq!(of(target, header), milliseconds, "{target}");
        }
        let waits = Request::get("/a?after=ORDERS:1").body(()).unwrap();
        assert!(asked(&waits, Duration::ZERO).is_zero());
    }
}
