//! When certificates end: the one field that is read of them here.
//!
//! Whether a certificate is right is rustls' business. Reading one date of it needs no parser of all
//! of X.509, only of the nesting of DER (RFC 5280, section 4.1): what cannot be read has no date.

use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
/// The version, which certificates of the first version lack.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first of the certificates in `pem` ends.
pub(super) fn first(pem: &str) -> Option<Timestamp> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
    certificates.filter_map(|certificate| not_after(&certificate)).min()
}

fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (outer, _) = of_tag(certificate, SEQUENCE)?;
    let (mut rest, _) = of_tag(outer, SEQUENCE)?;
    if let Some((_, after)) = of_tag(rest, VERSION) {
        rest = after;
    }
    // Serial number, algorithm, issuer; then the validity.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (validity, _) = of_tag(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    date(tag, std::str::from_utf8(time).ok()?)
}

fn date(tag: u8, text: &str) -> Option<Timestamp> {
    let text = match (tag, text.get(..2)?.parse::<u8>().ok()?) {
        (UTC_TIME, 50..) => format!("19{text}"),
        (UTC_TIME, _) => format!("20{text}"),
        (GENERALIZED_TIME, _) => text.to_owned(),
        _ => return None,
    };
    let read = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(read.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The content of the first element if it has `tag`, and what follows it.
fn of_tag(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag and content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> String {
        let mut params = CertificateParams::new(vec!["hub.example.org".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 3, 5);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn the_end_of_a_bundle_is_that_of_its_first_certificate_to_end() {
        let bundle = format!("{}{}", certificate(2051), certificate(2031));
        assert_eq!(first(&bundle).unwrap().to_string(), "2031-03-05T00:00:00Z");
        assert_eq!(first(&certificate(2051)).unwrap().to_string(), "2051-03-05T00:00:00Z");
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        assert_eq!(first("hello"), None);
        let whole = CertificateDer::from_pem_slice(certificate(2031).as_bytes()).unwrap();
        for length in 0..whole.len() {
            // Cut off anywhere it must neither panic nor read past the end.
            let _read = not_after(&whole[..length]);
        }
        for place in 0..whole.len().min(200) {
            let mut broken = whole.to_vec();
            broken[place] ^= 0xff;
            let _read = not_after(&broken);
        }
    }
}
