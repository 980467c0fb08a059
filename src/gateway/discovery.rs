//! What the API is, for kubectl and the API server: fixed documents, from here alone.

use serde_json::{Value, json};

use crate::api::explanation::{EXPLANATION_KIND, GATEWAY_GROUP, GATEWAY_VERSION};

fn group_version() -> String {
    format!("{GATEWAY_GROUP}/{GATEWAY_VERSION}")
}

/// `/apis`.
pub(super) fn groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group()] })
}

/// `/apis/gateway.idlewild.dev`.
pub(super) fn group() -> Value {
    let version = json!({ "groupVersion": group_version(), "version": GATEWAY_VERSION });
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": GATEWAY_GROUP,
        "versions": [version], "preferredVersion": version,
    })
}

/// `/apis/gateway.idlewild.dev/v1alpha1`.
///
/// The jobs themselves are not listed: they are those of `idlewild.dev`, and kubectl must not find
/// their name twice.
pub(super) fn resources() -> Value {
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(),
        "resources": [{
            "name": "gpujobs/explain", "singularName": "", "namespaced": true,
            "kind": EXPLANATION_KIND, "verbs": ["get"],
        }],
    })
}

fn info() -> Value {
    json!({ "title": "Idlewild's gateway", "version": env!("CARGO_PKG_VERSION") })
}

/// `/openapi/v2`.
pub(super) fn openapi_v2() -> Value {
    json!({ "swagger": "2.0", "info": info(), "paths": {} })
}

/// `/openapi/v3`.
pub(super) fn openapi_v3() -> Value {
    let path = format!("apis/{}", group_version());
    let version = env!("CARGO_PKG_VERSION");
    json!({ "paths": { (path.clone()): {
        "serverRelativeURL": format!("/openapi/v3/{path}?hash={version}") } } })
}

/// `/openapi/v3/apis/gateway.idlewild.dev/v1alpha1`.
pub(super) fn openapi_v3_document() -> Value {
    let parameter = |name: &str| {
        json!({ "name": name, "in": "path", "required": true,
            "schema": { "type": "string", "uniqueItems": true } })
    };
    let path =
        format!("/apis/{}/namespaces/{{namespace}}/gpujobs/{{name}}/explain", group_version());
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": { (path): {
            "get": {
                "description": "What a round of the hub would say of the job now.",
                "operationId": "readGatewayIdlewildDevV1alpha1NamespacedGpuJobExplain",
                "responses": { "200": { "description": "OK", "content": {
                    "application/json": { "schema": { "type": "object" } } } } },
                "x-kubernetes-action": "get",
                "x-kubernetes-group-version-kind": {
                    "group": GATEWAY_GROUP, "version": GATEWAY_VERSION, "kind": EXPLANATION_KIND },
            },
            "parameters": [parameter("name"), parameter("namespace")],
        } },
    })
}
