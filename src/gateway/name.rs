//! The common name of a certificate whose signature was verified already.

use yasna::models::ObjectIdentifier;
use yasna::tags::TAG_UTF8STRING;
use yasna::{ASN1Result, BERReader, BERReaderSeq, Tag};

/// `id-at-commonName`.
const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];

/// The subject's last common name, which is the one that counts; `None` if it has none.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|certificate| {
            let name = certificate.next().read_sequence(subject)?;
            certificate.next().read_der()?; // how it is signed
            certificate.next().read_der()?; // the signature
            Ok(name)
        })
    })
    .ok()
    .flatten()
}

/// The common name in what is signed (RFC 5280, 4.1).
fn subject(signed: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Option<String>> {
    signed.read_optional(skipped)?; // its version, with a tag of its own
    for _serial_algorithm_issuer_validity in 0..4 {
        signed.next().read_der()?;
    }
    let mut found = None;
    signed.next().read_sequence_of(|relative| {
        relative.read_set_of(|attribute| {
            attribute.read_sequence(|attribute| {
                let kind = attribute.next().read_oid()?;
                let value = attribute.next().read_tagged_der()?;
                if kind == ObjectIdentifier::from_slice(&COMMON_NAME) {
                    found = text(value.tag(), value.value());
                }
                Ok(())
            })
        })
    })?;
    while signed.read_optional(skipped)?.is_some() {}
    Ok(found)
}

fn skipped(part: BERReader<'_, '_>) -> ASN1Result<Vec<u8>> {
    part.read_der()
}

/// UTF-8 and printable strings; other kinds are not made any more, and are no name here.
fn text(tag: Tag, value: &[u8]) -> Option<String> {
    let known = [TAG_UTF8STRING, yasna::tags::TAG_PRINTABLESTRING].contains(&tag);
    known.then(|| std::str::from_utf8(value).ok().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(name: DistinguishedName) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name = name;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_found_among_others() {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "system:masters");
        name.push(DnType::CommonName, "front-proxy-client");
        assert_eq!(common_name(&certificate(name)).as_deref(), Some("front-proxy-client"));
        let mut name = DistinguishedName::new();
        let printable = DnValue::PrintableString("aggregator".try_into().unwrap());
        name.push(DnType::CommonName, printable);
        assert_eq!(common_name(&certificate(name)).as_deref(), Some("aggregator"));
    }

    #[test]
    fn a_certificate_without_one_has_none() {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "front-proxy-client");
        assert_eq!(common_name(&certificate(name)), None);
        assert_eq!(common_name(&certificate(DistinguishedName::new())), None);
        let whole = certificate(DistinguishedName::new());
        for cut in 0..whole.len() {
            assert_eq!(common_name(&whole[..cut]), None);
        }
    }
}
