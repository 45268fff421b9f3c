//! What became of a request, and how the client is told (IETF draft-ietf-httpapi-ratelimit-headers-10).

use super::LimitPolicy;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use service::Problem;
use std::time::Duration;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whether a request may pass.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// How many more may, as far as this gateway knows: others may have admitted some that it has not heard of.
    pub remaining: u32,
    /// Until the window ends.
    pub reset: Duration,
    /// By what it was decided.
    pub policy: LimitPolicy,
}

impl Decision {
    /// Seconds until the window ends, rounded up so that whoever waits for them is not refused again.
    fn seconds(&self) -> u32 {
        let whole = self.reset.as_secs() + u64::from(self.reset.subsec_nanos() > 0);
        u32::try_from(whole.max(1)).unwrap_or(u32::MAX)
    }

    /// Writes `RateLimit-Policy` and `RateLimit`, and `Retry-After` where the request may not pass.
    pub fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy.header());
        let seconds = self.seconds();
        let left = format!("\"{}\";r={};t={seconds}", self.policy.name(), self.remaining);
        // The name of a policy is checked, so this is always text.
        if let Ok(left) = HeaderValue::try_from(left) {
            headers.insert(RATE_LIMIT, left);
        }
        if !self.allowed {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }

    /// What a client is told whose request may not pass (429).
    pub fn problem(&self) -> Problem {
        let detail = format!(
            "{} requests in {} s are allowed; the next one in {} s.",
            self.policy.quota(),
            self.policy.window().as_secs(),
            self.seconds()
        );
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "quota-exceeded", detail).with_retry_after(self.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    fn decision(allowed: bool, remaining: u32, reset: Duration) -> HeaderMap {
        let policy = LimitPolicy::new("default", 100, Duration::from_mins(15)).unwrap();
        let mut headers = HeaderMap::new();
        Decision { allowed, remaining, reset, policy }.headers(&mut headers);
        headers
    }

    #[test]
    fn headers_are_those_of_the_draft() {
        let headers = decision(true, 99, Duration::from_mins(15));
        assert_eq!(headers["ratelimit-policy"], "\"default\";q=100;w=900");
        assert_eq!(headers["ratelimit"], "\"default\";r=99;t=900");
        assert!(!headers.contains_key("retry-after"));

        let headers = decision(false, 0, Duration::from_millis(899_001));
        assert_eq!(headers["ratelimit"], "\"default\";r=0;t=900");
        assert_eq!(headers["retry-after"], "900");
        assert_eq!(decision(false, 0, Duration::from_millis(1))["retry-after"], "1");
    }

    #[test]
    fn a_refusal_is_a_problem_that_says_when_to_come_again() {
        let policy = LimitPolicy::new("default", 100, Duration::from_mins(15)).unwrap();
        let decision = Decision { allowed: false, remaining: 0, reset: Duration::from_secs(7), policy };
        let response = decision.problem().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(decision.problem().kind(), "/problems/quota-exceeded");
    }
}
