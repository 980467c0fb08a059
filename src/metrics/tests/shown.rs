//! Alerts, dashboards and runbooks speak of the metrics that exist, and of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::metrics::catalogue;

/// What the process itself shows, and what any Prometheus adds to a series.
const FOREIGN: [&str; 1] = ["process_resident_memory_bytes"];
const ADDED: [&str; 3] = ["job", "instance", "le"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of both charts in `folder`.
fn shipped(folder: &str) -> Vec<PathBuf> {
    let charts = ["charts/idlewild-hub", "charts/idlewild-member"];
    let files = charts.iter().flat_map(|chart| {
        let entries = std::fs::read_dir(root().join(chart).join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    });
    files.collect()
}

fn rules() -> Vec<Value> {
    let groups = shipped("rules").into_iter().flat_map(|path| {
        let file: Value = serde_yaml::from_str(&read(path)).unwrap();
        file["groups"].as_array().unwrap().clone()
    });
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}"))
}

fn dashboards() -> Vec<(String, Value)> {
    let files = shipped("dashboards").into_iter();
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&read(path)).unwrap())
        })
        .collect()
}

/// Panels that show something.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// Every expression of rules and dashboards, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all: Vec<_> = rules()
        .iter()
        .map(|rule| (text(rule, "alert").to_owned(), text(rule, "expr").to_owned()))
        .collect();
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                let place = format!("{name}: {}", text(panel, "title"));
                all.push((place, text(target, "expr").to_owned()));
            }
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let query = variable["query"]["query"].as_str().map(str::to_owned);
            all.extend(query.map(|query| (format!("{name}: {}", variable["name"]), query)));
        }
    }
    all
}

/// The metrics in `expression`, each with the labels that it is selected by.
fn selected(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find("idlewild_").into_iter().chain(rest.find("process_")).min() {
        rest = &rest[start..];
        let name: String = rest.chars().take_while(|letter| is_name(*letter)).collect();
        rest = &rest[name.len()..];
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let matchers = inside.into_iter().flat_map(|inside| inside.split("\", ")).map(|matcher| {
            matcher.trim().chars().take_while(|letter| is_name(*letter)).collect::<String>()
        });
        found.push((name, matchers.collect()));
    }
    found
}

/// The metric of which `name` is a series.
fn family(name: &str) -> &str {
    let parts = ["_bucket", "_count", "_sum"];
    let known = |name: &str| catalogue().iter().any(|line| line.name == name);
    let whole = parts.iter().find_map(|part| name.strip_suffix(part).filter(|name| known(name)));
    whole.unwrap_or(name)
}

#[test]
fn what_is_shown_exists_and_what_exists_is_shown() {
    let catalogue = catalogue();
    let lines: BTreeMap<_, _> = catalogue.iter().map(|line| (line.name, line)).collect();
    let mut used = BTreeSet::new();
    for (place, expression) in expressions() {
        let selected = selected(&expression);
        assert!(!selected.is_empty(), "{place}: {expression}");
        for (name, labels) in selected {
            if FOREIGN.contains(&name.as_str()) {
                continue;
            }
            let line = lines.get(family(&name));
            let line = line.unwrap_or_else(|| panic!("{place}: there is no {name}"));
            let has = |label: &str| line.labels.contains(&label) || ADDED.contains(&label);
            assert!(labels.iter().all(|label| has(label)), "{place}: {name} by {labels:?}");
            used.insert(line.name);
        }
    }
    let unused: Vec<_> = lines.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "nobody sees {unused:?}");
}

#[test]
fn every_alert_says_what_to_do_and_has_a_runbook_and_a_test() {
    let runbooks = read("docs/runbooks.md");
    let tests = read("e2e/metrics/hub.test.yaml") + &read("e2e/metrics/member.test.yaml");
    let mut sections: BTreeMap<&str, &str> = BTreeMap::new();
    for section in runbooks.split("\n## ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap();
        sections.insert(title, body.split("\n# ").next().unwrap());
    }
    for rule in rules() {
        let alert = text(&rule, "alert").to_owned();
        for part in ["summary", "description"] {
            let said = text(&rule["annotations"], part);
            assert!(said.ends_with('.'), "{alert}: {part}: {said}");
        }
        let anchor = format!("/runbooks#{}", alert.to_lowercase());
        assert!(text(&rule["annotations"], "runbook_url").ends_with(&anchor), "{alert}");
        let severity = text(&rule["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{alert}: {severity}");
        let section = sections.remove(alert.as_str());
        let section = section.unwrap_or_else(|| panic!("{alert} has no section in docs/"));
        for part in ["**Meaning.**", "**Impact.**", "**Look at", "```console", "**Do.**"] {
            assert!(section.contains(part), "{alert}: no {part}");
        }
        let (fires, rests) = (format!("alertname: {alert}\n    exp_alerts:\n    - "), {
            format!("alertname: {alert}, exp_alerts: []")
        });
        assert!(tests.contains(&fires), "no test in which {alert} fires");
        assert!(tests.contains(&rests), "no test in which {alert} does not fire yet");
    }
    assert!(sections.is_empty(), "of no alert: {:?}", sections.keys());
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    for (name, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = text(panel, "title");
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "{name}: {title}");
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {title}");
            for y in at("y")..at("y") + at("h") {
                for x in at("x")..at("x") + at("w") {
                    assert!(cells.insert((x, y)), "{name}: {title} covers another panel");
                }
            }
        }
        let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
        let variables: Vec<_> = variables.map(|variable| text(variable, "name")).collect();
        for panel in panels(&dashboard) {
            let said = panel.to_string();
            for used in said.match_indices('$').map(|(at, _)| &said[at + 1..]) {
                let used = used.trim_start_matches('{');
                let known = |name: &&str| used.starts_with(*name) || used.starts_with("__");
                assert!(variables.iter().any(known), "{name}: ${used:.20}");
            }
        }
    }
}
