//! A client of one hub: only the address that the owner's grant pins, only certificates that are
//! trusted by name, and a bearer token that can be replaced while watches are open.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::util::MapRequestLayer;

use super::trust::Roots;
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

/// How hubs are reached: directly, or through a proxy (`HTTPS_PROXY`, `NO_PROXY`).
#[derive(Clone, Default)]
pub struct Proxy {
    /// `http://[user:password@]host:port`; empty or absent: directly.
    pub https: Option<String>,
    /// Hosts that are reached directly: names, `.suffixes`, addresses, networks, `*`.
    pub exempt: Option<String>,
}

impl fmt::Debug for Proxy {
    /// The address may hold a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let https = self.https.as_ref().map(|_| "...");
        formatter
            .debug_struct("Proxy")
            .field("https", &https)
            .field("exempt", &self.exempt)
            .finish()
    }
}

impl Proxy {
    /// The proxy on the way to `address`, if there is one.
    fn to(&self, address: &Uri) -> Result<Option<Uri>, Error> {
        let Some(https) = self.https.as_deref().map(str::trim).filter(|it| !it.is_empty()) else {
            return Ok(None);
        };
        // As with curl, an address without a scheme is one of HTTP.
        let https = if https.contains("://") { https.into() } else { format!("http://{https}") };
        // The sentence does not repeat the address: it may hold a password.
        let unfit = |reason: &str| Error::Unfit { reason: format!("HTTPS_PROXY {reason}") };
        let url: Uri =
            https.parse().map_err(|_| unfit("is no address; http://host:port is one"))?;
        if url.scheme_str() != Some("http") {
            let reason = "must start with http://: the tunnel through it is TLS up to the hub, which \
                          only the grant's CA vouches for";
            return Err(unfit(reason));
        }
        let exempt = self.exempt.as_deref().unwrap_or_default();
        let matcher = Matcher::builder().https(https).no(exempt).build();
        Ok(matcher.intercept(address).map(|_| url))
    }
}

/// Who a client is to reach, and how it is known there.
#[derive(Clone)]
pub struct Reach {
    /// The owner's grant.
    pub grant: HubGrantSpec,
    /// The only certificates that are believed.
    roots: Roots,
    /// What it authenticates with.
    token: Token,
    /// Told of each request.
    count: Count,
}

/// What makes clients of hubs.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Reach) -> Result<Client, Error> + Send + Sync>);

impl fmt::Debug for Dial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Dial")
    }
}

impl Dial {
    /// Clients that reach hubs over the network, through `proxy` where it says so.
    #[must_use]
    pub fn new(proxy: Proxy) -> Self {
        Self::with(move |reach| connect(&proxy, reach))
    }

    /// Clients that `dial` makes.
    #[must_use]
    pub fn with(dial: impl Fn(Reach) -> Result<Client, Error> + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }

    /// A client of the hub of `grant` that believes `roots` alone and authenticates with `token`; its
    /// requests are told to `count`.
    ///
    /// # Errors
    /// If the grant's address or the proxy cannot be used.
    pub(super) fn connect(
        &self,
        grant: &HubGrantSpec,
        roots: Roots,
        token: &Token,
        count: Count,
    ) -> Result<Client, Error> {
        (self.0)(Reach { grant: grant.clone(), roots, token: token.clone(), count })
    }
}

fn connect(proxy: &Proxy, Reach { grant, roots, token, count }: Reach) -> Result<Client, Error> {
    let unfit = |reason: String| Error::Unfit { reason };
    let address: Uri = grant
        .address
        .parse()
        .map_err(|error| unfit(format!("spec.address is no address: {error}")))?;
    if address.scheme_str() != Some("https") {
        return Err(unfit("spec.address must start with https://".into()));
    }
    let through = proxy.to(&address)?;
    let mut config = hardened(Config::new(address));
    config.proxy_url = through;
    config.root_cert = Some(roots); // `None` would mean system roots
    config.default_namespace.clone_from(&grant.namespace);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn through(https: &str, exempt: &str, address: &str) -> Result<Option<Uri>, Error> {
        let proxy = Proxy { https: Some(https.into()), exempt: Some(exempt.into()) };
        proxy.to(&address.parse().unwrap())
    }

    #[test]
    fn a_hub_is_reached_through_the_proxy_unless_it_is_exempt() {
        let hub = "https://hub.example.org:6443";
        for exempt in ["", "other.org", "example.or", "10.0.0.0/8"] {
            let url = through("http://proxy:3128", exempt, hub).unwrap().unwrap();
            assert_eq!(url.to_string(), "http://proxy:3128/", "{exempt}");
        }
        for exempt in ["*", "hub.example.org", ".example.org", "example.org", "a, example.org"] {
            assert!(through("http://proxy:3128", exempt, hub).unwrap().is_none(), "{exempt}");
        }
        assert!(through("p:1", "10.0.0.0/8", "https://10.1.2.3:6443").unwrap().is_none());
        assert!(
            through("p:1", "", "https://10.1.2.3:6443").unwrap().is_some(),
            "no scheme is http"
        );
        assert!(through(" ", "", hub).unwrap().is_none());
        assert!(Proxy::default().to(&hub.parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn a_proxy_that_cannot_be_used_says_so_without_its_password() {
        for https in
            ["https://user:secret@proxy", "socks5://user:secret@p", "http://user:secret@ p"]
        {
            let error = through(https, "", "https://hub").unwrap_err().to_string();
            assert!(error.contains("http://") && !error.contains("secret"), "{error}");
            let proxy = Proxy { https: Some(https.into()), exempt: None };
            assert!(!format!("{proxy:?}").contains("secret"));
        }
    }
}
