//! Answers: what each says beside its body, and how a refusal looks to whom.

use std::io::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::edge::completions::EventStream;
use crate::edge::pages::Page;
use crate::refusal::HttpRefusal;
use crate::refusal::api::ApiRefusal;

/// As `Retry-After`, in milliseconds; clients of the API of OpenAI know it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The body of an answer.
#[derive(Debug)]
pub enum Answered {
    /// All of it.
    Whole(Full<Bytes>),
    /// Events, as they come.
    Events(Box<EventStream>),
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Events(events) => Pin::new(events.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// How a refusal is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `{"error":{"code","message"}}`
    Json,
    /// A sentence, for people.
    Text,
    /// As the API of OpenAI has it.
    Api,
}

impl Form {
    /// That of a path, for a client that wants this.
    pub fn of(path: &str, headers: &HeaderMap) -> Self {
        if path.starts_with("/v1/") {
            return Self::Api;
        }
        let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_for_people = accepted.contains("text/html") || accepted.contains("text/plain");
        if is_for_people && !accepted.contains("application/json") { Self::Text } else { Self::Json }
    }
}

#[derive(Serialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Serialize)]
struct ErrorText {
    code: &'static str,
    message: &'static str,
}

/// Why there is nothing else.
pub fn refused(refusal: HttpRefusal, form: Form) -> Response<Full<Bytes>> {
    let (status, code, message) = refusal.parts();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match form {
        Form::Api => refused_by_api(&ApiRefusal::of_http(refusal)),
        Form::Text => content(status, "text/plain; charset=utf-8", format!("{message}\n").into_bytes()),
        Form::Json => {
            let body = ErrorBody { error: ErrorText { code, message } };
            json(status, serde_json::to_vec(&body).unwrap_or_default())
        }
    };
    let headers = response.headers_mut();
    match refusal {
        HttpRefusal::MethodNotAllowed { allowed } => {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        HttpRefusal::UpgradeRequired => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        HttpRefusal::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        HttpRefusal::TooManyAttempts { retry_after_seconds } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
        }
        _ => {}
    }
    response
}

/// Why there is no completion.
pub fn refused_by_api(refusal: &ApiRefusal) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, refusal.json().to_string().into_bytes());
    let headers = response.headers_mut();
    if let Some(retry_after_ms) = refusal.retry_after_ms {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(retry_after_ms));
    }
    if refusal.status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if refusal.status == 408 {
        // What is left of the body is not waited for.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A page that the gateway has made, if it has.
pub fn passed_on(page: Option<Page>, form: Form) -> Response<Full<Bytes>> {
    let Some(Page { status, content_type, body }) = page else {
        return refused(HttpRefusal::PageUnavailable, form);
    };
    content(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), content_type, body)
}

/// Which methods a path answers.
pub fn options(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    content(status, "application/json", body)
}

fn content(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What every answer says: it is what it says it is, and where it came from is nobody's business.
pub fn harden(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}
