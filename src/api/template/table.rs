//! The one table of what a pod template may hold, as data.
//!
//! Invariant: whatever a guest could use against an owner is absent here, and what is absent is
//! refused by name. The checker, the admission policy and the tests all read this table.

use super::containers::{CONTAINERS, INIT_CONTAINERS};

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
    /// Labels of the pod; those without a prefix or with `app.kubernetes.io/` reach the guests.
    Labels,
    /// Annotations of the pod; none of them reaches the guests, those of the sandbox apart.
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

pub(super) const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

pub(super) const fn needed(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

pub(super) const fn object(what: &'static str, fields: &'static [Field]) -> Object {
    Object { what, fields, choice: None, refused: &[] }
}

pub(super) const ANY: Shape = Shape::Text(Form::Any);
pub(super) const FILLED: Shape = Shape::Text(Form::Filled);
pub(super) const SECONDS: Shape = Shape::Whole(0, 86_400);
pub(super) const GROUP: Shape = Shape::Whole(0, 2_147_483_647);

pub(super) static TEXTS: List = List { of: ANY, least: 0, named_by: None };

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
        (
            "tolerations",
            "the member's pool sets them; use placement.clusterTolerations for members",
        ),
        ("schedulerName", "guests use the member's scheduler; remove it"),
        ("schedulingGates", "guests start when their lease does; remove it"),
        ("serviceAccountName", "guests get no account in the member; remove it"),
        ("serviceAccount", "guests get no account in the member; remove it"),
        ("automountServiceAccountToken", "guests get no account in the member; remove it"),
        ("resourceClaims", "ask for GPUs with gpu.count and gpu.anyOf instead"),
        ("resources", "set the resources of each container instead"),
        ("runtimeClassName", "the member's pool sets it; remove it"),
        (
            "priorityClassName",
            "guests have the lowest priority; use spec.priorityClassName of the job",
        ),
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

pub(super) static SECCOMP: Object = Object {
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

/// Variables that Idlewild, the device plugin or the launcher of a gang set.
pub(super) const RESERVED_PREFIXES: &[&str] = &["IDLEWILD_", "NVIDIA_", "PET_"];
/// More of them.
pub(super) const RESERVED_NAMES: &[&str] =
    &["MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "JOB_COMPLETION_INDEX"];
/// Annotations of ours that a user may set; they say how a simulated pod ends, and pass the member
/// in a sandbox only.
pub(super) const SANDBOX_ANNOTATIONS: &[&str] =
    &["sandbox.idlewild.dev/run-for", "sandbox.idlewild.dev/exit-code"];
/// Domains (with all below them) whose labels and annotations steer a cluster, not a program. Who
/// writes one of them here is mistaken and hears it; what protects an owner is that guests get no
/// label or annotation that is not on the list of [`super::copied`].
pub(super) const RESERVED_DOMAINS: &[&str] =
    &["idlewild.dev", "kubernetes.io", "k8s.io", "cncf.io", "nvidia.com", "projectcalico.org"];
/// Prefix that is allowed all the same: it describes a program.
pub(super) const DESCRIBING_PREFIX: &str = "app.kubernetes.io/";
/// Keys that are not, for all that: the member sets the first on its guests, and the second gives
/// a pod an identity in the owner's cloud.
pub(super) const RESERVED_KEYS: &[&str] = &["app.kubernetes.io/managed-by", "aadpodidbinding"];
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
