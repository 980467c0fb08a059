//! On whose behalf the API server asks, from the headers that it alone may set.

use std::collections::BTreeMap;

use axum::http::HeaderMap;

use super::trust::Trust;

/// A user as the API server authenticated them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// The user that `headers` name; `None` if they name nobody.
    pub(super) fn of(headers: &HeaderMap, trust: &Trust) -> Option<Self> {
        let first = |names: &[String]| {
            let mut values = names.iter().filter_map(|name| headers.get(name)?.to_str().ok());
            values.find(|value| !value.is_empty()).map(str::to_owned)
        };
        let all = |name: &String| -> Vec<String> {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.map(str::to_owned).collect()
        };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in headers.keys().map(|name| name.as_str().to_owned()) {
            let key = trust.extra.iter().find_map(|prefix| name.strip_prefix(prefix.as_str()));
            if let Some(key) = key.map(unescaped) {
                extra.entry(key).or_default().extend(all(&name));
            }
        }
        Some(Self {
            user: first(&trust.user)?,
            uid: first(&trust.uid),
            groups: trust.groups.iter().flat_map(all).collect(),
            extra,
        })
    }
}

/// A key of extra data without its percent signs; as it is if they are not in order, as Kubernetes
/// does.
fn unescaped(key: &str) -> String {
    let mut bytes = key.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        plain.push(match byte {
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'%'),
                _ => return key.to_owned(),
            },
            other => other,
        });
    }
    String::from_utf8(plain).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> Trust {
        Trust {
            user: vec!["x-remote-user".into()],
            uid: vec!["x-remote-uid".into()],
            groups: vec!["x-remote-group".into()],
            extra: vec!["x-remote-extra-".into()],
            ..Trust::default()
        }
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_user_is_all_that_the_headers_say() {
        let caller = Caller::of(
            &headers(&[
                ("x-remote-user", "alice"),
                ("x-remote-uid", "7"),
                ("x-remote-group", "a"),
                ("x-remote-group", "system:authenticated"),
                ("x-remote-extra-scopes.example.org%2fone", "x"),
                ("x-remote-extra-50%", "y"),
                ("x-other", "z"),
            ]),
            &trust(),
        )
        .unwrap();
        assert_eq!((caller.user.as_str(), caller.uid.as_deref()), ("alice", Some("7")));
        assert_eq!(caller.groups, ["a", "system:authenticated"]);
        let keys: Vec<_> = caller.extra.keys().map(String::as_str).collect();
        assert_eq!(keys, ["50%", "scopes.example.org/one"]);
    }

    #[test]
    fn who_is_not_named_is_nobody() {
        assert_eq!(Caller::of(&headers(&[("x-remote-group", "system:masters")]), &trust()), None);
        assert_eq!(Caller::of(&headers(&[("x-remote-user", "")]), &trust()), None);
    }
}
