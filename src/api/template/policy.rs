//! The table as a `ValidatingAdmissionPolicy`, so that `kubectl apply` refuses what no member would
//! run.
//!
//! Invariant: no expression can fail, whatever a template holds; every step is guarded by type and
//! presence, else users would read CEL's own errors. Elements of lists travel as `{at, it}`, path
//! and value, so that messages name the element. Only functions of Kubernetes 1.30 are used.

use serde_json::{Value, json};

use super::cross;
use super::table::{
    DESCRIBING_PREFIX, Field, Form, List, MANAGED_BY, Object, RESERVED_DOMAINS, RESERVED_NAMES,
    RESERVED_PREFIXES, SANDBOX_ANNOTATIONS, Shape, TEMPLATE, VARIABLE_FIELDS, VOLUME_FIELDS,
};
use super::words;

/// Name of the policy and of its binding.
pub const POLICY_NAME: &str = "idlewild-gpujob-template";

const LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
const KEY: &str = "([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?";

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
    variables.extend(cross::RULES.iter().map(|rule| {
        json!({"name": rule.name, "expression": format!("string({})", rule.cel)})
    }));
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
            _ => found.push((
                format!("pod_{}", field.name),
                present(field, "variables.pod", &spec),
            )),
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

/// `value` as CEL text.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn texts(values: &[&str]) -> String {
    format!("[{}]", values.iter().map(|value| text(value)).collect::<Vec<_>>().join(", "))
}

/// The path of an element of the list at `path`.
fn element_path(path: &str, element: &str, named_by: Option<&str>) -> String {
    match named_by {
        None => format!("{path} + '[*]'"),
        Some(key) => format!(
            "{path} + '[' + (type({element}) == map && '{key}' in {element} && type({element}['{key}']) == string ? {element}['{key}'] : '*') + ']'"
        ),
    }
}

/// Findings about the fields of `object` themselves: unknown, missing, too many alternatives.
fn own(object: &Object, value: &str, path: &str) -> String {
    let names: Vec<_> = object.fields.iter().map(|field| field.name).collect();
    let known = texts(&names);
    let unknown = text(&words::unknown(object));
    let remedy = if object.refused.is_empty() {
        unknown
    } else {
        let remedies: Vec<_> = object
            .refused
            .iter()
            .map(|(name, remedy)| format!("{}: {}", text(name), text(remedy)))
            .collect();
        let map = format!("{{{}}}", remedies.join(", "));
        let names: Vec<_> = object.refused.iter().map(|(name, _)| *name).collect();
        format!("(k in {} ? 'is not allowed: ' + {map}[k] : {unknown})", texts(&names))
    };
    let mut parts = vec![format!(
        "{value}.filter(k, !(k in {known})).map(k, {path} + '.' + k + ': ' + {remedy}).join('. ')"
    )];
    let required: Vec<_> =
        object.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        parts.push(format!(
            "{}.filter(k, !(k in {value})).map(k, {path} + '.' + k + ': ' + {}).join('. ')",
            texts(&required),
            text(&words::missing(object))
        ));
    }
    if let Some((least, most, names)) = object.choice {
        let size = format!("{}.filter(k, k in {value}).size()", texts(names));
        parts.push(format!(
            "({size} >= {least} && {size} <= {most} ? '' : {path} + ': ' + {})",
            text(&words::choice(object, least, names))
        ));
    }
    joined(&parts)
}

fn joined(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        _ => format!("[{}].filter(s, s != '').join('. ')", parts.join(",\n")),
    }
}

/// Findings about `field` of the object `value`, if it is there.
fn present(field: &Field, value: &str, path: &str) -> String {
    let inner = format!("{value}['{}']", field.name);
    let path = match path.strip_suffix('\'') {
        Some(open) => format!("{open}.{}'", field.name),
        None => format!("{path} + '.{}'", field.name),
    };
    format!("('{}' in {value} ? {} : '')", field.name, findings(field.shape, &inner, &path))
}

/// CEL of type string: what is wrong with `value` at `path`.
fn findings(shape: Shape, value: &str, path: &str) -> String {
    let otherwise = format!("{path} + ': ' + {}", text(&words::demand(shape)));
    match shape {
        Shape::Object(object) => {
            let mut parts = vec![own(object, value, path)];
            parts.extend(object.fields.iter().map(|field| present(field, value, path)));
            format!("(type({value}) == map ? {} : {otherwise})", joined(&parts))
        }
        Shape::List(list) => {
            let short = format!("{path} + ': ' + {}", text(&words::too_short(list.least)));
            // The variable of each depth has its own name, else it would hide the outer one.
            let e = format!("e{}", value.matches(".it").count());
            let element = element_path(path, &e, list.named_by);
            let pair = format!("{value}.map({e}, {{'at': dyn({element}), 'it': dyn({e})}})");
            let inner = findings(list.of, &format!("{e}.it"), &format!("{e}.at"));
            let each = format!("{pair}.map({e}, {inner}).filter(s, s != '').join('. ')");
            let least = list.least;
            let sized = if least > 0 {
                format!("({value}.size() < {least} ? {short} : {each})")
            } else {
                each
            };
            format!("(type({value}) == list ? {sized} : {otherwise})")
        }
        Shape::Labels | Shape::Annotations => {
            format!("(type({value}) == map ? {} : {otherwise})", keys(shape, value, path))
        }
        Shape::Text(Form::Variable) => {
            let prefixes = RESERVED_PREFIXES.join("|");
            let names = RESERVED_NAMES.join("|");
            format!(
                "(type({value}) == string && {value}.matches('^(({prefixes}).*|{names})$') ? {path} + ': ' + {} : ({}) ? '' : {otherwise})",
                text(words::RESERVED_VARIABLE),
                leaf(shape, value)
            )
        }
        _ => format!("(({}) ? '' : {otherwise})", leaf(shape, value)),
    }
}

/// Findings about keys and values of labels or annotations.
fn keys(shape: Shape, value: &str, path: &str) -> String {
    let domains = RESERVED_DOMAINS.join("|").replace('.', "\\\\.");
    let mut reserved = format!(
        "(k == '{MANAGED_BY}' || (k.matches('^([^/]*\\\\.)?({domains})/') && !k.startsWith('{DESCRIBING_PREFIX}')))"
    );
    if matches!(shape, Shape::Annotations) {
        reserved = format!("!(k in {}) && {reserved}", texts(SANDBOX_ANNOTATIONS));
    }
    let key_form = KEY.replace('\\', "\\\\");
    let bad_value = match shape {
        Shape::Labels => format!(
            "!(type({value}[k]) == string && {value}[k].matches('{LABEL_VALUE}'))"
        ),
        _ => format!("type({value}[k]) != string"),
    };
    let value_words = match shape {
        Shape::Labels => words::LABEL_VALUE,
        _ => words::ANNOTATION_VALUE,
    };
    let said = |condition: &str, words: &str| {
        format!(
            "{value}.filter(k, {condition}).map(k, {path} + '[' + k + ']: ' + {}).join('. ')",
            text(words)
        )
    };
    joined(&[
        said(&reserved, words::RESERVED_KEY),
        // The domain of a key has a length that the expression cannot say.
        said(&format!("!({reserved}) && !(k.matches('^{key_form}$') && k.size() <= 317)"), words::KEY),
        said(&bad_value, value_words),
    ])
}

/// CEL of type bool: whether `value` is of the simple `shape`.
fn leaf(shape: Shape, value: &str) -> String {
    let whole = |least: i64, most: i64| {
        format!("type({value}) == int && {value} >= {least} && {value} <= {most}")
    };
    match shape {
        Shape::OneOf(words) => format!("{value} in {}", texts(words)),
        Shape::Flag => format!("type({value}) == bool"),
        Shape::Exactly(wanted) => format!("type({value}) == bool && {value} == {wanted}"),
        Shape::Whole(least, most) => whole(least, most),
        Shape::User => whole(1, 2_147_483_647),
        Shape::Port => format!(
            "type({value}) == string ? {value}.size() <= 15 && {value}.matches('{LABEL}') : {}",
            whole(1, 65_535)
        ),
        Shape::Quantity => format!(
            "(type({value}) == string || type({value}) == int || type({value}) == double) && isQuantity(string({value})) && quantity(string({value})).compareTo(quantity('0')) >= 0 && quantity(string({value})).compareTo(quantity('1P')) <= 0"
        ),
        Shape::Gpus => format!(
            "type({value}) == string ? {value}.matches('^0*([0-9]|1[0-6])$') : {}",
            whole(0, 16)
        ),
        Shape::Text(form) => format!("type({value}) == string{}", of_form(form, value)),
        Shape::Object(_) | Shape::List(_) | Shape::Labels | Shape::Annotations => "true".into(),
    }
}

/// The rest of a condition on text.
fn of_form(form: Form, value: &str) -> String {
    let field = |fields: &[&str]| {
        let key = KEY.replace('\\', "\\\\");
        format!(
            " && ({value} in {} || {value}.matches('^metadata\\\\.(labels|annotations)\\\\[\\'{key}\\'\\\\]$'))",
            texts(fields)
        )
    };
    match form {
        Form::Any => String::new(),
        Form::Filled => format!(" && {value} != ''"),
        Form::Label => format!(" && {value}.matches('{LABEL}')"),
        Form::Variable => format!(
            " && {value}.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$') && {value} != '.' && !{value}.startsWith('..')"
        ),
        Form::VariableField => field(VARIABLE_FIELDS),
        Form::VolumeField => field(VOLUME_FIELDS),
        Form::Image => format!(" && {value}.matches('^[!-~]+$')"),
        Form::MountPath => format!(" && {value} != '' && !{value}.contains(':')"),
        Form::RelativePath => {
            format!(" && {value}.matches('^[^/]') && !{value}.matches('(^|/)\\\\.\\\\.(/|$)')")
        }
    }
}
