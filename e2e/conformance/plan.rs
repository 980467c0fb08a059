//! Which requests a sequence consists of, decided by its seed and by what was answered so far: here
//! those that create and read, and in `changes` those that change and delete.

mod changes;

use serde_json::{Value, json};

use super::chance::Chance;
use super::samples::{self, Sample};
use super::twins::{Asked, Pair, Twins};

const NAMES: &[&str] = &["a", "b", "c"];
const FINALIZERS: &[&str] = &["idlewild.dev/one", "idlewild.dev/two"];
const TEAMS: &[&str] = &["red", "blue", "green"];

/// Makes up one sequence.
pub(super) struct Planner {
    chance: Chance,
    seed: u64,
    /// The kinds that this sequence is about: few, so that requests meet each other.
    kinds: Vec<Sample>,
    watches: Vec<Asked>,
}

/// The same for both servers.
fn both<T: Clone>(value: T) -> Pair<T> {
    [value.clone(), value]
}

impl Planner {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let mut all = samples::all();
        // Each kind has its turn, and pods, of which there is most to say, have it often.
        let turn = usize::try_from(seed).unwrap() % all.len();
        let mut kinds = vec![all.swap_remove(turn)];
        let pods = all.iter().position(|sample| sample.plural == "pods");
        kinds.extend(pods.filter(|_| seed.is_multiple_of(3)).map(|pods| all.swap_remove(pods)));
        while kinds.len() < 3 {
            kinds.push(all.swap_remove(chance.below(all.len())));
        }
        Self { chance, seed, kinds, watches: Vec::new() }
    }

    /// Watches over what the sequence did, to be opened after it.
    pub(super) fn watches(&self) -> &[Asked] {
        &self.watches
    }

    /// The next request.
    pub(super) fn next(&mut self, twins: &Twins) -> Asked {
        if let Some((mut asked, tokens)) = twins.more.clone().filter(|_| self.chance.percent(50)) {
            for (uri, token) in asked.uri.iter_mut().zip(tokens) {
                let end = uri.find("&continue=").unwrap_or(uri.len());
                *uri = format!("{}&continue={}", &uri[..end], coded(&token));
            }
            return asked;
        }
        let sample = self.chance.below(self.kinds.len());
        if self.chance.percent(8) {
            let watch = self.watch(twins, sample);
            self.watches.push(watch);
        }
        let plural = self.kinds[sample].plural;
        if !twins.objects.keys().any(|key| key.0 == plural) && self.chance.percent(60) {
            return self.create(twins, sample);
        }
        // Of graces there is only something to see where bound pods are deleted, several times.
        if plural == "pods" && self.chance.percent(30) {
            return self.end_bound_pod(twins, sample);
        }
        match self.chance.below(100) {
            0..24 => self.create(twins, sample),
            24..32 => self.get(twins, sample),
            32..42 => self.list(twins, sample),
            42..62 => self.patch(twins, sample),
            62..74 => self.patch_status(twins, sample),
            74..84 => self.put(twins, sample),
            84..97 => self.delete(twins, sample),
            _ => self.delete_collection(twins, sample),
        }
    }

    fn name(&mut self, sample: usize) -> String {
        let name = *self.chance.of(NAMES);
        if self.kinds[sample].plural == "joinrequests" && self.chance.percent(70) {
            return "join".into();
        }
        match self.kinds[sample].namespaced {
            true => name.to_owned(),
            false => format!("{name}-{}", self.seed),
        }
    }

    /// Name of an object, most of the time of one that is there.
    fn known(&mut self, twins: &Twins, sample: usize) -> String {
        let plural = self.kinds[sample].plural;
        let held: Vec<&String> =
            twins.objects.keys().filter(|key| key.0 == plural).map(|key| &key.1).collect();
        if held.is_empty() || self.chance.percent(5) {
            return self.name(sample);
        }
        (*self.chance.of(&held)).clone()
    }

    fn collection(&self, twins: &Twins, sample: usize) -> String {
        let sample = &self.kinds[sample];
        let root = match sample.group {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}"),
        };
        match sample.namespaced {
            true => format!("{root}/namespaces/{}/{}", twins.namespace, sample.plural),
            false => format!("{root}/{}", sample.plural),
        }
    }

    fn asked(&self, sample: usize, method: &'static str, name: &str, uri: String) -> Asked {
        let key = (self.kinds[sample].plural.to_owned(), name.to_owned());
        Asked { method, uri: both(uri), body: both(Value::Null), content: "", key }
    }

    fn single(&self, twins: &Twins, sample: usize, method: &'static str, name: &str) -> Asked {
        let uri = format!("{}/{name}", self.collection(twins, sample));
        self.asked(sample, method, name, uri)
    }

    /// A whole object of a name.
    fn object(&mut self, sample: usize, name: &str) -> Value {
        let team = *self.chance.of(TEAMS);
        let finalizers: &[&str] =
            if self.chance.percent(20) { &FINALIZERS[..=self.chance.below(2)] } else { &[] };
        let sample = &self.kinds[sample];
        let mut object = sample.body.clone();
        let group = if sample.group.is_empty() { "v1" } else { sample.group };
        object["apiVersion"] = json!(group);
        object["kind"] = json!(sample.kind);
        object["metadata"] = json!({"name": name, "finalizers": finalizers,
            "labels": {"team": team, "sequence": format!("s{}", self.seed)}});
        object
    }

    /// A change of one kind, fine or not.
    fn change(&mut self, sample: usize, mistakes: usize) -> Value {
        let wrong = self.chance.percent(mistakes);
        let sample = &self.kinds[sample];
        let changes = if wrong { &sample.mistakes } else { &sample.changes };
        self.chance.of(changes).clone()
    }

    fn create(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name = self.name(sample);
        let mut asked = self.asked(sample, "POST", &name, self.collection(twins, sample));
        let mut object = self.object(sample, &name);
        if self.chance.percent(40) {
            let change = self.change(sample, 40);
            merge(&mut object, &change);
        }
        match self.chance.below(50) {
            0 => object["metadata"]["namespace"] = json!("elsewhere"),
            1 => object["metadata"]["name"] = json!("Not_A_Name"),
            2 => object["metadata"]["resourceVersion"] = json!("1"),
            // Of another kind of ours: what a real server says depends on rules it then lacks.
            3 if !self.kinds[sample].group.starts_with("idlewild") => {
                object["kind"] = json!("Other");
            }
            4 => object["metadata"]["uid"] = json!("mine"),
            5 => object["metadata"]["labels"]["bad"] = json!("not a label!"),
            6 => object["metadata"]["generation"] = json!(7),
            7 => drop(object["metadata"].as_object_mut().unwrap().remove("name")),
            8 => object["metadata"]["finalizers"] = json!(["short"]),
            9 => object["status"] = json!({"phase": "Running"}),
            10 if self.kinds[sample].namespaced => {
                asked.uri = asked.uri.map(|uri| uri.replace(&twins.namespace, "missing"));
            }
            11 => asked.uri = asked.uri.map(|uri| uri + "?dryRun=All"),
            _ => {}
        }
        asked.body = both(object);
        asked
    }

    fn get(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name =
            if self.chance.percent(30) { self.name(sample) } else { self.known(twins, sample) };
        self.single(twins, sample, "GET", &name)
    }

    /// The selectors of a request for many objects.
    fn selectors(&mut self, sample: usize) -> String {
        let sequence = format!("sequence=s{}", self.seed);
        let labels = match self.chance.below(8) {
            0 => "team=red".to_owned(),
            1 => "team in (red,blue)".to_owned(),
            2 => "team!=red".to_owned(),
            3 => "team notin (red,green)".to_owned(),
            4 => "!none".to_owned(),
            5 => "team".to_owned(),
            _ => String::new(),
        };
        let labels = if labels.is_empty() { sequence } else { format!("{labels},{sequence}") };
        let fields = match (self.chance.below(12), self.kinds[sample].plural) {
            (0, _) => "metadata.name=a",
            (1, _) => "metadata.name!=a",
            (2, _) => "spec.unknown=a",
            (3..6, "pods") => "status.phase!=Pending,status.phase!=Running",
            (6..8, "pods") => "status.phase=Running",
            (8, "pods") => "spec.nodeName=",
            _ => "",
        };
        let fields = if fields.is_empty() {
            String::new()
        } else {
            format!("&fieldSelector={}", coded(fields))
        };
        format!("labelSelector={}{fields}", coded(&labels))
    }

    fn list(&mut self, twins: &Twins, sample: usize) -> Asked {
        let mut uri = self.collection(twins, sample);
        if self.chance.percent(20) {
            uri = uri.replace(&format!("/namespaces/{}", twins.namespace), "");
        }
        uri = format!("{uri}?{}", self.selectors(sample));
        // That more follows is also said of what is not chosen: the names must be this sequence's.
        let alone = self.kinds[sample].namespaced
            && uri.contains(&twins.namespace)
            && !matches!(self.kinds[sample].plural, "configmaps" | "serviceaccounts");
        if alone && self.chance.percent(20) {
            return self.asked(sample, "GET", "", uri + "&limit=1");
        }
        let mut asked = self.asked(sample, "GET", "", uri);
        // Never of any version ("0"): what a real server's cache holds is a matter of luck.
        if self.chance.percent(20) && !twins.versions.is_empty() {
            let number = |pair: &&Pair<String>| pair[0].parse::<u64>().unwrap();
            let newest = twins.versions.iter().max_by_key(number);
            let (exactness, versions) = match newest {
                // Not older than an old one, that is luck again.
                Some(newest) if self.chance.percent(50) => ("NotOlderThan", newest.clone()),
                _ => ("Exact", self.chance.of(&twins.versions).clone()),
            };
            for (uri, version) in asked.uri.iter_mut().zip(versions) {
                *uri = format!("{uri}&resourceVersion={version}&resourceVersionMatch={exactness}");
            }
        }
        asked
    }

    fn watch(&mut self, twins: &Twins, sample: usize) -> Asked {
        let from = match self.chance.below(12) {
            // Before the kind was defined; Kubernetes' own are there from the beginning.
            0 if self.kinds[sample].group.starts_with("idlewild") => both("1".to_owned()),
            0 | 1 => both(String::new()),
            2..5 if !twins.lists.is_empty() => self.chance.of(&twins.lists).clone(),
            _ if twins.versions.is_empty() => both(String::new()),
            _ => self.chance.of(&twins.versions).clone(),
        };
        let base = format!("{}?watch=1&{}", self.collection(twins, sample), self.selectors(sample));
        // A field that cannot be asked for is refused as with lists.
        let base = base.replace("&fieldSelector=spec.unknown%3Da", "");
        let mut asked = self.asked(sample, "GET", "", base);
        if self.chance.percent(10) {
            let whole = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                         &allowWatchBookmarks=true";
            asked.uri = asked.uri.map(|uri| uri + whole);
            return asked;
        }
        for (uri, from) in asked.uri.iter_mut().zip(from) {
            *uri = format!("{uri}&resourceVersion={from}");
        }
        asked
    }
}

/// Text as it stands in an address.
fn coded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let coded = text.bytes().map(|byte| match byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    coded.collect()
}

/// Merges `patch` into `value` (RFC 7386).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, change) in changes {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(key)),
            change => merge(&mut value[key], change),
        }
    }
}
