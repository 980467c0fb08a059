//! Answers and watches as a client of the library takes them.

use std::convert::Infallible;

use axum::body::Body;
use futures::{Stream, StreamExt};
use http::Response;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// An answer.
pub(crate) fn response(code: u16, body: &Value) -> Response<Body> {
    let text = serde_json::to_vec(body).expect("JSON is text");
    whole(code, Body::from(text))
}

/// An answer that goes on as long as `lines` do.
pub(crate) fn streamed(lines: impl Stream<Item = String> + Send + 'static) -> Response<Body> {
    whole(200, Body::from_stream(lines.map(Ok::<_, Infallible>)))
}

fn whole(code: u16, body: Body) -> Response<Body> {
    let response = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    response.body(body).expect("a code and a known header")
}
