//! The one table of what a pod template may hold, as data.
//!
//! Invariant: whatever a guest could use against an owner is absent here, and what is absent is
//! refused by name. The checker, the admission policy and the tests all read this table.

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// An object with these fields and no others.
    Object(&'static Object),
    /// A list.
    List(&'static List),
    /// Text of some form.
    Text(Form),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// True or false.
    Flag,
    /// Exactly this truth value.
    Exactly(bool),
    /// A whole number within bounds.
    Whole(i64, i64),
    /// A user that is not root.
    User,
    /// A port's number or name.
    Port,
    /// A quantity of 0 or more.
    Quantity,
    /// A whole number of GPUs, as number or text.
    Gpus,
    /// Labels of the pod.
    Labels,
    /// Annotations of the pod.
    Annotations,
}

/// An object with named fields.
#[derive(Debug)]
pub(super) struct Object {
    /// What it is called in messages: "a container".
    pub what: &'static str,
    /// What it may hold.
    pub fields: &'static [Field],
    /// Of these at least and at most so many may be there: `(least, most, names)`.
    pub choice: Option<(usize, usize, &'static [&'static str])>,
    /// Fields that Kubernetes knows and we refuse, each with what to do instead.
    pub refused: &'static [(&'static str, &'static str)],
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
}

/// A list of like values.
#[derive(Debug)]
pub(super) struct List {
    pub of: Shape,
    /// Least number of elements.
    pub least: usize,
    /// The field of its elements that names one in messages, if there is one.
    pub named_by: Option<&'static str>,
}

/// Forms of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Anything.
    Any,
    /// Anything but nothing.
    Filled,
    /// A DNS label: the name of a container or a volume.
    Label,
    /// Name of an environment variable that is not reserved.
    Variable,
    /// Field of the pod that an environment variable can hold.
    VariableField,
    /// Field of the pod that a volume can hold.
    VolumeField,
    /// Reference of an image.
    Image,
    /// A path inside a container.
    MountPath,
    /// A path that stays below where it starts.
    RelativePath,
}

const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

const fn needed(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

const fn object(what: &'static str, fields: &'static [Field]) -> Object {
    Object { what, fields, choice: None, refused: &[] }
}

const ANY: Shape = Shape::Text(Form::Any);
const FILLED: Shape = Shape::Text(Form::Filled);
const SECONDS: Shape = Shape::Whole(0, 86_400);
const GROUP: Shape = Shape::Whole(0, 2_147_483_647);

static TEXTS: List = List { of: ANY, least: 0, named_by: None };

/// The whole template.
pub(super) static TEMPLATE: Object = object(
    "a template",
    &[field("metadata", Shape::Object(&METADATA)), needed("spec", Shape::Object(&POD))],
);

static METADATA: Object = Object {
    refused: &[
        ("name", "guests are named by their lease; remove it"),
        ("generateName", "guests are named by their lease; remove it"),
        ("namespace", "guests run in a namespace of the member; remove it"),
        ("finalizers", "a guest must be able to go at once; remove it"),
        ("ownerReferences", "guests belong to their lease; remove it"),
        ("creationTimestamp", "it is set by the server; remove it"),
    ],
    ..object(
        "the metadata of a template",
        &[field("labels", Shape::Labels), field("annotations", Shape::Annotations)],
    )
};

static POD: Object = Object {
    refused: &[
        ("hostNetwork", "guests never share a node's network; remove it"),
        ("hostPID", "guests never see a node's processes; remove it"),
        ("hostIPC", "guests never share a node's memory; remove it"),
        ("hostUsers", "the member decides about user namespaces; remove it"),
        ("hostAliases", "guests use the member's name service as it is; remove it"),
        ("hostname", "the member names guests; remove it"),
        ("subdomain", "the member names guests; remove it"),
        ("setHostnameAsFQDN", "the member names guests; remove it"),
        ("dnsPolicy", "the member decides about name service; remove it"),
        ("dnsConfig", "the member decides about name service; remove it"),
        ("nodeName", "the member picks nodes; use placement.clusterAffinity to choose members"),
        ("nodeSelector", "the member picks nodes; use gpu.anyOf or placement.clusterAffinity"),
        ("affinity", "the member picks nodes; use gpu.anyOf or placement.clusterAffinity"),
        ("topologySpreadConstraints", "the member picks nodes; remove it"),
        ("tolerations", "the member's pool sets them; use placement.clusterTolerations for members"),
        ("schedulerName", "guests use the member's scheduler; remove it"),
        ("schedulingGates", "guests start when their lease does; remove it"),
        ("serviceAccountName", "guests get no account in the member; remove it"),
        ("serviceAccount", "guests get no account in the member; remove it"),
        ("automountServiceAccountToken", "guests get no account in the member; remove it"),
        ("resourceClaims", "ask for GPUs with gpu.count and gpu.anyOf instead"),
        ("resources", "set the resources of each container instead"),
        ("runtimeClassName", "the member's pool sets it; remove it"),
        ("priorityClassName", "guests have the lowest priority; use spec.priorityClassName of the job"),
        ("priority", "guests have the lowest priority; use spec.priorityClassName of the job"),
        ("preemptionPolicy", "guests never preempt; remove it"),
        ("restartPolicy", "guests run with Never; use backoffLimit of the job, and remove it"),
        ("activeDeadlineSeconds", "use maxRunningSeconds of the job instead"),
        ("imagePullSecrets", "not supported yet; use images that need no credentials"),
        ("ephemeralContainers", "they cannot be part of a template; remove it"),
        ("shareProcessNamespace", "containers of guests keep apart; remove it"),
        ("readinessGates", "nothing in the member would set them; remove it"),
        ("enableServiceLinks", "guests see no services of the member; remove it"),
        ("overhead", "the member's RuntimeClass sets it; remove it"),
        ("os", "guests run on Linux; remove it"),
    ],
    ..object(
        "a pod",
        &[
            needed("containers", Shape::List(&CONTAINERS)),
            field("initContainers", Shape::List(&INIT_CONTAINERS)),
            field("volumes", Shape::List(&VOLUMES)),
            field("securityContext", Shape::Object(&POD_SECURITY)),
            field("terminationGracePeriodSeconds", SECONDS),
        ],
    )
};

static CONTAINERS: List =
    List { of: Shape::Object(&CONTAINER), least: 1, named_by: Some("name") };
static INIT_CONTAINERS: List =
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

static CONTAINER: Object = Object {
    refused: CONTAINER_REFUSED,
    ..object("a container", container_fields!(&RESOURCES))
};

static INIT_CONTAINER: Object = Object {
    refused: CONTAINER_REFUSED,
    ..object(
        "an init container",
        container_fields!(&INIT_RESOURCES, field("restartPolicy", Shape::OneOf(&["Always"])))
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
        &[
            field("limits", Shape::Object(&AMOUNTS)),
            field("requests", Shape::Object(&AMOUNTS)),
        ],
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

static VOLUMES: List = List { of: Shape::Object(&VOLUME), least: 0, named_by: Some("name") };

const VOLUME_REMEDY: &str = "guests may use emptyDir and downwardAPI; fetch data over the network";

static VOLUME: Object = Object {
    choice: Some((1, 1, &["emptyDir", "downwardAPI"])),
    refused: &[
        ("hostPath", "guests never see a node's files; use emptyDir"),
        ("secret", "Secrets are not supported yet; use emptyDir or downwardAPI"),
        ("configMap", "ConfigMaps are not supported yet; use emptyDir or downwardAPI"),
        ("projected", "use emptyDir or downwardAPI"),
        ("persistentVolumeClaim", VOLUME_REMEDY),
        ("ephemeral", VOLUME_REMEDY),
        ("csi", VOLUME_REMEDY),
        ("nfs", VOLUME_REMEDY),
        ("iscsi", VOLUME_REMEDY),
        ("image", VOLUME_REMEDY),
    ],
    ..object(
        "a volume",
        &[
            needed("name", Shape::Text(Form::Label)),
            field("emptyDir", Shape::Object(&EMPTY_DIR)),
            field("downwardAPI", Shape::Object(&DOWNWARD_API)),
        ],
    )
};

static EMPTY_DIR: Object = object(
    "emptyDir",
    &[field("medium", Shape::OneOf(&["", "Memory"])), field("sizeLimit", Shape::Quantity)],
);

const MODE: Shape = Shape::Whole(0, 0o777);

static DOWNWARD_API: Object = object(
    "downwardAPI",
    &[field("items", Shape::List(&DOWNWARD_ITEMS)), field("defaultMode", MODE)],
);

static DOWNWARD_ITEMS: List =
    List { of: Shape::Object(&DOWNWARD_ITEM), least: 0, named_by: Some("path") };

static DOWNWARD_ITEM: Object = Object {
    refused: &[("resourceFieldRef", "only fieldRef is supported; remove it")],
    ..object(
        "an item of downwardAPI",
        &[
            needed("path", Shape::Text(Form::RelativePath)),
            needed("fieldRef", Shape::Object(&VOLUME_FIELD)),
            field("mode", MODE),
        ],
    )
};

static VOLUME_FIELD: Object = object(
    "a fieldRef",
    &[
        field("apiVersion", Shape::OneOf(&["v1"])),
        needed("fieldPath", Shape::Text(Form::VolumeField)),
    ],
);

static SECCOMP: Object = Object {
    refused: &[("localhostProfile", "guests use RuntimeDefault; remove it")],
    ..object("a seccompProfile", &[needed("type", Shape::OneOf(&["RuntimeDefault"]))])
};

static POD_SECURITY: Object = Object {
    refused: &[
        ("sysctls", "guests never set a node's kernel parameters; remove it"),
        ("seLinuxOptions", "the member sets it; remove it"),
        ("appArmorProfile", "the member sets it; remove it"),
        ("windowsOptions", "guests run on Linux; remove it"),
        ("seLinuxChangePolicy", "the member sets it; remove it"),
    ],
    ..object(
        "the securityContext of a pod",
        &[
            field("runAsUser", Shape::User),
            field("runAsGroup", GROUP),
            field("runAsNonRoot", Shape::Exactly(true)),
            field("fsGroup", GROUP),
            field("fsGroupChangePolicy", Shape::OneOf(&["Always", "OnRootMismatch"])),
            field("supplementalGroups", Shape::List(&GROUPS)),
            field("seccompProfile", Shape::Object(&SECCOMP)),
        ],
    )
};

static GROUPS: List = List { of: GROUP, least: 0, named_by: None };

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

/// Variables that Idlewild, the device plugin or the launcher of a gang set.
pub(super) const RESERVED_PREFIXES: &[&str] = &["IDLEWILD_", "NVIDIA_", "PET_"];
/// More of them.
pub(super) const RESERVED_NAMES: &[&str] =
    &["MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "JOB_COMPLETION_INDEX"];
/// Annotations of ours that a user may set; they say how a simulated pod ends, and pass the member
/// in a sandbox only.
pub(super) const SANDBOX_ANNOTATIONS: &[&str] =
    &["sandbox.idlewild.dev/run-for", "sandbox.idlewild.dev/exit-code"];
/// Domains (with all below them) whose labels and annotations steer a cluster, not a program.
pub(super) const RESERVED_DOMAINS: &[&str] =
    &["idlewild.dev", "kubernetes.io", "k8s.io", "cncf.io", "nvidia.com", "projectcalico.org"];
/// Prefix that is allowed all the same: it describes a program.
pub(super) const DESCRIBING_PREFIX: &str = "app.kubernetes.io/";
/// Which of it is not: the member sets it on its guests.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Fields of a pod that variables can hold.
pub(super) const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that volumes can hold.
pub(super) const VOLUME_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
];
/// Most bytes that a template may have as JSON: it is stored in job, lease and guest lease, and
/// etcd's limit is for all that surrounds it too.
pub const MAX_BYTES: usize = 64 * 1024;
