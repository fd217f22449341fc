//! `POST /v1/chat/completions`: requests that an agent answers, as the API of OpenAI has them.
//!
//! A request is a connection with one turn: what holds for turns, buffers and the end of the gateway holds for it too.
//!
//! | module | is |
//! |---|---|
//! | [`request`] | what is asked |
//! | [`asking`] | the turn |
//! | [`piece`] | what the turn says to the task that answers |
//! | [`stream`] | what the client gets |

mod asking;
pub mod piece;
mod request;
mod stream;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};

use self::asking::Asking;
pub use self::stream::EventStream;
use self::stream::Label;
use super::http::answers::{self, Answered};
use super::http::bodies::Bodies;
use super::state::{Edge, unix_ms};
use super::upgrade;
use crate::refusal::api::ApiRefusal;

/// Answers a request.
pub async fn serve(
    edge: &Rc<Edge>,
    request: Request<Incoming>,
    source: IpAddr,
    (bodies, works): (&Rc<Bodies>, &Cell<bool>),
) -> Response<Answered> {
    match complete(edge, request, source, (bodies, works)).await {
        Ok(response) => response,
        Err(refusal) => answers::refused_by_api(&refusal).map(Answered::Whole),
    }
}

async fn complete(
    edge: &Rc<Edge>,
    request: Request<Incoming>,
    source: IpAddr,
    (bodies, works): (&Rc<Bodies>, &Cell<bool>),
) -> Result<Response<Answered>, ApiRefusal> {
    let (head, body) = request.into_parts();
    // Who is nobody has nothing read.
    let entrance = upgrade::admit(edge, &head.headers, source).map_err(ApiRefusal::of_http)?;
    let body = bodies.read(body, edge.options.body_timeout).await?;
    let default_agent = &edge.shared.about.default_agent;
    let asked = request::Request::read(body.bytes(), &head.headers, default_agent, || edge.random_name())?;
    drop(body);
    if asked.text.len() > edge.options.message_bytes_max {
        let text = format!("the message has more than {} bytes", edge.options.message_bytes_max);
        return Err(ApiRefusal { param: Some("messages"), ..ApiRefusal::new(413, "too_large", text) });
    }
    let id = format!("chatcmpl-{}", edge.random_name());
    let asking = Asking::begin(edge, entrance, &asked, &id)?;
    works.set(true);
    let label = Label { id, model: asked.model, created: unix_ms() / 1000 };
    if asked.stream {
        let stream = EventStream::begin(asking, label, asked.include_usage).await?;
        return Ok(events(stream));
    }
    let body = stream::whole(asking, &label).await?;
    Ok(answers::json(StatusCode::OK, body.to_string().into_bytes()).map(Answered::Whole))
}

fn events(stream: EventStream) -> Response<Answered> {
    let mut response = Response::new(Answered::Events(Box::new(stream)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
