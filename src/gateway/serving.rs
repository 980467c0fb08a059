//! The serving certificate: made here, kept in a Secret that all replicas share, trusted by the hub's
//! API server through the bundle of our `APIService`.
//!
//! Invariant: a certificate is served only once the bundle holds it, and the one before it stays in
//! the bundle, so that replicas may change over one after the other.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::json;
use tracing::info;

use crate::api::explanation::{GATEWAY_GROUP, GATEWAY_VERSION};
use crate::cluster::{Error, within};

/// The Service, and the name of everything else of ours.
const SERVICE: &str = "idlewild-gateway";
/// The Secret that the chart makes empty.
const SECRET: &str = "idlewild-gateway-tls";
/// How long a certificate is good.
const GOOD_DAYS: i64 = 365;
/// When the next one is made: a third of its life is left for whoever was away.
const RENEWED_AFTER_DAYS: i64 = 240;
/// Clocks of API servers may be behind ours.
const BACKDATED_DAYS: i64 = 1;

/// A certificate and its key, both in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    pair: Pair,
    previous: String,
    renew_at: Timestamp,
}

/// The pair to serve with; made, stored and made known first where that is due.
///
/// # Errors
/// If the Secret or the `APIService` is not there or cannot be written; another replica may have been
/// first, then the next try finds what it wrote.
pub(super) async fn keep(client: &Client, namespace: &str, now: Timestamp) -> Result<Pair, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = within("read the serving certificate", secrets.get(SECRET)).await?;
    let stored = match read(&secret).filter(|stored| now < stored.renew_at) {
        Some(stored) => stored,
        None => {
            let previous = read(&secret).map(|stored| stored.pair.certificate);
            let fresh = make(namespace, previous.unwrap_or_default(), now)?;
            write(&secrets, &secret, &fresh).await?;
            info!(renew_at = %fresh.renew_at, "made a serving certificate");
            fresh
        }
    };
    publish(client, &bundle(&stored)).await?;
    Ok(stored.pair)
}

fn read(secret: &Secret) -> Option<Stored> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Stored {
        pair: Pair { certificate: text("tls.crt")?, key: text("tls.key")? },
        previous: text("previous.crt").unwrap_or_default(),
        renew_at: text("renewAt")?.parse().ok()?,
    })
}

fn make(namespace: &str, previous: String, now: Timestamp) -> Result<Stored, Error> {
    let name = format!("{SERVICE}.{namespace}.svc");
    let unfit = |error: rcgen::Error| Error::Unfit {
        reason: format!("a serving certificate for {name} cannot be made: {error}"),
    };
    let mut params = CertificateParams::new(vec![name.clone()]).map_err(unfit)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.as_str());
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Midnight so many days from now.
    let day = |number| {
        let then = now.saturating_add(days(number)).unwrap_or(Timestamp::MAX);
        let date = then.to_zoned(TimeZone::UTC).date();
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (day(-BACKDATED_DAYS), day(GOOD_DAYS));
    let key = KeyPair::generate().map_err(unfit)?;
    let certificate = params.self_signed(&key).map_err(unfit)?.pem();
    let renew_at = now.saturating_add(days(RENEWED_AFTER_DAYS)).unwrap_or(Timestamp::MAX);
    Ok(Stored { pair: Pair { certificate, key: key.serialize_pem() }, previous, renew_at })
}

fn days(number: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * number)
}

/// Stores what is fresh onto what was read, so that one of several replicas is first.
async fn write(api: &Api<Secret>, read: &Secret, fresh: &Stored) -> Result<(), Error> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = BTreeMap::from([
        ("tls.crt", bytes(&fresh.pair.certificate)),
        ("tls.key", bytes(&fresh.pair.key)),
        ("previous.crt", bytes(&fresh.previous)),
        ("renewAt", bytes(&fresh.renew_at.to_string())),
    ]);
    let patch = Patch::Merge(json!({
        "metadata": { "uid": read.uid(), "resourceVersion": read.resource_version() },
        "data": data,
    }));
    let params = PatchParams::default();
    within("store the serving certificate", api.patch(SECRET, &params, &patch)).await.map(drop)
}

/// All certificates that replicas may serve with.
fn bundle(stored: &Stored) -> Vec<u8> {
    format!("{}{}", stored.pair.certificate, stored.previous).into_bytes()
}

/// Tells the API server whom to trust, unless it knows.
async fn publish(client: &Client, bundle: &[u8]) -> Result<(), Error> {
    let api: Api<APIService> = Api::all(client.clone());
    let name = format!("{GATEWAY_VERSION}.{GATEWAY_GROUP}");
    let service = within("read the APIService", api.get(&name)).await?;
    let known = service.spec.as_ref().and_then(|spec| spec.ca_bundle.as_ref());
    if known.is_some_and(|known| known.0 == bundle) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({
        "metadata": { "resourceVersion": service.resource_version() },
        "spec": { "caBundle": ByteString(bundle.to_vec()) },
    }));
    let params = PatchParams::default();
    within("publish the serving certificate", api.patch(&name, &params, &patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(stored: &Stored) -> Secret {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), bytes(&stored.pair.certificate)),
            ("tls.key".to_owned(), bytes(&stored.pair.key)),
            ("previous.crt".to_owned(), bytes(&stored.previous)),
            ("renewAt".to_owned(), bytes(&stored.renew_at.to_string())),
        ]);
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn a_certificate_is_stored_and_read_and_the_one_before_it_stays_trusted() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let first = make("idlewild-system", String::new(), now).unwrap();
        assert_eq!(read(&secret(&first)), Some(first.clone()));
        let next = make("idlewild-system", first.pair.certificate.clone(), first.renew_at).unwrap();
        let trusted = String::from_utf8(bundle(&next)).unwrap();
        assert!(trusted.contains(&first.pair.certificate));
        assert!(trusted.contains(&next.pair.certificate) && next.pair != first.pair);
        assert!(!format!("{next:?}").contains("PRIVATE"), "no key is ever shown");
    }

    #[test]
    fn an_empty_or_broken_secret_holds_none() {
        assert_eq!(read(&Secret::default()), None);
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let mut broken = secret(&make("n", String::new(), now).unwrap());
        broken.data.as_mut().unwrap().insert("renewAt".into(), ByteString(b"soon".to_vec()));
        assert_eq!(read(&broken), None);
    }
}
