//! The aggregated API over HTTP: who asks, may they, and what the answer is.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use super::access::{Access, Wish};
use super::caller::Caller;
use super::tls::{Secured, Tls};
use super::{Answer, Gates, Question, discovery, metrics};
use crate::api::explanation::GATEWAY_GROUP;
use crate::cluster::chain;

/// An explanation that takes longer is not worth waiting for: the API server itself gives up soon.
const PATIENCE: Duration = Duration::from_secs(20);

/// What requests are answered from.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) access: Access,
    pub(super) ask: mpsc::Sender<Question>,
    pub(super) gates: Gates,
    pub(super) metrics: metrics::Gateway,
    pub(super) secured: watch::Receiver<Option<Secured>>,
}

/// Serves until the process ends.
///
/// # Errors
/// If the listener fails for good.
pub(super) async fn serve(listener: Tls, desk: Desk) -> std::io::Result<()> {
    axum::serve(listener, router(desk)).await
}

fn router(desk: Desk) -> Router {
    let group = "/apis/gateway.idlewild.dev";
    let version = "/apis/gateway.idlewild.dev/v1alpha1";
    let explain = format!("{version}/namespaces/{{namespace}}/gpujobs/{{name}}/explain");
    let fixed = |document: fn() -> Value| get(move || std::future::ready(body(&document())));
    let healthy = || get(|| async { "ok\n" });
    Router::new()
        .route("/healthz", healthy())
        .route("/livez", healthy())
        .route("/readyz", get(ready))
        .route("/apis", fixed(discovery::groups))
        .route(group, fixed(discovery::group))
        .route(version, fixed(discovery::resources))
        .route("/openapi/v2", fixed(discovery::openapi_v2))
        .route("/openapi/v3", fixed(discovery::openapi_v3))
        .route(&format!("/openapi/v3{version}"), fixed(discovery::openapi_v3_document))
        .route(&explain, get(explained))
        .fallback(|| async { Failure::not_found("there is nothing at this path").into_response() })
        .with_state(Arc::new(desk))
}

fn body(document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            Failure::unavailable(format!("the answer cannot be written: {error}")).into_response()
        }
    }
}

async fn ready(State(desk): State<Arc<Desk>>) -> (StatusCode, String) {
    match desk.gates.closed().as_slice() {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        closed => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", closed.join(", "))),
    }
}

async fn explained(
    State(desk): State<Arc<Desk>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let timer = desk.metrics.explain_seconds.start_timer();
    let answer = explain(&desk, &headers, (namespace, name)).await;
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    match response.status().is_success() {
        true => timer.observe_duration(),
        false => drop(timer.stop_and_discard()),
    }
    let code = response.status();
    desk.metrics.requests.with_label_values(&["explain", code.as_str()]).inc();
    response
}

async fn explain(
    desk: &Desk,
    headers: &HeaderMap,
    (namespace, name): (String, String),
) -> Result<Response, Failure> {
    let trust = desk.secured.borrow().as_ref().map(|secured| secured.trust.clone());
    let caller = trust.and_then(|trust| Caller::of(headers, &trust));
    let caller = caller.ok_or_else(Failure::unauthorized)?;
    let wish = Wish {
        caller,
        verb: "get",
        subresource: "explain",
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let user = wish.caller.user.clone();
    let may = desk.access.may(wish).await.map_err(|error| {
        warn!(error = chain(&error), "access cannot be reviewed");
        Failure::unavailable("access cannot be reviewed now".to_owned())
    })?;
    if !may {
        return Err(Failure::forbidden(&user, &namespace, &name));
    }
    let (answer, answered) = oneshot::channel();
    let question = Question { namespace: namespace.clone(), name: name.clone(), answer };
    let busy = || Failure::unavailable("too many questions wait; ask again soon".to_owned());
    desk.ask.try_send(question).map_err(|_| busy())?;
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(Answer::Explained(explanation))) => Ok(body(&explanation)),
        Ok(Ok(Answer::NoSuchJob)) => Err(Failure::no_such_job(&namespace, &name)),
        Ok(Ok(Answer::NotYet(closed))) => Err(Failure::unavailable(format!(
            "the gateway still reads the hub's objects: {}",
            closed.join(", ")
        ))),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

/// A refusal as Kubernetes writes it.
#[derive(Debug)]
struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    name: String,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, name: String::new() }
    }

    fn unauthorized() -> Self {
        let message = "no user is named; ask through the hub's API server".to_owned();
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    fn forbidden(user: &str, namespace: &str, name: &str) -> Self {
        let message = format!(
            "gpujobs.{GATEWAY_GROUP} {name:?} is forbidden: User {user:?} cannot get resource \
             \"gpujobs/explain\" in API group {GATEWAY_GROUP:?} in the namespace {namespace:?}"
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message.to_owned())
    }

    fn no_such_job(namespace: &str, name: &str) -> Self {
        let message = format!("there is no GpuJob {name} in namespace {namespace}");
        Self { name: name.to_owned(), ..Self::new(StatusCode::NOT_FOUND, "NotFound", message) }
    }

    fn unavailable(message: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
            "details": { "group": GATEWAY_GROUP, "kind": "gpujobs", "name": self.name },
        });
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (self.code, kind, status.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use kube::Client;
    use tower::ServiceExt;

    use super::*;
    use crate::api::GpuJobExplanation;

    /// An API server that allows `alice` everything, and fails for `crash`; it notes who is asked for.
    fn api_server(asked: Arc<Mutex<Vec<String>>>) -> Client {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let asked = asked.clone();
            async move {
                let bytes = request.into_body().collect_bytes().await.unwrap();
                let mut review: Value = serde_json::from_slice(&bytes).unwrap();
                let user = review["spec"]["user"].as_str().unwrap().to_owned();
                asked.lock().unwrap().push(user.clone());
                review["status"] = json!({ "allowed": user == "alice" });
                let code = if user == "crash" { 500 } else { 201 };
                let body = kube::client::Body::from(serde_json::to_vec(&review).unwrap());
                let response = axum::http::Response::builder().status(code).body(body).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    struct Gateway {
        router: Router,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Gateway {
        fn start() -> Self {
            let asked = Arc::default();
            let (ask, mut questions) = mpsc::channel::<Question>(1);
            tokio::spawn(async move {
                while let Some(Question { name, answer, .. }) = questions.recv().await {
                    drop(answer.send(match name.as_str() {
                        "train" => Answer::Explained(Box::<GpuJobExplanation>::default()),
                        "early" => Answer::NotYet(vec!["pools"]),
                        _ => Answer::NoSuchJob,
                    }));
                }
            });
            let desk = Desk {
                access: Access::new(api_server(Arc::clone(&asked))),
                ask,
                gates: Gates::default(),
                metrics: metrics::Gateway::new(&prometheus::Registry::new()),
                secured: watch::channel(Some(super::super::tls::tests::secured())).1,
            };
            Self { router: router(desk), asked }
        }

        async fn get(&self, path: &str, user: Option<&str>) -> (u16, Value) {
            let mut request = Request::get(path);
            if let Some(user) = user {
                request = request.header("X-Remote-User", user);
            }
            let request = request.body(Body::empty()).unwrap();
            let response = self.router.clone().oneshot(request).await.unwrap();
            let code = response.status().as_u16();
            let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            (code, serde_json::from_slice(&bytes).unwrap_or_default())
        }

        async fn explain(&self, job: &str, user: Option<&str>) -> (u16, Value) {
            let group = "/apis/gateway.idlewild.dev/v1alpha1";
            self.get(&format!("{group}/namespaces/team-a/gpujobs/{job}/explain"), user).await
        }
    }

    #[tokio::test]
    async fn only_those_whom_the_api_server_allows_are_told() {
        let gateway = Gateway::start();
        assert_eq!(gateway.explain("train", Some("alice")).await.0, 200);
        let (code, status) = gateway.explain("train", Some("mallory")).await;
        assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
        assert!(status["message"].as_str().unwrap().contains("\"mallory\""), "{status}");
        assert_eq!(gateway.explain("train", None).await.0, 401);
        assert_eq!(gateway.explain("train", Some("crash")).await.0, 503, "not knowing is no yes");
        assert_eq!(gateway.explain("train", Some("alice")).await.0, 200);
        assert_eq!(
            *gateway.asked.lock().unwrap(),
            ["alice", "mallory", "crash"],
            "asked once each"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_said_as_kubernetes_does() {
        let gateway = Gateway::start();
        let (code, status) = gateway.explain("nobody", Some("alice")).await;
        assert_eq!((code, &status["details"]["group"]), (404, &json!(GATEWAY_GROUP)));
        assert_eq!(status["details"]["name"], json!("nobody"));
        let (code, status) = gateway.explain("early", Some("alice")).await;
        assert_eq!(code, 503);
        assert!(status["message"].as_str().unwrap().ends_with("objects: pools"), "{status}");
        assert_eq!(gateway.get("/apis/other", Some("alice")).await.0, 404);
    }

    #[tokio::test]
    async fn discovery_needs_nobody() {
        let gateway = Gateway::start();
        for path in ["/apis", "/apis/gateway.idlewild.dev", "/openapi/v2", "/openapi/v3"] {
            assert_eq!(gateway.get(path, None).await.0, 200, "{path}");
        }
        let (_, list) = gateway.get("/apis/gateway.idlewild.dev/v1alpha1", None).await;
        assert_eq!(list["resources"][0]["name"], json!("gpujobs/explain"));
        assert_eq!(
            list["resources"].as_array().unwrap().len(),
            1,
            "gpujobs are those of idlewild.dev"
        );
        assert!(gateway.asked.lock().unwrap().is_empty());
    }
}
