//! What may import what, enforced by reading the source.

use std::path::{Path, PathBuf};

/// Every source file, as a path below `src/`, with its text without comments and tests.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let text = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read_to_string(path).unwrap();
        let code = whole.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (name, lines.collect::<Vec<_>>().join("\n"))
    };
    let tests = |name: &str| {
        name.ends_with("tests.rs") || name.contains("/tests/") || name.starts_with("testing/")
    };
    paths.iter().map(text).filter(|(name, _)| !tests(name) && name != "layering.rs").collect()
}

/// Fails for each file below one of `folders` that holds one of `words`, `except` those files.
#[track_caller]
fn forbid(folders: &[&str], words: &[&str], except: &[&str], why: &str) {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        let inside = folders.iter().any(|folder| name.starts_with(folder));
        if inside && !except.contains(&name.as_str()) {
            let found = words.iter().filter(|word| text.contains(**word));
            broken.extend(found.map(|word| format!("{name} uses {word}")));
        }
    }
    assert!(broken.is_empty(), "{why}:\n{}", broken.join("\n"));
}

#[test]
fn the_engine_knows_only_std_and_itself() {
    let words = [
        "crate::api",
        "crate::cluster",
        "crate::hub",
        "crate::agent",
        "crate::gateway",
        "crate::sandbox",
        "kube::",
        "k8s_openapi",
        "serde",
        "tokio",
        "tracing",
        "jiff",
        "Instant",
        "SystemTime",
        "std::env",
        "HashMap",
        "HashSet",
        "async ",
        "std::thread",
        "std::fs",
        "std::net",
    ];
    forbid(&["engine/"], &words, &["engine/notation.rs"], "decisions are pure");
}

#[test]
fn the_api_holds_no_client() {
    let words = ["kube::Client", "Api<", "tokio", "crate::cluster", "crate::hub", "crate::agent"];
    forbid(&["api/"], &words, &[], "the shape of resources talks to nobody");
}

#[test]
fn only_convert_joins_api_and_engine() {
    let except = [
        "api/convert.rs",
        "api/convert/record.rs",
        "api/convert/survival.rs",
        "api/convert/taints.rs",
        "api/convert/explanation.rs",
    ];
    forbid(&["api/"], &["crate::engine"], &except, "convert is the only door");
}

#[test]
fn cluster_knows_nothing_of_gpus() {
    let words = ["crate::api", "crate::engine", "crate::hub", "crate::agent", "Gpu"];
    forbid(&["cluster/"], &words, &[], "cluster talks to any API server");
}

#[test]
fn hub_and_agent_meet_in_the_api_only() {
    forbid(&["hub/"], &["crate::agent", "crate::sandbox", "crate::commands"], &[], "hub");
    forbid(&["agent/"], &["crate::hub", "crate::sandbox", "crate::commands"], &[], "agent");
}

#[test]
fn the_gateway_sees_the_hub_through_its_snapshots_alone() {
    let words =
        ["crate::agent", "crate::engine", "crate::sandbox", "crate::commands", "super::super"];
    forbid(&["gateway/"], &words, &[], "gateway");
    // Whatever else of the hub is named, in a path of its own or within braces.
    let door = "use crate::hub::snapshot::View;";
    let other = |(name, text): &(String, String)| {
        let hub = text.replace(door, "").contains("hub::");
        (name.starts_with("gateway/") && hub).then(|| name.clone())
    };
    let others: Vec<_> = sources().iter().filter_map(other).collect();
    assert!(others.is_empty(), "{others:?} know more of the hub than its door");
    let users = |(name, text): &(String, String)| {
        let inside = name.starts_with("hub/") || name.starts_with("gateway/");
        (!inside && text.contains("hub::snapshot")).then(|| name.clone())
    };
    let users: Vec<_> = sources().iter().filter_map(users).collect();
    assert!(users.is_empty(), "the door is the gateway's alone: {users:?}");
    forbid(&["hub/", "agent/", "commands/"], &["crate::gateway"], &[], "nobody needs the gateway");
}

#[test]
fn link_and_executor_meet_in_objects_only() {
    forbid(&["agent/link"], &["agent::executor", "super::executor", "Api<Pod>"], &[], "link");
    forbid(
        &["agent/executor"],
        &["agent::link", "super::link", "crate::commands"],
        &[],
        "executor",
    );
}

#[test]
fn commands_and_sandbox_use_what_a_user_has() {
    forbid(&["commands/"], &["crate::hub", "crate::agent", "crate::sandbox"], &[], "commands");
    let words =
        ["crate::hub", "crate::agent", "crate::engine", "crate::commands", "crate::gateway"];
    forbid(&["sandbox/"], &words, &[], "the sandbox runs the binary, it does not link into it");
}

#[test]
fn only_the_command_line_reads_the_environment() {
    let folders =
        ["agent/", "api/", "cluster/", "commands/", "engine/", "gateway/", "hub/", "sandbox/"];
    let words = ["env::var", "env::args", "set_var"];
    forbid(&folders, &words, &[], "settings come as values");
}

#[test]
fn hub_and_agent_read_the_time_from_their_clock_alone() {
    let except =
        ["cluster/clock.rs", "hub/snapshot/view.rs", "agent/link/observe.rs", "agent/link/key.rs"];
    forbid(
        &["hub/", "agent/", "cluster/"],
        &["Timestamp::now()", "SystemTime"],
        &except,
        "time is given",
    );
    forbid(&["hub/", "cluster/"], &["Instant::now()"], &except, "time is given");
    forbid(&["hub/", "agent/", "cluster/"], &["rand::"], &except, "chance is given");
}

#[test]
fn only_the_roots_of_hub_agent_and_gateway_spawn_tasks() {
    let except = [
        "gateway/mod.rs",
        "hub/mod.rs",
        "agent/mod.rs",
        "agent/link/mod.rs",
        "agent/executor/mod.rs",
    ];
    let words = ["tokio::spawn", ".spawn(", "spawn_local"];
    forbid(&["hub/", "agent/", "gateway/"], &words, &except, "tasks have one parent");
}

#[test]
fn nothing_is_unsafe_or_unfinished() {
    let words = ["unsafe ", "todo!(", "unimplemented!(", "allow(dead_code", "allow(unused"];
    forbid(&[""], &words, &[], "no unfinished business");
}

#[test]
fn files_stay_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let long = |(name, _): &(String, String)| {
        let whole = std::fs::read_to_string(root.join(name)).unwrap();
        let code = whole.split("\n#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
        (code > 500).then(|| format!("{name}: {code}"))
    };
    let long: Vec<_> = sources().iter().filter_map(long).collect();
    assert!(long.is_empty(), "500 lines are a stop: {long:?}");
}

/// The rules bite: each forbidden import is found where it is planted.
#[test]
fn the_reader_sees_code_and_not_comments() {
    let all = sources();
    assert!(all.len() > 50, "{} files", all.len());
    let hub = all.iter().find(|(name, _)| name == "hub/mod.rs").unwrap();
    assert!(hub.1.contains("tokio::spawn") && !hub.1.contains("//!"));
}
