//! Who may do what: asked of a real API server, one access review for each question.
//!
//! What a role lists is not what an identity may do: roles are aggregated, bound elsewhere, or
//! limited to names. So the server is asked, and the answer is text that people review.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

/// The verbs of the matrix.
pub(crate) const VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// Questions under way at once.
const AT_ONCE: usize = 32;

/// Who is asked about.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Heading in the golden file.
    pub(crate) title: String,
    /// As the API server knows it.
    pub(crate) user: String,
    /// Its groups.
    pub(crate) groups: Vec<String>,
}

impl Identity {
    /// A service account.
    pub(crate) fn account(what: &str, namespace: &str, name: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")]
            .into_iter()
            .chain(["system:authenticated"])
            .map(ToOwned::to_owned)
            .collect();
        Self { title: format!("{what} ({user})"), user, groups }
    }

    /// A person.
    pub(crate) fn person(what: &str, user: &str) -> Self {
        let groups = vec!["system:authenticated".to_owned()];
        Self { title: format!("{what} ({user})"), user: user.to_owned(), groups }
    }
}

/// Something that may be allowed: a resource, with a name where names matter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Thing {
    group: String,
    resource: String,
    subresource: Option<String>,
    name: Option<String>,
    is_namespaced: bool,
}

impl Thing {
    /// Reads `group/resource/subresource=name`; the core group is empty, and a leading `-` stands
    /// for a resource without namespaces.
    pub(crate) fn read(text: &str) -> Self {
        let (text, is_namespaced) = text.strip_prefix('-').map_or((text, true), |it| (it, false));
        let (path, name) = text.split_once('=').map_or((text, None), |(path, it)| (path, Some(it)));
        let mut parts = path.split('/');
        let mut next = || parts.next().map(ToOwned::to_owned);
        Self {
            group: next().unwrap_or_default(),
            resource: next().expect("a resource"),
            subresource: next(),
            name: name.map(ToOwned::to_owned),
            is_namespaced,
        }
    }

    fn words(&self) -> String {
        let mut words = self.resource.clone();
        if let Some(subresource) = &self.subresource {
            words = format!("{words}/{subresource}");
        }
        if !self.group.is_empty() {
            words = format!("{words}.{}", self.group);
        }
        if let Some(name) = &self.name {
            words = format!("{words}[{name}]");
        }
        words
    }

    /// The same without a name: what is allowed for every name is not repeated for one.
    fn unnamed(&self) -> Self {
        Self { name: None, ..self.clone() }
    }
}

/// A question: verb, thing and namespace (empty = everywhere).
type Question = (String, Thing, String);

/// What is asked about each identity.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// Resources, asked with every verb.
    pub(crate) things: Vec<Thing>,
    /// Verbs of their own, such as `bind`, with what they are for.
    pub(crate) special: Vec<(&'static str, Thing)>,
    /// Namespaces; everywhere at once is asked as well.
    pub(crate) namespaces: Vec<String>,
}

impl Matrix {
    fn questions(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        let usual = VERBS.iter().flat_map(|verb| self.things.iter().map(move |it| (*verb, it)));
        let special = self.special.iter().map(|(verb, thing)| (*verb, thing));
        for (verb, thing) in usual.chain(special) {
            questions.push((verb.to_owned(), thing.clone(), String::new()));
            for namespace in self.namespaces.iter().filter(|_| thing.is_namespaced) {
                questions.push((verb.to_owned(), thing.clone(), namespace.clone()));
            }
        }
        questions
    }

    /// Asks everything about every identity: the text of the golden file, and how many were asked.
    pub(crate) async fn ask(&self, admin: &Client, identities: &[Identity]) -> (String, usize) {
        let (mut text, mut asked) = (String::new(), 0);
        for identity in identities {
            let questions = self.questions();
            asked += questions.len();
            let allowed: BTreeSet<Question> = stream::iter(questions)
                .map(|question| is_allowed(admin, identity, question))
                .buffer_unordered(AT_ONCE)
                .filter_map(async |answer| answer)
                .collect()
                .await;
            text += &self.section(identity, &allowed);
        }
        (text, asked)
    }

    fn section(&self, identity: &Identity, allowed: &BTreeSet<Question>) -> String {
        let mut text = format!("\n{}\n", identity.title);
        let everywhere = [("everywhere", String::new())];
        let named = self.namespaces.iter().map(|name| (name.as_str(), name.clone()));
        for (title, namespace) in everywhere.into_iter().chain(named) {
            let lines = lines(&namespace, allowed);
            if !lines.is_empty() {
                let _ = writeln!(text, "  {title}\n{lines}");
            }
        }
        if allowed.is_empty() {
            text += "  nothing\n";
        }
        text.trim_end().to_owned() + "\n"
    }
}

/// What is allowed in `namespace` and not everywhere: resources with the same verbs in one line.
fn lines(namespace: &str, allowed: &BTreeSet<Question>) -> String {
    let is_new = |(verb, thing, at): &&Question| {
        let wider = |thing: &Thing, at: &str| {
            allowed.contains(&(verb.clone(), thing.clone(), at.to_owned()))
        };
        let elsewhere = !at.is_empty() && wider(thing, "");
        let for_all =
            thing.name.is_some() && (wider(&thing.unnamed(), at) || wider(&thing.unnamed(), ""));
        at == namespace && !elsewhere && !for_all
    };
    let mut verbs: BTreeMap<&Thing, Vec<&str>> = BTreeMap::new();
    for (verb, thing, _) in allowed.iter().filter(is_new) {
        verbs.entry(thing).or_default().push(verb);
    }
    let mut things: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (thing, mut held) in verbs {
        held.sort_by_key(|verb| VERBS.iter().position(|it| it == verb).unwrap_or(VERBS.len()));
        things.entry(held.join(" ")).or_default().push(thing.words());
    }
    let line =
        |(verbs, things): (&String, &Vec<String>)| format!("    {verbs}: {}", things.join(", "));
    things.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The question, if the API server says yes.
async fn is_allowed(admin: &Client, identity: &Identity, question: Question) -> Option<Question> {
    let (verb, thing, namespace) = &question;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(identity.user.clone()),
            groups: Some(identity.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.clone()),
                group: Some(thing.group.clone()),
                resource: Some(thing.resource.clone()),
                subresource: thing.subresource.clone(),
                name: thing.name.clone(),
                namespace: Some(namespace.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(admin.clone());
    let answer = api.create(&PostParams::default(), &review).await.expect("the server answers");
    answer.status.is_some_and(|status| status.allowed).then_some(question)
}
