//! A client of one hub: only the address and the CA that the owner's grant pins, and a bearer
//! token that can be replaced while watches are open.

use std::sync::{Arc, PoisonError, RwLock};

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Uri};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tower::util::MapRequestLayer;

use crate::api::HubGrantSpec;
use crate::cluster::Error;
use crate::cluster::client::hardened;
use crate::cluster::counting::{self, Count};

/// A bearer token, shared by the clients that use it. It never shows in `Debug`.
#[derive(Clone, Default)]
pub(super) struct Token(Arc<RwLock<Option<HeaderValue>>>);

impl Token {
    /// From now on `token` is sent; what cannot be sent is refused by the hub as no token would be.
    pub(super) fn set(&self, token: &str) {
        let value =
            HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok().map(|mut it| {
                it.set_sensitive(true);
                it
            });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get(&self) -> Option<HeaderValue> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client of the hub of `grant` that authenticates with `token`; its requests are told to `count`.
///
/// # Errors
/// If the grant's address or CA cannot be used.
pub(super) fn connect(grant: &HubGrantSpec, token: &Token, count: Count) -> Result<Client, Error> {
    let unfit = |reason: String| Error::Unfit { reason };
    let address: Uri = grant
        .address
        .parse()
        .map_err(|error| unfit(format!("spec.address is no address: {error}")))?;
    if address.scheme_str() != Some("https") {
        return Err(unfit("spec.address must start with https://".into()));
    }
    let roots = CertificateDer::pem_slice_iter(grant.ca.as_bytes())
        .map(|certificate| certificate.map(|it| it.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unfit(format!("spec.ca is no PEM: {error}")))?;
    if roots.is_empty() {
        return Err(unfit("spec.ca holds no certificate".into()));
    }
    let mut config = hardened(Config::new(address));
    config.root_cert = Some(roots); // `None` would mean system roots
    config.default_namespace.clone_from(&grant.namespace);
    // A pooled connection's idle time must not count as silence of the watch that reuses it.
    config.reset_reader_on_write = true;
    let token = token.clone();
    let layer = MapRequestLayer::new(move |mut request: Request<Body>| {
        if let Some(value) = token.get() {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        request
    });
    let builder = ClientBuilder::try_from(config)
        .map_err(|source| Error::call("configure the hub's client", source))?;
    Ok(builder.with_layer(&layer).with_layer(&counting::layer(count)).build())
}
