//! Refusals as the API of OpenAI has them: status, and an `error` object.

use serde_json::{Value, json};
use shm_transport::envelope::FailureCode;

use super::{Code, HttpRefusal, Refusal};

/// When a client may come again whose gateway goes down, or has no room.
const RETRY_MS_DEFAULT: u64 = 1_000;

/// Why a request gets no completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiRefusal {
    /// Of HTTP.
    pub status: u16,
    /// What went wrong, for programs.
    pub code: &'static str,
    /// What went wrong, for people.
    pub message: String,
    /// The field at fault.
    pub param: Option<&'static str>,
    /// When another try makes sense.
    pub retry_after_ms: Option<u64>,
}

impl ApiRefusal {
    /// One that another try does not change.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after_ms: None }
    }

    /// A field that cannot be used.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::new(400, "invalid_value", message) }
    }

    /// There is no room in the rings.
    pub fn busy() -> Self {
        let text = "the gateway has more to do than it can take; try again";
        Self { retry_after_ms: Some(RETRY_MS_DEFAULT), ..Self::new(503, "overloaded", text) }
    }

    /// What is refused before it is looked at.
    pub fn of_http(refusal: HttpRefusal) -> Self {
        let (status, code, message) = refusal.parts();
        let (code, retry_after_ms) = match refusal {
            HttpRefusal::Unauthorized => ("invalid_api_key", None),
            HttpRefusal::TooManyAttempts { retry_after_seconds } => (code, Some(retry_after_seconds * 1000)),
            HttpRefusal::ShuttingDown | HttpRefusal::TooManyConnections | HttpRefusal::PageUnavailable => {
                (code, Some(RETRY_MS_DEFAULT))
            }
            _ => (code, None),
        };
        Self { retry_after_ms, ..Self::new(status, code, message) }
    }

    /// What the engine says.
    pub fn of_refusal(refusal: &Refusal<'_>) -> Self {
        let failure = match refusal.code {
            Code::Failure(failure) => failure,
            _ => FailureCode::AgentError,
        };
        let status = match failure {
            FailureCode::UnknownAgent | FailureCode::NoRoute => 404,
            FailureCode::Overloaded => 429,
            FailureCode::AgentUnavailable
            | FailureCode::ShuttingDown
            | FailureCode::DiskFull
            | FailureCode::JournalFailed => 503,
            FailureCode::TooLarge => 413,
            FailureCode::Conflict | FailureCode::AlreadyAnswered | FailureCode::NotAddressed => 409,
            FailureCode::DeadlineExceeded => 504,
            // Known to proxies, and nothing that a client tries again by itself.
            FailureCode::Cancelled => 499,
            FailureCode::AgentDied | FailureCode::AgentError | FailureCode::DeadLettered => 502,
        };
        let code = if status == 404 { "model_not_found" } else { failure.name() };
        let told_ms = Some(u64::from(refusal.retry_after_ms)).filter(|&told_ms| told_ms > 0);
        let default_ms = matches!(status, 429 | 503).then_some(RETRY_MS_DEFAULT);
        Self {
            retry_after_ms: told_ms.or(default_ms),
            param: (status == 404).then_some("model"),
            ..Self::new(status, code, refusal.text.as_ref())
        }
    }

    /// What kind of error it is, in the words of that API.
    fn kind(&self) -> &'static str {
        match self.status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body.
    pub fn json(&self) -> Value {
        let Self { code, message, param, .. } = self;
        json!({"error": {"message": message, "type": self.kind(), "param": param, "code": code}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every failure has a status, and what may succeed later says when. By asking for all.
    #[test]
    fn what_may_succeed_later_says_when() {
        for &failure in FailureCode::ALL {
            let code = Code::Failure(failure);
            let refusal = ApiRefusal::of_refusal(&Refusal::new(code, "x"));
            // An agent that has died may be there again at any moment.
            let says_when = code.retryable() && failure != FailureCode::AgentDied;
            assert_eq!(refusal.retry_after_ms.is_some(), says_when, "{failure:?}");
            assert!((400..600).contains(&refusal.status), "{failure:?}");
        }
        let told =
            Refusal { retry_after_ms: 70, ..Refusal::new(Code::Failure(FailureCode::Overloaded), "x") };
        let refusal = ApiRefusal::of_refusal(&told);
        assert_eq!((refusal.status, refusal.retry_after_ms), (429, Some(70)));
        assert_eq!(
            ApiRefusal::of_http(HttpRefusal::Unauthorized).json(),
            json!({"error": {"message": "the gateway's token or password is missing or wrong",
                "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}})
        );
    }
}
