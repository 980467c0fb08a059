//! Which certificates of a hub are believed, and what to do about one that is not.
//!
//! Invariant: trusted are the CA certificates that the owner's grant pins and those that the hub told
//! over a connection trusted by then; never the system's.

use std::error::Error as StdError;
use std::io;

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::record::Standing;
use crate::api::digest::text_hash;
use crate::api::grant::{FollowedCa, HubGrantSpec};
use crate::cluster::Error;

/// Largest bundle that is followed.
const LARGEST: usize = 65_536;

/// CA certificates in DER, as clients take them.
pub(super) type Roots = Vec<Vec<u8>>;

/// The certificates of `pem`.
pub(super) fn certificates(pem: &str) -> Result<Roots, String> {
    let roots = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|certificate| certificate.map(|it| it.to_vec()))
        .collect::<Result<Roots, _>>()
        .map_err(|error| format!("is no PEM: {error}"))?;
    if roots.is_empty() { Err("holds no certificate".into()) } else { Ok(roots) }
}

/// Names what an owner pinned: certificates learnt under something else are not trusted under this.
pub(super) fn pinned(grant: &HubGrantSpec) -> String {
    text_hash(&format!("{}\n{}", grant.address.trim(), grant.ca.trim()))
}

/// What is trusted of the hub of `grant`.
///
/// # Errors
/// If the grant's own CA cannot be used.
pub(super) fn roots(grant: &HubGrantSpec, followed: Option<&FollowedCa>) -> Result<Roots, Error> {
    let mut roots = certificates(&grant.ca)
        .map_err(|what| Error::Unfit { reason: format!("spec.ca {what}") })?;
    let followed = followed.filter(|followed| followed.pinned == pinned(grant));
    for more in followed.and_then(|it| certificates(&it.bundle).ok()).unwrap_or_default() {
        if !roots.contains(&more) {
            roots.push(more);
        }
    }
    Ok(roots)
}

/// What of the `bundle` that a hub publishes is worth remembering: `None` if it says no more than
/// the grant does, or nothing.
pub(super) fn news(grant: &HubGrantSpec, bundle: &str) -> Option<FollowedCa> {
    let bundle = bundle.trim();
    let said = certificates(bundle).ok().filter(|_| bundle.len() <= LARGEST)?;
    let known = certificates(&grant.ca).unwrap_or_default();
    let more = said.iter().any(|certificate| !known.contains(certificate));
    more.then(|| FollowedCa { pinned: pinned(grant), bundle: bundle.to_owned() })
}

/// What the owner reads when the hub's certificate is not believed; `None` if that was not why.
pub(super) fn distrust(error: &Error, grant: &HubGrantSpec) -> Option<Standing> {
    let Error::Call { source, .. } = error else { return None };
    let rustls::Error::InvalidCertificate(why) = tls(source.as_ref())? else { return None };
    let address = &grant.address;
    let said = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
            "the certificate of {address} has expired, or this cluster's clock is ahead: compare the \
             clocks, then ask the hub's operator to renew it"
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
            "the certificate of {address} is not valid yet: this cluster's clock is behind, or the \
             hub's was ahead; compare the clocks"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the certificate of {address} is for another name: the hub's operator gives its \
                 API server a certificate for that address, or invites again with --address"
            )
        }
        _ => format!(
            "the certificate of {address} is of no CA that this grant pins in spec.ca or that the hub \
             had announced: somebody else may answer there. If the hub's operator confirms a new CA, \
             put its certificate into spec.ca; nothing is lost meanwhile, guests go on"
        ),
    };
    Some(Standing::new("UntrustedHub", said))
}

/// The TLS error below `error`. An `io::Error` hides what it wraps from `source`.
fn tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause: Option<&'a (dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn grant(ca: &str) -> HubGrantSpec {
        HubGrantSpec { address: "https://hub:1".into(), ca: ca.into(), ..HubGrantSpec::default() }
    }

    #[test]
    fn trusted_is_what_is_pinned_and_what_was_followed_under_that_pin() {
        let (old, new) = (authority("old"), authority("new"));
        let spec = grant(&old);
        assert_eq!(roots(&spec, None).unwrap().len(), 1);
        let followed = news(&spec, &format!("{old}{new}")).unwrap();
        assert_eq!(roots(&spec, Some(&followed)).unwrap().len(), 2);
        let other = grant(&authority("other"));
        assert_eq!(roots(&other, Some(&followed)).unwrap().len(), 1, "the owner pinned anew");
        let moved = HubGrantSpec { address: "https://elsewhere:1".into(), ..grant(&old) };
        assert_eq!(roots(&moved, Some(&followed)).unwrap().len(), 1, "of another address");
    }

    #[test]
    fn a_bundle_without_news_is_not_followed() {
        let old = authority("old");
        let spec = grant(&old);
        for bundle in ["", "nonsense", old.as_str(), &"x".repeat(LARGEST + 1)] {
            assert_eq!(news(&spec, bundle), None, "{bundle:.20}");
        }
        assert!(news(&spec, &authority("new")).is_some());
    }

    #[test]
    fn a_grant_whose_ca_cannot_be_used_says_why() {
        for (ca, want) in [("", "holds no certificate"), ("-----BEGIN CERTIFICATE-----\n!", "PEM")]
        {
            let error = roots(&grant(ca), None).unwrap_err().to_string();
            assert!(error.starts_with("spec.ca") && error.contains(want), "{error}");
        }
    }

    #[test]
    fn each_certificate_that_is_not_believed_has_its_remedy() {
        for (why, want) in [
            (CertificateError::UnknownIssuer, "put its certificate into spec.ca"),
            (CertificateError::BadSignature, "put its certificate into spec.ca"),
            (CertificateError::Expired, "clock is ahead"),
            (CertificateError::NotValidYet, "clock is behind"),
            (CertificateError::NotValidForName, "--address"),
        ] {
            let inner = rustls::Error::InvalidCertificate(why);
            let wrapped = io::Error::new(io::ErrorKind::InvalidData, inner);
            let error = Error::call("x", kube::Error::Service(Box::new(wrapped)));
            let standing = distrust(&error, &grant("")).unwrap();
            assert_eq!(standing.reason, "UntrustedHub");
            assert!(standing.message.contains(want), "{}", standing.message);
        }
        let plain = Error::call("x", kube::Error::Service(Box::new(io::Error::other("reset"))));
        assert!(distrust(&plain, &grant("")).is_none());
    }
}
