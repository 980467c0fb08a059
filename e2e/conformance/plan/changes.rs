//! Requests that change and delete, with preconditions right and wrong.

use serde_json::{Value, json};

use super::{FINALIZERS, Planner, TEAMS, both, merge};
use crate::conformance::twins::{Asked, Pair, Twins};

const MERGE: &str = "application/merge-patch+json";

impl Planner {
    /// Names the version or UID that a change is made onto, right or wrong.
    fn precondition(&mut self, twins: &Twins, key: &(String, String), key_of: &str) -> Pair<Value> {
        let all = if key_of == "uid" { &twins.uids } else { &twins.versions };
        let held = twins.objects.get(key);
        match (self.chance.below(10), held) {
            (0, _) if key_of == "uid" => both(json!("nobody")),
            (0, _) => both(json!("1")),
            (1..4, _) if !all.is_empty() => self.chance.of(all).clone().map(|word| json!(word)),
            (_, Some(held)) => held.clone().map(|object| object["metadata"][key_of].clone()),
            _ => both(Value::Null),
        }
    }

    fn preconditions(&mut self, twins: &Twins, asked: &mut Asked, path: &str) {
        for key in ["uid", "resourceVersion"] {
            if !self.chance.percent(30) {
                continue;
            }
            let words = self.precondition(twins, &asked.key, key);
            for (body, word) in asked.body.iter_mut().zip(words).filter(|pair| !pair.1.is_null()) {
                body[path][key] = word;
            }
        }
    }

    pub(super) fn patch(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name = self.known(twins, sample);
        let mut asked = self.single(twins, sample, "PATCH", &name);
        asked.content = if self.chance.percent(2) { "text/plain" } else { MERGE };
        let body = match self.chance.below(20) {
            0..2 => json!({"metadata": {"labels": {"team": self.chance.of(TEAMS)}}}),
            2 => json!({"metadata": {"labels": {"team": null, "other": "x"}}}),
            3 => json!({"metadata": {"finalizers": null}}),
            4..6 => {
                let count = self.chance.below(3);
                json!({"metadata": {"finalizers": &FINALIZERS[..count]}})
            }
            6 => json!({}),
            7 => json!({"metadata": {"name": "other"}}),
            9 => json!({"metadata": {"generation": 99, "creationTimestamp": null}}),
            10 => json!({"metadata": {"annotations": {"note": self.chance.of(TEAMS)}}}),
            _ => self.change(sample, 35),
        };
        asked.body = both(body);
        self.preconditions(twins, &mut asked, "metadata");
        asked
    }

    pub(super) fn patch_status(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name = self.known(twins, sample);
        let statuses = &self.kinds[sample].statuses;
        if self.kinds[sample].plural == "serviceaccounts" {
            return self.token(twins, sample, &name);
        }
        if statuses.is_empty() {
            return self.get(twins, sample);
        }
        if self.kinds[sample].plural == "pods" && self.chance.percent(40) {
            return self.bind(twins, sample, &name);
        }
        let status = self.chance.of(statuses).clone();
        let mut asked = self.single(twins, sample, "PATCH", &name);
        asked.uri = asked.uri.map(|uri| uri + "/status");
        asked.content = MERGE;
        let mut body = json!({ "status": status });
        if self.chance.percent(15) {
            body["metadata"] = json!({"labels": {"team": "green"}, "annotations": {"x": "y"}});
            merge(&mut body, &self.change(sample, 0));
        }
        asked.body = both(body);
        self.preconditions(twins, &mut asked, "metadata");
        asked
    }

    fn bind(&mut self, twins: &Twins, sample: usize, name: &str) -> Asked {
        let mut asked = self.single(twins, sample, "POST", name);
        asked.uri = asked.uri.map(|uri| uri + "/binding");
        asked.key = ("bindings".into(), name.into());
        asked.body =
            both(json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node"}}));
        asked
    }

    /// Binds a pod that is not, and deletes one that is: with this grace or that.
    pub(super) fn end_bound_pod(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name = self.known(twins, sample);
        let held = twins.objects.get(&("pods".into(), name.clone()));
        let bound = held.is_some_and(|pair| pair[1]["spec"].get("nodeName").is_some());
        if !bound {
            let mut asked = self.bind(twins, sample, &name);
            // So that the pod is known to be bound.
            if self.chance.percent(50) {
                asked = self.single(twins, sample, "GET", &name);
            }
            return asked;
        }
        let mut asked = self.single(twins, sample, "DELETE", &name);
        let grace = *self.chance.of(&[60, 30, 20, 10, 5, 1, -1, 0]);
        asked.body = both(json!({ "gracePeriodSeconds": grace }));
        asked
    }

    fn token(&mut self, twins: &Twins, sample: usize, name: &str) -> Asked {
        let mut asked = self.single(twins, sample, "POST", name);
        asked.uri = asked.uri.map(|uri| uri + "/token");
        asked.key = ("tokens".into(), name.into());
        let seconds = *self.chance.of(&[600, 3600, 7200]);
        asked.body = both(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds}}));
        asked
    }

    pub(super) fn put(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name = self.known(twins, sample);
        let mut asked = self.single(twins, sample, "PUT", &name);
        asked.body = match twins.objects.get(&asked.key) {
            Some(held) => held.clone(),
            None => both(self.object(sample, &name)),
        };
        if self.chance.percent(40) {
            let change = self.change(sample, 35);
            asked.body.iter_mut().for_each(|body| merge(body, &change));
        }
        let stripped: &[&str] = match self.chance.below(6) {
            0 => &["resourceVersion"],
            1 => &["uid"],
            2 => &["uid", "resourceVersion", "creationTimestamp", "generation"],
            _ => &[],
        };
        for body in &mut asked.body {
            let metadata = body["metadata"].as_object_mut().unwrap();
            // Who creates by replacing can create what is being deleted already; nobody does.
            let never = ["managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"];
            metadata.retain(|key, _| {
                !stripped.contains(&key.as_str()) && !never.contains(&key.as_str())
            });
        }
        if self.chance.percent(25) {
            self.preconditions(twins, &mut asked, "metadata");
        }
        if self.chance.percent(4) {
            asked.body.iter_mut().for_each(|body| body["metadata"]["name"] = json!("other"));
        }
        if !self.kinds[sample].statuses.is_empty() && self.chance.percent(30) {
            asked.uri = asked.uri.map(|uri| uri + "/status");
            let status = self.chance.of(&self.kinds[sample].statuses).clone();
            asked.body.iter_mut().for_each(|body| body["status"] = status.clone());
        }
        asked
    }

    pub(super) fn delete(&mut self, twins: &Twins, sample: usize) -> Asked {
        let name = self.known(twins, sample);
        let mut asked = self.single(twins, sample, "DELETE", &name);
        if self.chance.percent(30) {
            return asked;
        }
        asked.body = both(json!({}));
        if self.chance.percent(40) {
            self.preconditions(twins, &mut asked, "preconditions");
        }
        if self.chance.percent(50) {
            let grace = *self.chance.of(&[0, 1, 5, 30, 60, -1]);
            asked.body.iter_mut().for_each(|body| body["gracePeriodSeconds"] = json!(grace));
        }
        if self.chance.percent(20) {
            asked.body.iter_mut().for_each(|body| body["propagationPolicy"] = json!("Background"));
        }
        asked
    }

    pub(super) fn delete_collection(&mut self, twins: &Twins, sample: usize) -> Asked {
        let uri = format!("{}?{}", self.collection(twins, sample), self.selectors(sample));
        self.asked(sample, "DELETE", "", uri)
    }
}
