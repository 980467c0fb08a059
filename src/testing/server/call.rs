//! Requests as an API server reads them.

use std::fmt;

use ::http::{Method, Request};
use kube::client::Body;
use serde_json::Value;

use super::kinds::{Kind, Scope};
use super::query::Query;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// The part of an object that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Status,
    /// Of pods: the node they run on.
    Binding,
    /// Of service accounts: a token.
    Token,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) verb: Verb,
    pub(super) kind: &'static Kind,
    /// Empty: all, or a kind without.
    pub(crate) namespace: String,
    /// Empty: all, or told by the body.
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) query: Query,
    pub(crate) body: Value,
    pub(crate) content: String,
}

impl Call {
    /// Reads a request.
    ///
    /// # Panics
    /// If it asks for something that is not modelled.
    pub(crate) async fn read(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.expect("a body in memory");
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or("").to_owned()
        };
        let uri = parts.uri.path_and_query().map_or("", |uri| uri.as_str());
        Self::parse(&parts.method, uri, &bytes, header("content-type"))
    }

    /// A request from its pieces.
    ///
    /// # Panics
    /// If it asks for something that is not modelled.
    pub(crate) fn parse(method: &Method, uri: &str, body: &[u8], content: String) -> Self {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let unknown = || -> ! { panic!("the simulated server does not know {method} {uri}") };
        let query = Query::read(query).unwrap_or_else(|key| panic!("{key} of {method} {uri}"));
        let mut words: Vec<&str> = path.trim_matches('/').split('/').collect();
        let group = match words.as_slice() {
            ["api", "v1", _, ..] => words.drain(..2).next().map(|_| ""),
            ["apis", group, _, _, ..] => Some(*group).inspect(|_| drop(words.drain(..3))),
            _ => None,
        };
        let mut namespace = "";
        if words[0] == "namespaces" && words.len() > 2 {
            namespace = words[1];
            words.drain(..2);
        }
        let Some(kind) = Kind::find(words[0]) else { unknown() };
        if group != Some(kind.group.as_str()) || words.len() > 3 {
            unknown();
        }
        let part = match words.get(2).copied() {
            None => Part::Whole,
            Some("status") => Part::Status,
            Some("binding") if kind.plural == "pods" => Part::Binding,
            Some("token") if kind.plural == "serviceaccounts" => Part::Token,
            Some(_) => unknown(),
        };
        let name = words.get(1).copied().unwrap_or("");
        let verb = match (method.as_str(), name.is_empty()) {
            ("GET", _) if query.watch => Verb::Watch,
            ("GET", true) => Verb::List,
            ("GET", false) => Verb::Get,
            ("POST", _) => Verb::Create,
            ("PUT", false) => Verb::Update,
            ("PATCH", false) => Verb::Patch,
            ("DELETE", true) => Verb::DeleteCollection,
            ("DELETE", false) => Verb::Delete,
            _ => unknown(),
        };
        if kind.scope == Scope::Cluster && !namespace.is_empty() {
            unknown();
        }
        let body = match body {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes)
                .unwrap_or_else(|error| panic!("the body of {method} {uri}: {error}")),
        };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { verb, kind, namespace, name, part, query, body, content }
    }

    /// Whether it may change something.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.verb, Verb::Get | Verb::List | Verb::Watch)
    }

    /// The plural of the kind.
    pub(crate) fn plural(&self) -> &'static str {
        &self.kind.plural
    }

    /// Such as `PATCH gpujobs/status ns/name`, for traces.
    pub(crate) fn name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = format!("{:?}", self.verb).to_uppercase();
        let part = match self.part {
            Part::Whole => "",
            Part::Status => "/status",
            Part::Binding => "/binding",
            Part::Token => "/token",
        };
        let told = self.body["metadata"]["name"].as_str();
        let name = if self.name.is_empty() { told.unwrap_or("*") } else { &self.name };
        write!(f, "{verb} {}{part} ", self.kind.plural)?;
        match self.namespace.as_str() {
            "" => f.write_str(name),
            namespace => write!(f, "{namespace}/{name}"),
        }
    }
}
