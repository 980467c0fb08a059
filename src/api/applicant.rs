//! Who asks to join: what both sides compare, and the proof that the asker holds the key it names.
//!
//! Invariant: the fingerprint covers everything that the proof does, so that two people who see the
//! same fingerprint speak of the same cluster, key, hub and member.

use k8s_openapi::ByteString;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;

use super::digest::hex;

/// How the one kind of key is written: `ed25519:<base64>`.
const KIND: &str = "ed25519:";

/// A cluster that asks to join a hub under a name.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Hash of its identity; see [`super::digest::cluster_identity`].
    pub cluster_identity: &'a str,
    /// Its agent's public key as [`public_key`] writes it.
    pub public_key: &'a str,
    /// The hub.
    pub hub_id: &'a str,
    /// The member's name on that hub.
    pub member: &'a str,
}

impl Applicant<'_> {
    /// What the operator and the owner compare before a member is accepted: `1a2b-3c4d-5e6f-7a8b`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = hex(&self.text("idlewild-join"));
        [&hash[..4], &hash[4..8], &hash[8..12], &hash[12..16]].join("-")
    }

    /// What the agent signs with its private key.
    #[must_use]
    pub fn statement(&self) -> String {
        self.text("idlewild-join-proof")
    }

    /// Whether `proof` is the signature of [`Applicant::statement`] by the key that is named.
    #[must_use]
    pub fn is_proven(&self, proof: &str) -> bool {
        let Some(key) = self.public_key.strip_prefix(KIND).and_then(decoded) else { return false };
        let Some(signature) = decoded(proof) else { return false };
        let key = UnparsedPublicKey::new(&ED25519, key);
        key.verify(self.statement().as_bytes(), &signature).is_ok()
    }

    /// One line each, so that no two applicants share a text: no field holds a line break.
    fn text(&self, purpose: &str) -> String {
        let Self { cluster_identity, public_key, hub_id, member } = self;
        let lines = [purpose, cluster_identity, public_key, hub_id, member];
        lines.map(|line| line.replace('\n', "\\n")).join("\n")
    }
}

/// A public key as a request to join names it.
#[must_use]
pub fn public_key(bytes: &[u8]) -> String {
    format!("{KIND}{}", encoded(bytes))
}

/// Bytes in base64.
#[must_use]
pub fn encoded(bytes: &[u8]) -> String {
    // `ByteString` is how Kubernetes writes bytes into JSON.
    match serde_json::to_value(ByteString(bytes.to_vec())) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    serde_json::from_value::<ByteString>(Value::from(text)).ok().map(|ByteString(bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn pair() -> Ed25519KeyPair {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
    }

    #[test]
    fn a_fingerprint_is_four_groups_and_differs_by_cluster_key_hub_and_member() {
        let one = Applicant {
            cluster_identity: "sha256:a",
            public_key: "ed25519:k",
            hub_id: "hub",
            member: "north",
        };
        let print = one.fingerprint();
        assert_eq!(print.len(), 19);
        assert!(print.split('-').all(|group| group.len() == 4), "{print}");
        for other in [
            Applicant { cluster_identity: "sha256:b", ..one },
            Applicant { public_key: "ed25519:l", ..one },
            Applicant { hub_id: "bub", ..one },
            Applicant { member: "south", ..one },
            Applicant { hub_id: "hub\nnorth", member: "", ..one },
        ] {
            assert_ne!(print, other.fingerprint(), "{other:?}");
            assert_ne!(one.statement(), other.statement(), "{other:?}");
        }
    }

    #[test]
    fn only_the_holder_of_the_key_proves_and_only_what_was_signed() {
        let (ours, thiefs) = (pair(), pair());
        let key = public_key(ours.public_key().as_ref());
        let one = Applicant {
            cluster_identity: "sha256:a",
            public_key: &key,
            hub_id: "hub",
            member: "north",
        };
        let signed =
            |pair: &Ed25519KeyPair, text: &str| encoded(pair.sign(text.as_bytes()).as_ref());
        let proof = signed(&ours, &one.statement());
        assert!(one.is_proven(&proof));
        assert!(!one.is_proven(&signed(&thiefs, &one.statement())), "another key's signature");
        assert!(!one.is_proven(&signed(&ours, &one.fingerprint())), "of something else");
        assert!(!Applicant { hub_id: "other", ..one }.is_proven(&proof), "meant for another hub");
        assert!(!Applicant { member: "south", ..one }.is_proven(&proof), "meant for another name");
        for nonsense in ["", "not base64!", "AAAA"] {
            assert!(!one.is_proven(nonsense), "{nonsense}");
            assert!(!Applicant { public_key: nonsense, ..one }.is_proven(&proof), "{nonsense}");
        }
    }
}
