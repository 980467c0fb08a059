//! What stands behind the question mark of a request.

/// The parameters of a request that matter; empty words are absent ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) watch: bool,
    pub(crate) labels: String,
    pub(crate) fields: String,
    pub(crate) version: String,
    pub(crate) version_match: String,
    pub(crate) limit: usize,
    pub(crate) next: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
    pub(crate) propagation: String,
    pub(crate) grace: Option<i64>,
    pub(crate) dry_run: bool,
}

impl Query {
    /// The parameters in `text`; `Err` names one that is not modelled.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.learn(key, decoded(value)).ok_or_else(|| pair.to_owned())?;
        }
        Ok(query)
    }

    fn learn(&mut self, key: &str, value: String) -> Option<()> {
        let yes = matches!(value.as_str(), "" | "1" | "true" | "True" | "TRUE");
        match key {
            "watch" => self.watch = yes,
            "labelSelector" => self.labels = value,
            "fieldSelector" => self.fields = value,
            "resourceVersion" => self.version = value,
            "resourceVersionMatch" => self.version_match = value,
            "continue" => self.next = value,
            "limit" => self.limit = value.parse().ok()?,
            "timeoutSeconds" => self.timeout_seconds = Some(value.parse().ok()?),
            "allowWatchBookmarks" => self.bookmarks = yes,
            "sendInitialEvents" => self.initial_events = Some(yes),
            "propagationPolicy" => self.propagation = value,
            "gracePeriodSeconds" => self.grace = Some(value.parse().ok()?),
            "dryRun" if value == "All" => self.dry_run = true,
            // Who wrote which field is not kept.
            "fieldManager" => {}
            "fieldValidation" if value != "Strict" => {}
            _ => return None,
        }
        Some(())
    }
}

/// Text without the escapes of addresses.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(), digit());
                let value = high.zip(low).map(|(high, low)| high * 16 + low);
                value.and_then(|value| u8::try_from(value).ok()).expect("two digits after %")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("addresses are UTF-8")
}
