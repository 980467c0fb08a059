//! Starts what the command line asks for.

use std::io::{Write, stdout};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::api::crds::{self, Side};
use crate::cli::{
    AcceptArgs, AgentArgs, CrdsArgs, CrdsSide, DrainArgs, ExplainArgs, GatewayArgs, HubArgs,
    InviteArgs, LeaveArgs, OutputArg, SandboxAct, SandboxArgs, TopArgs, TopOf, Verb,
};
use crate::cluster::{client, connect, counting};
use crate::commands::{self, accept, cordon, drain, explain, invite, leave, top, uncordon};
use crate::metrics::Process;
use crate::sandbox::{self, MemberSettings};
use crate::{agent, cluster, gateway, hub, simulate};

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Hub, agent, or the way to a cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// A command.
    #[error(transparent)]
    Command(#[from] commands::Error),
    /// A replay.
    #[error(transparent)]
    Simulate(#[from] simulate::Error),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// Standard output, or signals.
    #[error("use the terminal")]
    Terminal(#[from] std::io::Error),
}

/// Does what `verb` asks.
///
/// # Errors
/// Whatever kept it from being done.
pub async fn run(verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Hub(args) => Box::pin(run_hub(args)).await?,
        Verb::Agent(args) => Box::pin(run_agent(args)).await?,
        Verb::Gateway(args) => Box::pin(run_gateway(args)).await?,
        Verb::Sandbox(args) => return Box::pin(run_sandbox(args)).await,
        Verb::Simulate { protocol } => {
            simulate::run(&protocol, &mut stdout(), &mut std::io::stderr())?;
        }
        Verb::Crds(args) => print_crds(&args)?,
        Verb::Invite(args) => run_invite(args).await?,
        Verb::Accept(args) => run_accept(args).await?,
        Verb::Cordon(args) => {
            let client = connect(&args.access.access()).await?;
            cordon::run(client, &args.name, &mut stdout() as &mut dyn Write).await?;
        }
        Verb::Uncordon(args) => {
            let client = connect(&args.access.access()).await?;
            uncordon::run(client, &args.name, &mut stdout() as &mut dyn Write).await?;
        }
        Verb::Drain(args) => run_drain(args).await?,
        Verb::Leave(args) => run_leave(args).await?,
        Verb::Explain(args) => run_explain(args).await?,
        Verb::Top(args) => run_top(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns once the process is told to stop.
async fn told_to_stop() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn run_hub(args: HubArgs) -> Result<(), Error> {
    let process = Process::new("hub");
    let config = client::config(&args.access()).await?;
    let client = counting::client(config, process.common.requests("hub", "hub"))?;
    let identity = args.identity.unwrap_or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}-{}", host.trim(), std::process::id())
    });
    let settings = hub::Settings {
        namespace: args.namespace,
        listen: args.listen,
        elect: args.leader_elect,
        identity,
        restored: args.restored,
    };
    Ok(Box::pin(hub::run(client, process, settings, told_to_stop())).await?)
}

async fn run_agent(args: AgentArgs) -> Result<(), Error> {
    let process = Process::new("agent");
    // Two clients: a flood of guests' writes never delays what hubs are told, nor the reverse.
    let mut config = client::config(&args.access()).await?;
    // The proxy of the environment is for hubs; the library would take it for a kubeconfig's server too.
    config.proxy_url = None;
    let link = counting::client(config.clone(), process.common.requests("link", "member"))?;
    let executor = counting::client(config, process.common.requests("executor", "member"))?;
    let proxy = args.proxy();
    let settings = agent::Settings {
        namespace: args.namespace,
        guest_namespace: args.guest_namespace,
        listen: args.listen,
        sandbox: args.sandbox,
        proxy,
    };
    Ok(agent::run(agent::Clients { link, executor }, process, settings, told_to_stop()).await?)
}

async fn run_gateway(args: GatewayArgs) -> Result<(), Error> {
    let process = Process::new("gateway");
    let config = client::config(&args.access()).await?;
    let client = counting::client(config, process.common.requests("gateway", "hub"))?;
    let settings = gateway::Settings {
        namespace: args.namespace,
        listen: args.listen,
        secure_listen: args.secure_listen,
    };
    Ok(Box::pin(gateway::run(client, process, settings, told_to_stop())).await?)
}

async fn run_sandbox(args: SandboxArgs) -> Result<ExitCode, Error> {
    let members = MemberSettings::examples(args.members.into());
    let mut settings = sandbox::Settings::new(&args.root, args.dir, members);
    settings.idlewild = std::env::current_exe()?;
    match args.act {
        SandboxAct::Up => Box::pin(sandbox::up(&settings)).await?,
        SandboxAct::Demo { keep } => {
            let samples = args.root.join("deploy/samples");
            let demo = sandbox::Demo { sandbox: settings, samples, keep };
            if Box::pin(sandbox::demo(&demo)).await? != sandbox::Verdict::AsExpected {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_crds(args: &CrdsArgs) -> Result<(), Error> {
    let side = match args.side {
        CrdsSide::Hub => Side::Hub,
        CrdsSide::Member => Side::Member,
    };
    let texts: Vec<_> = crds::definitions(side).iter().map(crds::yaml).collect();
    commands::say(&mut stdout(), texts.join("---\n").trim_end())?;
    Ok(())
}

async fn run_invite(args: InviteArgs) -> Result<(), Error> {
    let config = client::config(&args.access.access()).await?;
    let invitation = invite::Invite {
        name: args.name,
        address: args.address,
        ca_file: args.ca_file,
        again: args.again,
    };
    Ok(invite::run(config, invitation, &mut stdout() as &mut dyn Write).await?)
}

async fn run_accept(args: AcceptArgs) -> Result<(), Error> {
    let client = connect(&args.access.access()).await?;
    let acceptance = accept::Accept {
        name: args.name,
        fingerprint: args.fingerprint,
        yes: args.yes,
        jurisdictions: args.jurisdictions,
    };
    Ok(accept::run(client, acceptance, &mut stdout() as &mut dyn Write).await?)
}

async fn run_drain(args: DrainArgs) -> Result<(), Error> {
    let client = connect(&args.access.access()).await?;
    let timeout = args.patience();
    let draining = drain::Drain { name: args.name, timeout };
    Ok(drain::run(client, draining, &mut stdout() as &mut dyn Write).await?)
}

async fn run_explain(args: ExplainArgs) -> Result<(), Error> {
    let config = client::config(&args.access.access()).await?;
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let asked =
        explain::Explain { name: args.name, namespace, format: OutputArg::format(args.output) };
    let client = client::client(config)?;
    Ok(explain::run(client, asked, &mut stdout() as &mut dyn Write).await?)
}

async fn run_top(args: TopArgs) -> Result<(), Error> {
    let client = connect(&args.access.access()).await?;
    let format = OutputArg::format(args.output);
    let out = &mut stdout() as &mut dyn Write;
    match args.of {
        TopOf::Pools => top::pools(client, format, out).await?,
        TopOf::Queues => top::queues(client, format, out).await?,
    }
    Ok(())
}

async fn run_leave(args: LeaveArgs) -> Result<(), Error> {
    let client = connect(&args.access.access()).await?;
    let timeout = args.patience();
    let out = &mut stdout() as &mut dyn Write;
    match args.name {
        Some(name) => leave::run(client, leave::Leave { name, timeout }, out).await?,
        None => {
            let leaving = leave::owner::Leave { hub: args.hub, timeout };
            leave::owner::run(client, leaving, out).await?;
        }
    }
    Ok(())
}
