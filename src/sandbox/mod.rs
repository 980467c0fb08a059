//! A whole federation on this machine: a hub and members as real control planes in local processes,
//! for `idlewild sandbox`, `make demo` and the tests.
//!
//! Invariant: only set-up (helm, nodes, kwok and the gate player that stands in for kubelets) acts as
//! administrator. Hub and agents run with the service accounts and roles that the charts install, and
//! members join the way a stranger does.

mod accounts;
mod certificates;
mod charts;
mod controlplane;
mod demo;
mod error;
mod federation;
mod flags;
mod gate;
mod gateway;
mod http;
mod hub;
mod join;
mod kubeconfig;
mod member;
mod nodes;
mod nursery;
mod ports;
mod process;
mod reclaim;
mod say;
mod settings;
mod table;
mod timeline;
mod tool;
mod up;
mod wait;
mod workplace;

pub use accounts::{
    OPERATOR, OWNER, OWNER_NAMESPACE, USER, USER_NAMESPACES, kubeconfig_of_service_account,
};
pub use certificates::{Authority, Pair};
pub use charts::{helm, install};
pub use controlplane::ControlPlane;
pub use demo::{Demo, Verdict, demo};
pub use error::Error;
pub use federation::{Federation, Service};
pub use flags::{PROXY, Role};
pub use gateway::Gateway;
pub use http::{get, metric};
pub use hub::{Election, Hub};
pub use kubeconfig::{Credential, Endpoint};
pub use member::Member;
pub use nodes::LABEL_LEND;
pub use ports::free as free_port;
pub use process::{Process, Program};
pub use settings::{MemberSettings, PoolSettings, Reach, Settings};
pub use timeline::{Step, Timeline};
pub use tool::run;
pub use up::up;
pub use wait::eventually;
pub use workplace::Workplace;
