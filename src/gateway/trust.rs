//! Whom the hub's API server says to trust as its proxy, and under which headers it names users.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use crate::cluster::{Error, within};

/// Where an API server publishes it.
const NAMESPACE: &str = "kube-system";
/// The `ConfigMap`.
const CONFIG_MAP: &str = "extension-apiserver-authentication";

/// Whom to believe, and what to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// CA certificates in PEM that sign the proxy's client certificate.
    pub(super) authority: String,
    /// Common names that the proxy may have; none = any that the CA signed.
    pub(super) names: Vec<String>,
    /// Headers that name the user, in lower case; the first that is there counts.
    pub(super) user: Vec<String>,
    /// Headers with the user's UID.
    pub(super) uid: Vec<String>,
    /// Headers with a group each.
    pub(super) groups: Vec<String>,
    /// Prefixes of headers with anything else.
    pub(super) extra: Vec<String>,
}

impl Trust {
    /// Reads what the API server publishes.
    ///
    /// # Errors
    /// If it cannot be read, or the API server runs without an aggregation layer.
    pub(super) async fn read(client: &Client) -> Result<Self, Error> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let map = within("read whom to trust", api.get(CONFIG_MAP)).await?;
        Self::of(&map)
    }

    fn of(map: &ConfigMap) -> Result<Self, Error> {
        let data = map.data.clone().unwrap_or_default();
        let unfit = |what: &str| Error::Unfit {
            reason: format!(
                "ConfigMap {NAMESPACE}/{CONFIG_MAP}: {what}; the API server needs the flags \
                 --requestheader-* and --proxy-client-cert-file"
            ),
        };
        let list = |key: &str| -> Result<Vec<String>, Error> {
            let text = data.get(key).map_or("[]", String::as_str);
            serde_json::from_str(text).map_err(|_| unfit(&format!("{key} is no list")))
        };
        let headers = |key: &str| {
            list(key).map(|names| names.iter().map(|name| name.to_ascii_lowercase()).collect())
        };
        let authority = data.get("requestheader-client-ca-file").cloned().unwrap_or_default();
        if authority.trim().is_empty() {
            return Err(unfit("there is no requestheader-client-ca-file"));
        }
        let trust = Self {
            authority,
            names: list("requestheader-allowed-names")?,
            user: headers("requestheader-username-headers")?,
            uid: headers("requestheader-uid-headers")?,
            groups: headers("requestheader-group-headers")?,
            extra: headers("requestheader-extra-headers-prefix")?,
        };
        if trust.user.is_empty() {
            return Err(unfit("there are no requestheader-username-headers"));
        }
        Ok(trust)
    }

    /// Whether the holder of a certificate with this common name may speak for users.
    pub(super) fn admits(&self, name: Option<&str>) -> bool {
        self.names.is_empty() || name.is_some_and(|name| self.names.iter().any(|it| it == name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(data: serde_json::Value) -> ConfigMap {
        serde_json::from_value(json!({ "data": data })).unwrap()
    }

    #[test]
    fn what_an_api_server_publishes_is_read() {
        let trust = Trust::of(&map(json!({
            "requestheader-client-ca-file": "PEM",
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        })))
        .unwrap();
        assert_eq!(
            (trust.user, trust.groups),
            (vec!["x-remote-user".into()], vec!["x-remote-group".into()])
        );
        assert_eq!((trust.uid, trust.extra), (vec![], vec!["x-remote-extra-".into()]));
    }

    #[test]
    fn without_an_authority_nobody_is_trusted() {
        for data in [
            json!({}),
            json!({"requestheader-client-ca-file": " "}),
            json!({"requestheader-client-ca-file": "PEM"}),
            json!({"requestheader-client-ca-file": "PEM", "requestheader-username-headers": "x"}),
        ] {
            let error = Trust::of(&map(data)).unwrap_err().to_string();
            assert!(error.contains("--requestheader-*"), "{error}");
        }
    }

    #[test]
    fn names_are_compared_whole() {
        let trust = |names: &[&str]| Trust {
            names: names.iter().map(ToString::to_string).collect(),
            ..Trust::default()
        };
        assert!(trust(&["a", "b"]).admits(Some("b")));
        assert!(!trust(&["a"]).admits(Some("ab")) && !trust(&["a"]).admits(None));
        assert!(trust(&[]).admits(None), "an empty list admits all that the CA signed");
    }
}
