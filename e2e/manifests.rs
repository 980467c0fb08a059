//! Nonsense manifests, each with the answer it must get from a real hub or member.
//!
//! The data lies beside this file as YAML: in front of each manifest its name and what must happen.
//! Apply them with strict field validation (as `kubectl create` does), into any namespace.

/// A manifest that makes no sense, or cannot run anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    /// Its name in reports; not always that of the object.
    pub(crate) name: &'static str,
    /// The manifest, without a namespace.
    pub(crate) yaml: String,
    /// Where it is applied.
    pub(crate) on: Cluster,
    /// What must happen.
    pub(crate) outcome: Outcome,
}

/// A side of the federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// The hub.
    Hub,
    /// A member.
    Member,
}

/// What must happen to a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The API server refuses it; the message contains all these words.
    Refused(Vec<&'static str>),
    /// It is stored, and this condition turns false for this reason; its message contains the words.
    Waits {
        /// Type of the condition.
        condition: &'static str,
        /// Its reason.
        reason: &'static str,
        /// Words in its message.
        words: Vec<&'static str>,
    },
}

const FILES: &[&str] = &[
    include_str!("manifests/gpujobs.yaml"),
    include_str!("manifests/templates.yaml"),
    include_str!("manifests/others.yaml"),
    include_str!("manifests/waiting.yaml"),
];

/// Stands in a manifest for text of more than 64 KiB, which nobody wants to read in a file.
const LARGE_TEXT: &str = "LARGE_TEXT";

/// All of them.
pub(crate) fn table() -> Vec<Bad> {
    FILES.iter().flat_map(|file| file.split("---\n").skip(1)).map(read).collect()
}

fn read(document: &'static str) -> Bad {
    let mut lines = document.lines().map(|line| line.trim_start_matches("# "));
    let name = lines.next().expect("each manifest begins with its name");
    let (what, words) = lines
        .next()
        .and_then(|line| line.split_once(": "))
        .expect("the second line says what must happen");
    let words: Vec<&str> = words.split(" | ").collect();
    let on = if what.ends_with("member") { Cluster::Member } else { Cluster::Hub };
    let outcome = match (what, words.as_slice()) {
        ("waits", [condition, reason, words @ ..]) => {
            Outcome::Waits { condition, reason, words: words.to_vec() }
        }
        _ => Outcome::Refused(words),
    };
    Bad { name, yaml: document.replace(LARGE_TEXT, &"x".repeat(66_000)), on, outcome }
}

#[test]
fn the_table_reads_and_is_long_enough() {
    let table = table();
    assert!(table.len() >= 60, "{}", table.len());
    let mut names: Vec<_> = table.iter().map(|bad| bad.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), table.len(), "a name comes twice");
    for bad in &table {
        let value: serde_yaml::Value = serde_yaml::from_str(&bad.yaml).expect(bad.name);
        let on_member = matches!(value["kind"].as_str(), Some("GpuPool" | "HubGrant"));
        assert_eq!(bad.on == Cluster::Member, on_member, "{}", bad.name);
        assert_eq!(value["apiVersion"].as_str(), Some("idlewild.dev/v1alpha1"), "{}", bad.name);
        if let Outcome::Refused(words) = &bad.outcome {
            assert!(!words.is_empty(), "{}", bad.name);
        }
    }
}
