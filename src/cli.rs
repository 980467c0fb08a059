//! Flags and environment, to typed settings; the only reader of the environment.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::agent::link::client::Proxy;
use crate::cluster::Access;
use crate::commands::table::{Colour, Format};
use crate::simulate;

/// Idlewild federates idle GPU clusters, owners first.
///
/// Installed as `kubectl-idlewild` it is also `kubectl idlewild`.
#[derive(Debug, Parser)]
#[command(name = "idlewild", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// What is logged, as in `RUST_LOG`. The client library is off by default: whoever sends a
    /// request logs what its failure means.
    #[arg(long, env = "IDLEWILD_LOG", default_value = "info,kube_client=off", global = true)]
    pub log: String,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Runs the controller of a hub.
    ///
    /// Example: idlewild hub --namespace idlewild-system
    Hub(HubArgs),
    /// Runs the agent of a member.
    ///
    /// Example: idlewild agent --namespace idlewild-system
    Agent(AgentArgs),
    /// Runs the gateway beside a hub: what users ask through the hub's API server.
    ///
    /// Example: idlewild gateway --namespace idlewild-system
    Gateway(GatewayArgs),
    /// Starts a hub and members on this machine, as real control planes.
    ///
    /// Example: idlewild sandbox up --members 3
    Sandbox(SandboxArgs),
    /// Replays a trace through the engine in virtual time and prints figures.
    ///
    /// Example: idlewild simulate openb --nodes nodes.csv --pods pods.csv --json
    Simulate {
        /// What to replay.
        #[command(subcommand)]
        protocol: simulate::Protocol,
    },
    /// Prints the custom resource definitions.
    ///
    /// Example: idlewild crds --side hub | kubectl apply --server-side --force-conflicts -f -
    Crds(CrdsArgs),
    /// Invites a cluster to lend to this hub; prints what its owner applies.
    ///
    /// Example: kubectl idlewild invite uni-north > join.yaml
    Invite(InviteArgs),
    /// Accepts a cluster that asked to join, after a look at its fingerprint.
    ///
    /// Example: kubectl idlewild accept uni-north --jurisdictions EU
    Accept(AcceptArgs),
    /// Shows why a job waits: its place in the queue, what every pool says, and what would help.
    ///
    /// Example: kubectl idlewild explain finetune-7b -n team-a
    #[command(after_help = EXPLAIN_CODES)]
    Explain(ExplainArgs),
    /// Shows pools and their GPUs, or queues.
    ///
    /// Example: kubectl idlewild top pools -o wide
    #[command(after_help = TOP_CODES)]
    Top(TopArgs),
    /// Cordons a member: nothing new is placed there, what runs goes on.
    ///
    /// Example: kubectl idlewild cordon uni-north
    Cordon(MemberArgs),
    /// Opens a member again that was cordoned or drained.
    ///
    /// Example: kubectl idlewild uncordon uni-north
    Uncordon(MemberArgs),
    /// Cordons a member and moves all that runs there; returns when it is empty.
    ///
    /// Example: kubectl idlewild drain uni-north --timeout 300
    Drain(DrainArgs),
    /// Ends a membership, from the hub or from the member.
    ///
    /// On the hub, by its operator: the member's work is placed elsewhere, its rights and namespace
    /// go. On the member, by its owner: guests of the hub get notice, the `HubGrant` and its tokens
    /// go. Either works with the other side gone.
    ///
    /// Examples: kubectl idlewild leave uni-north;
    /// kubectl idlewild leave --hub hub.example.org
    Leave(LeaveArgs),
}

const EXPLAIN_CODES: &str = "Exit codes:
  0  the job is explained, whatever there is to say of it
  1  it is not: no such job, no right to see it, no gateway, or the hub does not answer
  2  the flags make no sense";
const TOP_CODES: &str = "Exit codes:
  0  everything is shown, also if there is nothing
  1  it is not: no right to list it, or the hub does not answer
  2  the flags make no sense";

/// Which cluster to talk to.
#[derive(Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// Kubeconfig file; default: `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,
}

impl AccessArgs {
    /// The access that was asked for.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }
}

/// Flags of `hub`.
#[derive(Args, Debug)]
pub struct HubArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// Namespace of the hub.
    #[arg(long, default_value = crate::api::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Whether to wait for leadership before working.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// Name of this process among the candidates; default: host name and process ID.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// The hub's store was restored from a backup: raise its incarnation first.
    #[arg(long)]
    pub restored: bool,
}

impl HubArgs {
    /// Which cluster.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.access()
    }
}

/// Flags of `agent`.
#[derive(Args, Debug)]
pub struct AgentArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// Namespace of the agent, its `GpuPools` and `HubGrants`.
    #[arg(long, default_value = crate::api::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Namespace of guests.
    #[arg(long, default_value = crate::api::GUEST_NAMESPACE)]
    pub guest_namespace: String,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// HTTP proxy on the way to hubs, `http://[user:password@]host:port`. The own cluster is always
    /// reached directly.
    #[arg(long, env = "HTTPS_PROXY", hide_env_values = true)]
    https_proxy: Option<String>,
    /// Hubs that are reached without the proxy: names, `.suffixes`, addresses, networks, `*`.
    #[arg(long, env = "NO_PROXY")]
    no_proxy: Option<String>,
    /// Pods may carry the sandbox's annotations, which say how a simulated kubelet ends them.
    #[arg(long, hide = true)]
    pub sandbox: bool,
}

impl AgentArgs {
    /// Which cluster.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.access()
    }

    /// The way to hubs.
    #[must_use]
    pub fn proxy(&self) -> Proxy {
        Proxy { https: self.https_proxy.clone(), exempt: self.no_proxy.clone() }
    }
}

/// Flags of `gateway`.
#[derive(Args, Debug)]
pub struct GatewayArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// Namespace of the hub.
    #[arg(long, default_value = crate::api::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where the hub's API server reaches it, with TLS on both sides.
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub secure_listen: SocketAddr,
}

impl GatewayArgs {
    /// Which cluster.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.access()
    }
}

/// Flags of `sandbox`.
#[derive(Args, Debug)]
pub struct SandboxArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub act: SandboxAct,
    /// Number of members.
    #[arg(long, default_value_t = 3, global = true, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub members: u16,
    /// Folder for everything; emptied first.
    #[arg(long, default_value = "target/sandbox", global = true)]
    pub dir: PathBuf,
    /// Root of the repository: charts, samples and control plane programs are found from there.
    #[arg(long, default_value = ".", global = true)]
    pub root: PathBuf,
}

/// What to do with a sandbox.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum SandboxAct {
    /// Starts it and keeps it up until Ctrl-C.
    Up,
    /// Shows the samples run, and an owner taking GPUs back.
    Demo {
        /// Leave it up at the end, until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
}

/// Flags of `crds`.
#[derive(Args, Debug)]
pub struct CrdsArgs {
    /// For which cluster.
    #[arg(long, value_enum)]
    pub side: CrdsSide,
}

/// For which cluster definitions are.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CrdsSide {
    /// The cluster that holds `GpuJobs`.
    Hub,
    /// A cluster that lends.
    Member,
}

/// Flags of `invite`.
#[derive(Args, Debug)]
pub struct InviteArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// The member's name on this hub: at most 56 characters, no dots.
    pub name: String,
    /// Address of the hub's API server as the member reaches it; default: the hub chart's
    /// `hub.address`, else the kubeconfig's server.
    #[arg(long)]
    pub address: Option<String>,
    /// File with the CA certificates of that server in PEM; default: the kubeconfig's.
    #[arg(long)]
    pub ca_file: Option<PathBuf>,
    /// Invite a member again that was accepted before, because its tokens ended.
    #[arg(long)]
    pub again: bool,
}

/// Flags of `accept`.
#[derive(Args, Debug)]
pub struct AcceptArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// The member's name on this hub.
    pub name: String,
    /// The fingerprint that the owner read out (`kubectl get hubgrants -n idlewild-system`).
    #[arg(long)]
    pub fingerprint: Option<String>,
    /// Accept whatever fingerprint asks, without a question.
    #[arg(long, conflicts_with = "fingerprint")]
    pub yes: bool,
    /// Jurisdictions that you vouch for, such as EU; default: as they are.
    #[arg(long, value_delimiter = ',')]
    pub jurisdictions: Option<Vec<String>>,
}

/// Flags of `cordon` and `uncordon`.
#[derive(Args, Debug)]
pub struct MemberArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// The member's name on this hub.
    pub name: String,
}

/// Flags of `drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// The member's name on this hub.
    pub name: String,
    /// Seconds to wait until nothing runs there; what was begun goes on afterwards.
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
}

impl DrainArgs {
    /// How long to wait.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Flags of `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// The job.
    #[arg(value_name = "JOB")]
    pub name: String,
    /// Its namespace; default: that of the kubeconfig's context.
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// How to print it; default: for reading. `wide` also shows every pool of a long list.
    #[arg(long, short, value_enum)]
    pub output: Option<OutputArg>,
}

/// Flags of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// What to show.
    #[arg(value_enum, default_value_t = TopOf::Pools)]
    pub of: TopOf,
    /// How to print it; default: a table. `wide` has more columns.
    #[arg(long, short, value_enum)]
    pub output: Option<OutputArg>,
}

/// What `top` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopOf {
    /// Pools and their GPUs.
    Pools,
    /// Queues, their quotas and jobs.
    Queues,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// With more columns.
    Wide,
    /// As JSON.
    Json,
    /// As YAML.
    Yaml,
}

impl OutputArg {
    /// The format that was asked for; text is coloured on a terminal unless `NO_COLOR` is set.
    #[must_use]
    pub fn format(asked: Option<Self>) -> Format {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = match !plain && std::io::stdout().is_terminal() {
            true => Colour::On,
            false => Colour::Off,
        };
        match asked {
            None => Format::Text(colour),
            Some(Self::Wide) => Format::Wide(colour),
            Some(Self::Json) => Format::Json,
            Some(Self::Yaml) => Format::Yaml,
        }
    }
}

/// Flags of `leave`.
#[derive(Args, Debug)]
pub struct LeaveArgs {
    #[command(flatten)]
    pub access: AccessArgs,
    /// The member's name on this hub.
    #[arg(required_unless_present_any = ["hub", "all_hubs"], conflicts_with_all = ["hub", "all_hubs"])]
    pub name: Option<String>,
    /// In a member: the ID of the hub that it shall no longer serve.
    #[arg(long, value_name = "HUB_ID", conflicts_with = "all_hubs")]
    pub hub: Option<String>,
    /// In a member: leave every hub, as before the agent is uninstalled.
    #[arg(long)]
    pub all_hubs: bool,
    /// Seconds to wait for the hub to let it go, or for its guests to go.
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
}

impl LeaveArgs {
    /// How long to wait.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn leave_takes_a_member_or_hubs_and_not_both() {
        for (arguments, good) in [
            ("leave north", true),
            ("leave --hub hub.example.org", true),
            ("leave --all-hubs --timeout=90", true),
            ("leave", false),
            ("leave north --all-hubs", false),
            ("leave --hub a --all-hubs", false),
        ] {
            let words = ["idlewild"].into_iter().chain(arguments.split(' '));
            assert_eq!(Cli::try_parse_from(words).is_ok(), good, "{arguments}");
        }
    }
}
