//! What a sandbox consists of.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::hub::Election;

/// Programs that every sandbox needs.
const PROGRAMS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
    "helm",
];

/// How far a start goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Control planes and nodes.
    ControlPlanes,
    /// Charts installed, hub and agents running, nobody joined.
    Installed,
    /// All members joined and ready.
    Joined,
}

/// A whole sandbox.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything is kept here; it is emptied first.
    pub dir: PathBuf,
    /// Folder with etcd, kube-apiserver, kubectl, kwok, helm and the rest.
    pub binaries: PathBuf,
    /// The `idlewild` executable.
    pub idlewild: PathBuf,
    /// Folder with the charts `idlewild-hub` and `idlewild-member`.
    pub charts: PathBuf,
    /// The hub's ID.
    pub hub_id: String,
    /// IDs of more hubs, which every member joins too; each names its cluster as well.
    pub more_hubs: Vec<String>,
    /// Whether the hub's controller elects a leader.
    pub election: Election,
    /// Flags for the hub's API server besides the usual ones.
    pub hub_flags: Vec<String>,
    /// The members.
    pub members: Vec<MemberSettings>,
    /// How far to go.
    pub reach: Reach,
}

/// One member.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// Its name on the hub.
    pub name: String,
    /// Jurisdiction that its owner claims and the hub's operator vouches for.
    pub jurisdiction: String,
    /// Region of its nodes.
    pub region: String,
    /// What it lends.
    pub pools: Vec<PoolSettings>,
}

/// Nodes of one kind, lent as one pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Name of the `GpuPool`.
    pub name: String,
    /// Product as GPU Feature Discovery names it, such as `NVIDIA-A100-SXM4-80GB`.
    pub product: String,
    /// Number of nodes.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus_per_node: u32,
}

impl Settings {
    /// A sandbox of `members` in `dir`, with the charts of the repository at `root`.
    #[must_use]
    pub fn new(root: &Path, dir: PathBuf, members: Vec<MemberSettings>) -> Self {
        Self {
            dir,
            binaries: root.join("target/controlplane"),
            idlewild: root.join("target/debug/idlewild"),
            charts: root.join("charts"),
            hub_id: "sandbox".into(),
            more_hubs: Vec::new(),
            hub_flags: vec![],
            members,
            election: Election::On,
            reach: Reach::Joined,
        }
    }

    /// The same with absolute paths, since each process has a working directory of its own.
    ///
    /// # Errors
    /// [`Error::Missing`] if a program is not there.
    pub(super) fn absolute(&self) -> Result<Self, Error> {
        let path = |path: &Path| {
            std::path::absolute(path).map_err(Error::system(format!("find {}", path.display())))
        };
        let binaries = path(&self.binaries)?;
        for program in PROGRAMS {
            let path = binaries.join(program);
            if !path.exists() {
                return Err(Error::Missing { path, directory: binaries });
            }
        }
        Ok(Self {
            dir: path(&self.dir)?,
            idlewild: path(&self.idlewild)?,
            charts: path(&self.charts)?,
            binaries,
            ..self.clone()
        })
    }
}

impl MemberSettings {
    /// `count` members of different regions, jurisdictions and models.
    #[must_use]
    pub fn examples(count: usize) -> Vec<Self> {
        let kinds = [
            ("uni-north", "EU", "eu-north", "a100", "NVIDIA-A100-SXM4-80GB", 8),
            ("lab-south", "EU", "eu-south", "l40s", "NVIDIA-L40S", 4),
            ("corp-west", "US", "us-west", "h100", "NVIDIA-H100-80GB-HBM3", 8),
        ];
        (0..count)
            .map(|index| {
                let (name, jurisdiction, region, pool, product, gpus) = kinds[index % kinds.len()];
                let round = index / kinds.len();
                let suffix = if round == 0 { String::new() } else { format!("-{}", round + 1) };
                Self {
                    name: format!("{name}{suffix}"),
                    jurisdiction: jurisdiction.into(),
                    region: region.into(),
                    pools: vec![PoolSettings {
                        name: pool.into(),
                        product: product.into(),
                        nodes: 6,
                        gpus_per_node: gpus,
                    }],
                }
            })
            .collect()
    }
}
