//! Counts requests by verb, resource and outcome, whoever sends them.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use super::error::Error;

/// Told of each request: verb, resource and status code (0 = no answer).
pub type Count = Arc<dyn Fn(&str, &str, u16) + Send + Sync>;

/// A client of `config` whose requests are told to `count`.
///
/// # Errors
/// If the TLS configuration is unusable.
pub fn client(config: Config, count: Count) -> Result<Client, Error> {
    let builder = ClientBuilder::try_from(config)
        .map_err(|source| Error::call("configure client", source))?;
    Ok(builder.with_layer(&layer(count)).build())
}

/// What tells each request of a client to `count`.
#[must_use]
pub fn layer(count: Count) -> Counting {
    Counting { count }
}

/// See [`layer`].
pub struct Counting {
    count: Count,
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, count: self.count.clone() }
    }
}

/// A service whose requests are counted.
pub struct Counted<S> {
    inner: S,
    count: Count,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let uri = request.uri();
        let (verb, resource) = named(request.method(), uri.path(), uri.query().unwrap_or(""));
        let answer = self.inner.call(request);
        let mut told = Told { count: self.count.clone(), verb, resource, code: 0 };
        Box::pin(async move {
            let answer = answer.await;
            told.answered(answer.as_ref().map_or(0, |answer| answer.status().as_u16()));
            answer
        })
    }
}

/// Counts when it is dropped: whoever gives up waiting has had no answer, and that counts too.
struct Told {
    count: Count,
    verb: &'static str,
    resource: String,
    code: u16,
}

impl Told {
    /// Takes all of it along, so that it is dropped with the request.
    fn answered(&mut self, code: u16) {
        self.code = code;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        (self.count)(self.verb, &self.resource, self.code);
    }
}

/// Verb and resource as Kubernetes' own metrics name them, from a request's line.
fn named(method: &Method, path: &str, query: &str) -> (&'static str, String) {
    let mut parts = path.trim_matches('/').split('/').collect::<Vec<_>>();
    // /api/v1/… or /apis/group/version/…
    let prefix = if parts.first() == Some(&"api") { 2 } else { 3 };
    parts.drain(..prefix.min(parts.len()));
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let resource = match (parts.first(), parts.get(2)) {
        (Some(resource), Some(sub)) => format!("{resource}/{sub}"),
        (Some(resource), None) => (*resource).to_owned(),
        (None, _) => "other".to_owned(),
    };
    let one = parts.len() > 1;
    let verb = match (method.as_str(), one) {
        ("GET", true) => "get",
        ("GET", false) if query.contains("watch=true") => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_is_given_up_counts_as_unanswered() {
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let notes = told.clone();
        let count: Count = Arc::new(move |verb, resource, code| {
            notes.lock().unwrap().push(format!("{verb} {resource} {code}"));
        });
        let server = tower::service_fn(async |request: Request<Body>| {
            if request.method() == Method::GET {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(Response::builder().status(409).body(Body::empty()).unwrap())
        });
        let mut client = layer(count).layer(server);
        let request = |method| {
            let uri = "/api/v1/namespaces/x/pods/y";
            Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()
        };
        let patience = std::time::Duration::from_millis(1);
        let answer = client.call(request(Method::GET));
        assert!(tokio::time::timeout(patience, answer).await.is_err());
        drop(client.call(request(Method::PATCH)).await.unwrap());
        assert_eq!(*told.lock().unwrap(), ["get pods 0", "patch pods 409"]);
    }

    #[test]
    fn requests_are_named_as_the_api_server_names_them() {
        let group = "/apis/idlewild.dev/v1alpha1";
        let cases = [
            (Method::GET, "/api/v1/namespaces".to_owned(), "", "list namespaces"),
            (Method::GET, "/api/v1/namespaces/x".to_owned(), "", "get namespaces"),
            (Method::GET, format!("{group}/gpujobs"), "watch=true", "watch gpujobs"),
            (
                Method::PATCH,
                format!("{group}/namespaces/a/gpujobs/b/status"),
                "",
                "patch gpujobs/status",
            ),
            (
                Method::DELETE,
                format!("{group}/namespaces/a/gpuleases"),
                "",
                "deletecollection gpuleases",
            ),
            (
                Method::POST,
                "/api/v1/namespaces/a/serviceaccounts/b/token".to_owned(),
                "",
                "create serviceaccounts/token",
            ),
        ];
        for (method, path, query, want) in cases {
            let (verb, resource) = named(&method, &path, query);
            assert_eq!(format!("{verb} {resource}"), want, "{path}");
        }
    }
}
