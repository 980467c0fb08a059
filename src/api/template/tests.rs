use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn template(container: Value) -> Value {
    let mut whole = json!({"name": "train", "image": "registry.example.org/train:1"});
    for (key, value) in container.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({"spec": {"containers": [whole]}})
}

fn check(template: &Value, expected: &[&str]) {
    let found = violations(template, 1);
    for words in expected {
        assert!(found.iter().any(|one| one.contains(words)), "{words:?} is not in {found:#?}");
    }
    assert_eq!(found.is_empty(), expected.is_empty(), "{found:#?}");
}

#[test]
fn the_smallest_template_is_allowed() {
    check(&template(json!({})), &[]);
}

#[test]
fn the_policy_file_is_what_the_table_generates() {
    let documents = policy().map(|object| serde_yaml::to_string(&object).unwrap());
    let head = "# Generated from src/api/template/table.rs; do not edit. Refuses templates that hold\n# what a guest may not have, with a sentence for each field.\n";
    let content = format!("{head}{}---\n{}", documents[0], documents[1]);
    assert!(!content.contains("{{"), "helm would read it as its own");
    let file = "charts/idlewild-hub/templates/policy-gpujob-template.yaml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("IDLEWILD_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &content).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == content, "{file} is stale: run make generate");
}
