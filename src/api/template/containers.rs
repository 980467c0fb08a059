//! The part of the table about containers.

use super::table::{
    ANY, FILLED, Form, GROUP, List, Object, SECCOMP, SECONDS, Shape, TEXTS, field, needed, object,
};

pub(super) static CONTAINERS: List =
    List { of: Shape::Object(&CONTAINER), least: 1, named_by: Some("name") };
pub(super) static INIT_CONTAINERS: List =
    List { of: Shape::Object(&INIT_CONTAINER), least: 0, named_by: Some("name") };

const CONTAINER_REFUSED: &[(&str, &str)] = &[
    ("envFrom", "list each variable under env instead"),
    ("volumeDevices", "guests get no block devices; remove it"),
    ("stdin", "nobody is attached to a guest; remove it"),
    ("stdinOnce", "nobody is attached to a guest; remove it"),
    ("tty", "nobody is attached to a guest; remove it"),
    ("terminationMessagePath", "the member sets it; remove it"),
    ("terminationMessagePolicy", "the member sets it; remove it"),
    ("resizePolicy", "guests keep the resources they started with; remove it"),
    ("restartPolicy", "only init containers may have it (Always makes a sidecar); remove it"),
    ("restartPolicyRules", "use podFailurePolicy of the job instead"),
];

/// Fields of every container; a macro because a constant cannot join two arrays of fields.
macro_rules! container_fields {
    ($resources:expr $(, $more:expr)*) => {
        &[
            needed("name", Shape::Text(Form::Label)),
            needed("image", Shape::Text(Form::Image)),
            // Accepted, since templates often carry it; guests always pull (Always), so that none
            // runs an image of the node that it could not pull itself.
            field("imagePullPolicy", Shape::OneOf(&["Always", "IfNotPresent", "Never"])),
            field("command", Shape::List(&TEXTS)),
            field("args", Shape::List(&TEXTS)),
            field("workingDir", ANY),
            field("env", Shape::List(&ENV)),
            field("resources", Shape::Object($resources)),
            field("ports", Shape::List(&PORTS)),
            field("livenessProbe", Shape::Object(&PROBE)),
            field("readinessProbe", Shape::Object(&PROBE)),
            field("startupProbe", Shape::Object(&PROBE)),
            field("lifecycle", Shape::Object(&LIFECYCLE)),
            field("volumeMounts", Shape::List(&MOUNTS)),
            field("securityContext", Shape::Object(&SECURITY)),
            $($more,)*
        ]
    };
}

static CONTAINER: Object =
    Object { refused: CONTAINER_REFUSED, ..object("a container", container_fields!(&RESOURCES)) };

static INIT_CONTAINER: Object = Object {
    refused: CONTAINER_REFUSED,
    ..object(
        "an init container",
        container_fields!(&INIT_RESOURCES, field("restartPolicy", Shape::OneOf(&["Always"]))),
    )
};

static ENV: List = List { of: Shape::Object(&VARIABLE), least: 0, named_by: Some("name") };

static VARIABLE: Object = Object {
    choice: Some((0, 1, &["value", "valueFrom"])),
    ..object(
        "a variable",
        &[
            needed("name", Shape::Text(Form::Variable)),
            field("value", ANY),
            field("valueFrom", Shape::Object(&VALUE_FROM)),
        ],
    )
};

static VALUE_FROM: Object = Object {
    refused: &[
        ("secretKeyRef", "Secrets are not supported yet; remove it"),
        ("configMapKeyRef", "ConfigMaps are not supported yet; write the value itself"),
        ("resourceFieldRef", "write the value itself"),
        ("fileKeyRef", "write the value itself"),
    ],
    ..object("valueFrom", &[needed("fieldRef", Shape::Object(&VARIABLE_FIELD))])
};

static VARIABLE_FIELD: Object = object(
    "a fieldRef",
    &[
        field("apiVersion", Shape::OneOf(&["v1"])),
        needed("fieldPath", Shape::Text(Form::VariableField)),
    ],
);

const CLAIMS_REFUSED: &[(&str, &str)] =
    &[("claims", "ask for GPUs with gpu.count and gpu.anyOf instead")];

static RESOURCES: Object = Object {
    refused: CLAIMS_REFUSED,
    ..object(
        "resources",
        &[field("limits", Shape::Object(&AMOUNTS)), field("requests", Shape::Object(&AMOUNTS))],
    )
};

static INIT_RESOURCES: Object = Object {
    refused: CLAIMS_REFUSED,
    ..object(
        "resources",
        &[
            field("limits", Shape::Object(&INIT_AMOUNTS)),
            field("requests", Shape::Object(&INIT_AMOUNTS)),
        ],
    )
};

const AMOUNTS_REFUSED: &[(&str, &str)] = &[
    ("amd.com/gpu", "name GPU models in gpu.anyOf, never resources"),
    ("nvidia.com/gpu.shared", "guests get whole GPUs; remove it"),
    ("storage", "use ephemeral-storage"),
];

static AMOUNTS: Object = Object {
    refused: AMOUNTS_REFUSED,
    ..object(
        "an amount of resources (GPU models go to gpu.anyOf)",
        &[
            field("cpu", Shape::Quantity),
            field("memory", Shape::Quantity),
            field("ephemeral-storage", Shape::Quantity),
            field("nvidia.com/gpu", Shape::Gpus),
        ],
    )
};

static INIT_AMOUNTS: Object = Object {
    refused: &[("nvidia.com/gpu", "only containers get GPUs, init containers do not; remove it")],
    ..object(
        "an amount of resources of an init container",
        &[
            field("cpu", Shape::Quantity),
            field("memory", Shape::Quantity),
            field("ephemeral-storage", Shape::Quantity),
        ],
    )
};

static PORTS: List = List { of: Shape::Object(&PORT), least: 0, named_by: Some("name") };

static PORT: Object = Object {
    refused: &[
        ("hostPort", "guests never take a port of a node; remove it"),
        ("hostIP", "guests never take a port of a node; remove it"),
    ],
    ..object(
        "a port",
        &[
            field("name", Shape::Text(Form::Label)),
            needed("containerPort", Shape::Whole(1, 65_535)),
            field("protocol", Shape::OneOf(&["TCP", "UDP", "SCTP"])),
        ],
    )
};

static PROBE: Object = Object {
    choice: Some((1, 1, &["exec", "httpGet", "tcpSocket", "grpc"])),
    refused: &[(
        "terminationGracePeriodSeconds",
        "a probe may not lengthen the notice; use the pod's, and remove it",
    )],
    ..object(
        "a probe",
        &[
            field("exec", Shape::Object(&EXEC)),
            field("httpGet", Shape::Object(&HTTP_GET)),
            field("tcpSocket", Shape::Object(&TCP_SOCKET)),
            field("grpc", Shape::Object(&GRPC)),
            field("initialDelaySeconds", SECONDS),
            field("timeoutSeconds", Shape::Whole(1, 86_400)),
            field("periodSeconds", Shape::Whole(1, 86_400)),
            field("successThreshold", Shape::Whole(1, 1_000)),
            field("failureThreshold", Shape::Whole(1, 1_000_000)),
        ],
    )
};

static EXEC: Object = object("exec", &[needed("command", Shape::List(&COMMAND))]);
static COMMAND: List = List { of: ANY, least: 1, named_by: None };

/// A kubelet that connects where a guest says would be the guest's hand outside its own network.
const HOST_REFUSED: &[(&str, &str)] =
    &[("host", "a probe reaches its own pod and nothing else; remove it")];

static HTTP_GET: Object = Object {
    refused: HOST_REFUSED,
    ..object(
        "httpGet",
        &[
            needed("port", Shape::Port),
            field("path", ANY),
            field("scheme", Shape::OneOf(&["HTTP", "HTTPS"])),
            field("httpHeaders", Shape::List(&HEADERS)),
        ],
    )
};

static HEADERS: List = List { of: Shape::Object(&HEADER), least: 0, named_by: Some("name") };
static HEADER: Object = object("a header", &[needed("name", FILLED), needed("value", ANY)]);
static TCP_SOCKET: Object =
    Object { refused: HOST_REFUSED, ..object("tcpSocket", &[needed("port", Shape::Port)]) };
static GRPC: Object =
    object("grpc", &[needed("port", Shape::Whole(1, 65_535)), field("service", ANY)]);

static LIFECYCLE: Object = Object {
    refused: &[("stopSignal", "guests are stopped with SIGTERM; remove it")],
    ..object(
        "a lifecycle",
        &[field("postStart", Shape::Object(&HANDLER)), field("preStop", Shape::Object(&HANDLER))],
    )
};

static HANDLER: Object = Object {
    choice: Some((1, 1, &["exec", "httpGet", "sleep"])),
    refused: &[("tcpSocket", "Kubernetes ignores it here; use exec or httpGet")],
    ..object(
        "a handler",
        &[
            field("exec", Shape::Object(&EXEC)),
            field("httpGet", Shape::Object(&HTTP_GET)),
            field("sleep", Shape::Object(&SLEEP)),
        ],
    )
};

static SLEEP: Object = object("sleep", &[needed("seconds", Shape::Whole(1, 86_400))]);

static MOUNTS: List = List { of: Shape::Object(&MOUNT), least: 0, named_by: Some("name") };

static MOUNT: Object = Object {
    refused: &[
        ("mountPropagation", "mounts of guests stay inside; remove it"),
        ("subPathExpr", "use subPath"),
        ("recursiveReadOnly", "use readOnly"),
    ],
    ..object(
        "a volume mount",
        &[
            needed("name", Shape::Text(Form::Label)),
            needed("mountPath", Shape::Text(Form::MountPath)),
            field("subPath", Shape::Text(Form::RelativePath)),
            field("readOnly", Shape::Flag),
        ],
    )
};

static SECURITY: Object = Object {
    refused: &[
        ("privileged", "guests are never privileged; remove it"),
        ("procMount", "guests see /proc as the runtime shows it; remove it"),
        ("seLinuxOptions", "the member sets it; remove it"),
        ("appArmorProfile", "the member sets it; remove it"),
        ("windowsOptions", "guests run on Linux; remove it"),
    ],
    ..object(
        "the securityContext of a container",
        &[
            field("runAsUser", Shape::User),
            field("runAsGroup", GROUP),
            field("runAsNonRoot", Shape::Exactly(true)),
            field("allowPrivilegeEscalation", Shape::Exactly(false)),
            field("readOnlyRootFilesystem", Shape::Flag),
            field("capabilities", Shape::Object(&CAPABILITIES)),
            field("seccompProfile", Shape::Object(&SECCOMP)),
        ],
    )
};

static CAPABILITIES: Object = Object {
    refused: &[("add", "guests get no capabilities; remove it")],
    ..object("capabilities", &[field("drop", Shape::List(&TEXTS))])
};
