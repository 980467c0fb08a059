//! The table as a `ValidatingAdmissionPolicy`, so that `kubectl apply` refuses what no member would
//! run.
//!
//! Invariant: no expression can fail, whatever a template holds; every step is guarded by type and
//! presence, else users would read CEL's own errors. Elements of lists travel as `{at, it}`, path
//! and value, so that messages name the element. Only functions of Kubernetes 1.30 are used.

use serde_json::{Value, json};

use super::cel::{element_path, own, present, text};
use super::cross;
use super::table::{Field, List, Object, Shape, TEMPLATE};
use super::words;

/// Name of the policy and of its binding.
pub const POLICY_NAME: &str = "idlewild-gpujob-template";

/// Policy and binding as objects of `admissionregistration.k8s.io/v1`.
#[must_use]
pub fn policy() -> [Value; 2] {
    let (variables, names) = variables();
    let all = names.iter().map(|name| format!("variables.{name}")).collect::<Vec<_>>().join(", ");
    let mut variables: Vec<Value> = variables
        .into_iter()
        .map(|(name, expression)| {
            // Parts of a template have no type for the compiler; sentences have.
            let found = names.contains(&name);
            let expression = if found { format!("string({expression})") } else { expression };
            json!({"name": name, "expression": expression})
        })
        .collect();
    variables.push(json!({
        "name": "shapes",
        "expression": format!("[{all}].filter(s, s != '').join('. ')"),
    }));
    let crossed = cross::RULES.iter().map(|rule| format!("variables.{}", rule.name));
    variables.extend(
        cross::RULES
            .iter()
            .map(|rule| json!({"name": rule.name, "expression": format!("string({})", rule.cel)})),
    );
    variables.push(json!({
        "name": "findings",
        "expression": format!(
            "variables.shapes != '' ? variables.shapes : [{}].filter(s, s != '').join('. ')",
            crossed.collect::<Vec<_>>().join(", ")
        ),
    }));
    let kind = |kind: &str| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": POLICY_NAME}});
    let mut policy = kind("ValidatingAdmissionPolicy");
    policy["spec"] = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{
            "apiGroups": ["idlewild.dev"],
            "apiVersions": ["v1alpha1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["gpujobs"],
        }]},
        "matchConditions": [{
            // A stricter policy of a later version must not lock jobs that exist.
            "name": "template-is-new",
            "expression": "request.operation == 'CREATE' || object.spec.template != oldObject.spec.template",
        }],
        "variables": variables,
        "validations": [{
            "expression": "variables.findings == ''",
            // A message may have 5 KiB and no line breaks.
            "messageExpression": "variables.findings.size() > 2000 ? variables.findings.substring(0, 2000) + ' …' : variables.findings",
            "message": "spec.template holds what a guest may not have; see kubectl explain gpujob.spec.template",
            "reason": "Invalid",
        }],
    });
    let mut binding = kind("ValidatingAdmissionPolicyBinding");
    binding["spec"] = json!({"policyName": POLICY_NAME, "validationActions": ["Deny"]});
    [policy, binding]
}

/// Variables of the policy in order, and the names of those that hold findings.
fn variables() -> (Vec<(String, String)>, Vec<String>) {
    let root = text("spec.template");
    let at = |name: &str| text(&format!("spec.template.spec.{name}"));
    let spec = text("spec.template.spec");
    let pod = member(&TEMPLATE, "spec");
    let mut made: Vec<(String, String)> = Vec::new();
    made.push(("template".into(), "object.spec.template".into()));
    made.push((
        "pod".into(),
        "'spec' in variables.template && type(variables.template['spec']) == map ? variables.template['spec'] : dyn({})".into(),
    ));
    for (variable, field) in [("containers", "containers"), ("inits", "initContainers")] {
        let path = element_path(&at(field), "c", Some("name"));
        made.push((
            variable.into(),
            format!(
                "('{field}' in variables.pod && type(variables.pod['{field}']) == list ? variables.pod['{field}'] : dyn([])).map(c, {{'at': dyn({path}), 'it': dyn(c)}})"
            ),
        ));
    }
    made.push(("every".into(), "variables.containers + variables.inits".into()));

    let mut found = vec![
        ("templateFields".into(), own(&TEMPLATE, "variables.template", &root)),
        ("metadata".into(), present(&TEMPLATE.fields[0], "variables.template", &root)),
        (
            "podFields".into(),
            format!(
                "!('spec' in variables.template) ? '' : type(variables.template['spec']) == map ? {} : {spec} + ': ' + {}",
                own(pod, "variables.template['spec']", &spec),
                text(&words::demand(Shape::Object(pod))),
            ),
        ),
    ];
    let mut lists = Vec::new();
    for field in pod.fields {
        match field.shape {
            Shape::List(List { of: Shape::Object(container), least, .. })
                if field.name.ends_with("ontainers") =>
            {
                found.push(list_of_containers(field, container, *least));
                lists.push((*container, field.name));
            }
            _ => {
                found.push((format!("pod_{}", field.name), present(field, "variables.pod", &spec)));
            }
        }
    }
    found.extend(fields_of_containers(&lists));
    let names = found.iter().map(|(name, _)| name.clone()).collect();
    made.extend(found);
    (made, names)
}

/// Findings about one list of containers, but for what the fields of its elements hold.
fn list_of_containers(field: &Field, container: &Object, least: usize) -> (String, String) {
    let name = field.name;
    let variable = container_variable(name);
    let path = text(&format!("spec.template.spec.{name}"));
    let size = if least > 0 {
        format!(
            "variables.pod['{name}'].size() < {least} ? {path} + ': ' + {} : ",
            text(&words::too_short(least))
        )
    } else {
        String::new()
    };
    let expression = format!(
        "!('{name}' in variables.pod) ? '' : type(variables.pod['{name}']) != list ? {path} + ': ' + {} : {size}{variable}.map(c, type(c.it) == map ? {} : c.at + ': ' + {}).filter(s, s != '').join('. ')",
        text(&words::demand(field.shape)),
        own(container, "c.it", "c.at"),
        text(&format!("must be {}: fields and values", container.what)),
    );
    (format!("{name}_list"), expression)
}

fn container_variable(list: &str) -> &'static str {
    if list == "containers" { "variables.containers" } else { "variables.inits" }
}

/// Findings in the fields of containers: a variable for each, since the cost of each expression is
/// limited by itself; one for all lists where they hold the same.
fn fields_of_containers(lists: &[(&'static Object, &str)]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |variable: &str, of: &str, field: &Field| {
        found.push((
            format!("{of}_{}", field.name),
            format!(
                "{variable}.filter(c, type(c.it) == map).map(c, {}).filter(s, s != '').join('. ')",
                present(field, "c.it", "c.at")
            ),
        ));
    };
    for (index, (container, list)) in lists.iter().enumerate() {
        for field in container.fields {
            let same = lists.iter().all(|(other, _)| {
                other.fields.iter().any(|twin| twin.name == field.name && alike(twin, field))
            });
            match (same, index) {
                (false, _) => add(container_variable(list), list, field),
                (true, 0) => add("variables.every", "every", field),
                (true, _) => {}
            }
        }
    }
    found
}

/// Whether two fields of one name hold the same.
fn alike(one: &Field, other: &Field) -> bool {
    match (one.shape, other.shape) {
        (Shape::Object(one), Shape::Object(other)) => std::ptr::eq(one, other),
        (Shape::List(one), Shape::List(other)) => std::ptr::eq(one, other),
        _ => true,
    }
}

fn member(object: &'static Object, name: &str) -> &'static Object {
    match object.fields.iter().find(|field| field.name == name).map(|field| field.shape) {
        Some(Shape::Object(inner)) => inner,
        _ => object,
    }
}
