//! The agent's own key pair (Ed25519): made once, kept in a Secret, never shown.
//!
//! Invariant: the private half never leaves this cluster's Secret and this process, and nothing here
//! can print it. Whoever removes it from the Secret gets a new one, which each hub must accept again.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::Link;
use crate::api::KEY_SECRET;
use crate::api::applicant::{encoded, public_key};
use crate::cluster::{Error, Outcome, within};

/// Where the Secret holds the private key (PKCS #8).
const FIELD: &str = "ed25519";
/// Times that another writer of the Secret is waited for.
const ATTEMPTS: u32 = 3;

/// The key pair. It has no `Debug` on purpose.
pub(super) struct Key(Ed25519KeyPair);

impl Key {
    /// The public half, as requests name it.
    pub(super) fn public(&self) -> String {
        public_key(self.0.public_key().as_ref())
    }

    /// The signature of `text` in base64.
    pub(super) fn sign(&self, text: &str) -> String {
        encoded(self.0.sign(text.as_bytes()).as_ref())
    }

    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| Error::Unfit {
            reason: format!(
                "Secret {KEY_SECRET} holds no Ed25519 key in {FIELD}: remove that field, and the \
                 agent makes a new key"
            ),
        })?;
        Ok(Self(pair))
    }
}

/// The key of this cluster's agent; it is made if the Secret holds none.
///
/// # Errors
/// If the own cluster does not answer, or the Secret is missing or holds something else.
pub(super) async fn ours(link: &Link) -> Result<Key, Error> {
    let api: Api<Secret> = Api::namespaced(link.local.clone(), &link.grant.home);
    for _ in 0..ATTEMPTS {
        let secret = match within("get the agent's key", api.get(KEY_SECRET)).await {
            Ok(secret) => secret,
            Err(error) if error.outcome() == Outcome::Gone => return Err(missing(link)),
            Err(error) => return Err(error),
        };
        let held = secret.data.as_ref().and_then(|data| data.get(FIELD));
        if let Some(ByteString(bytes)) = held.filter(|ByteString(bytes)| !bytes.is_empty()) {
            return Key::read(bytes);
        }
        match make(&api, &secret).await {
            // Two agents that start at once end with the one key that was written first.
            Err(error) if error.outcome() == Outcome::Conflict => {}
            made => return made,
        }
    }
    Err(Error::Unfit { reason: format!("Secret {KEY_SECRET} is written by somebody else too") })
}

fn missing(link: &Link) -> Error {
    let home = &link.grant.home;
    Error::Unfit {
        reason: format!(
            "Secret {KEY_SECRET} is missing in namespace {home}: helm upgrade of the chart \
             idlewild-member makes it, empty, and the agent fills it"
        ),
    }
}

/// Makes a key and stores it onto the empty `secret` that was read.
async fn make(api: &Api<Secret>, secret: &Secret) -> Result<Key, Error> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| Error::Unfit { reason: "the system gives no random numbers".into() })?;
    let data = BTreeMap::from([(FIELD, ByteString(document.as_ref().to_vec()))]);
    let patch = Patch::Merge(json!({
        "metadata": { "uid": secret.uid(), "resourceVersion": secret.resource_version() },
        "data": data,
    }));
    let params = PatchParams::default();
    within("store the agent's key", api.patch(KEY_SECRET, &params, &patch)).await?;
    let key = Key::read(document.as_ref())?;
    tracing::info!(key = key.public(), "made the agent's key");
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::applicant::Applicant;

    #[test]
    fn a_stored_key_proves_what_its_public_half_says_and_nonsense_names_the_remedy() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Key::read(document.as_ref()).unwrap();
        assert_eq!(key.public(), Key::read(document.as_ref()).unwrap().public());
        let (public, hub_id, member) = (key.public(), "hub", "north");
        let one = Applicant { cluster_identity: "sha256:a", public_key: &public, hub_id, member };
        assert!(one.is_proven(&key.sign(&one.statement())));
        let error = Key::read(b"nonsense").err().unwrap().to_string();
        assert!(error.contains("remove that field"), "{error}");
    }
}
