//! Whether a user may ask about a job: the hub's API server says so, and is not asked again at once.
//!
//! The API server checks RBAC before it passes a request on; asked again here, a right that it checks
//! in another way (a WebSocket arrives as GET) or not at all is checked all the same.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::caller::Caller;
use crate::api::explanation::{GATEWAY_GROUP, GATEWAY_VERSION};
use crate::cluster::{Error, within};

/// An answer is good for so long: a right that was taken away ends within it.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// Answers kept at most: a caller with many names must not fill our memory.
const KEPT: usize = 1024;

/// Something that a user wants to do with a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wish {
    pub(super) caller: Caller,
    pub(super) verb: &'static str,
    pub(super) subresource: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What the API server answered lately.
#[derive(Debug, Default)]
struct Memory(BTreeMap<Wish, (Instant, bool)>);

impl Memory {
    fn recall(&self, wish: &Wish, now: Instant) -> Option<bool> {
        let known = self.0.get(wish).filter(|(at, _)| now < *at + GOOD_FOR);
        known.map(|(_, may)| *may)
    }

    fn keep(&mut self, wish: Wish, may: bool, now: Instant) {
        if self.0.len() >= KEPT {
            self.0.retain(|_, (at, _)| now < *at + GOOD_FOR);
        }
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(wish, (now, may));
    }
}

/// Asks the API server.
#[derive(Debug)]
pub(super) struct Access {
    reviews: Api<SubjectAccessReview>,
    memory: Mutex<Memory>,
}

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self { reviews: Api::all(client), memory: Mutex::default() }
    }

    /// Whether the wish may be granted.
    ///
    /// # Errors
    /// If the API server does not say.
    pub(super) async fn may(&self, wish: Wish) -> Result<bool, Error> {
        let now = Instant::now();
        let known = self.memory.lock().ok().and_then(|memory| memory.recall(&wish, now));
        if let Some(may) = known {
            return Ok(may);
        }
        let (params, review) = (PostParams::default(), review(&wish));
        let answer = within("review access", self.reviews.create(&params, &review)).await?;
        let may = answer.status.is_some_and(|status| status.allowed);
        if let Ok(mut memory) = self.memory.lock() {
            memory.keep(wish, may, now);
        }
        Ok(may)
    }
}

fn review(wish: &Wish) -> SubjectAccessReview {
    let caller = wish.caller.clone();
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(caller.user),
            uid: caller.uid,
            groups: Some(caller.groups),
            extra: Some(caller.extra),
            resource_attributes: Some(ResourceAttributes {
                group: Some(GATEWAY_GROUP.to_owned()),
                version: Some(GATEWAY_VERSION.to_owned()),
                resource: Some("gpujobs".to_owned()),
                subresource: Some(wish.subresource.to_owned()),
                verb: Some(wish.verb.to_owned()),
                namespace: Some(wish.namespace.clone()),
                name: Some(wish.name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(user: &str) -> Wish {
        Wish {
            caller: Caller { user: user.into(), ..Caller::default() },
            verb: "get",
            subresource: "explain",
            namespace: "team-a".into(),
            name: "train".into(),
        }
    }

    #[test]
    fn an_answer_is_good_for_ten_seconds_and_for_that_wish_alone() {
        let start = Instant::now();
        let mut memory = Memory::default();
        memory.keep(wish("alice"), true, start);
        memory.keep(wish("bob"), false, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(memory.recall(&wish("alice"), at(9)), Some(true));
        assert_eq!(memory.recall(&wish("bob"), at(9)), Some(false));
        assert_eq!(memory.recall(&wish("alice"), at(10)), None);
        let other = Wish { namespace: "team-b".into(), ..wish("alice") };
        assert_eq!(memory.recall(&other, start), None);
        let grouped = Caller { groups: vec!["x".into()], ..wish("alice").caller };
        assert_eq!(memory.recall(&Wish { caller: grouped, ..wish("alice") }, start), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        let now = Instant::now();
        for number in 0..3 * KEPT {
            memory.keep(wish(&number.to_string()), true, now);
        }
        assert!(memory.0.len() <= KEPT);
    }

    #[test]
    fn a_review_names_the_subresource_and_all_of_the_user() {
        let spec = review(&wish("alice")).spec;
        let asked = spec.resource_attributes.unwrap();
        let words = [asked.group, asked.resource, asked.subresource, asked.verb, asked.namespace];
        let words: Vec<_> = words.into_iter().flatten().collect();
        assert_eq!(words, ["gateway.idlewild.dev", "gpujobs", "explain", "get", "team-a"]);
        assert_eq!(spec.user.as_deref(), Some("alice"));
    }
}
