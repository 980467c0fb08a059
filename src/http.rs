//! `/metrics`, `/livez` and `/readyz` of hub and agent.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};

/// Names the gates that are still closed; ready when there are none.
pub type Gates = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Serves until the process ends.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(address: SocketAddr, registry: Registry, gates: Gates) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(ready(&gates))))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))));
    axum::serve(listener, router).await
}

fn ready(gates: &Gates) -> (StatusCode, String) {
    match gates().as_slice() {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        closed => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", closed.join(", "))),
    }
}

fn metrics(registry: &Registry) -> (StatusCode, String) {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
