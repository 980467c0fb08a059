//! One hub, for as long as its grant stands: join, work, and begin again when that ends.

use std::convert::Infallible;
use std::time::Duration;

use super::enrol::{self, Progress};
use super::record::Standing;
use super::tokens::{self, Tokens, is_refusal, re_enrol};
use super::{Link, heartbeat, leases, pools};
use crate::cluster::{Error, chain};

/// How often the link looks whether somebody else has acted.
const WAITING: Duration = Duration::from_secs(3);
/// How long a revoked link waits before it asks again.
const REVOKED: Duration = Duration::from_secs(30);
/// How long a hub that does not answer is left alone.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// Serves the hub of `link` until its task is stopped.
pub(super) async fn serve(link: &Link) {
    let tokens = match Tokens::new(link) {
        Ok(tokens) => tokens,
        Err(error) => {
            // Only a change of the grant's spec helps, and that starts another task.
            link.show(&Standing::new("Misconfigured", chain(&error))).await;
            return;
        }
    };
    loop {
        let (standing, pause) = match attempt(link, &tokens).await {
            Ok(outcome) => outcome,
            Err(error) => (standing(&error), UNREACHABLE),
        };
        link.show(&standing).await;
        tokio::time::sleep(pause).await;
    }
}

/// What a failure means for the owner.
pub(super) fn standing(error: &Error) -> Standing {
    let reason = if is_refusal(error) { "Unauthorized" } else { "Unreachable" };
    Standing::new(reason, chain(error))
}

/// Joins if need be, then works until the hub refuses to go on.
async fn attempt(link: &Link, tokens: &Tokens) -> Result<(Standing, Duration), Error> {
    link.record.refresh().await?;
    let stored = tokens::stored(link).await?;
    if let Some(token) = &stored {
        tokens.renew_with(token);
        match tokens.fetch_agent(link).await {
            Ok(life) => return Ok((work(link, tokens, life, None).await, WAITING)),
            Err(error) if is_refusal(&error) => {} // perhaps there is a new invitation
            Err(error) => return Err(error),
        }
    }
    match enrol::attempt(link, tokens).await? {
        Progress::Enrolled(renew_life) => {
            let life = tokens.fetch_agent(link).await?;
            Ok((work(link, tokens, life, Some(renew_life)).await, WAITING))
        }
        Progress::Waiting(standing) => match (stored, standing.reason) {
            (Some(_), "WaitingForInvitation" | "Unauthorized") => Ok((re_enrol(link), REVOKED)),
            _ => Ok((standing, WAITING)),
        },
    }
}

/// Carries leases, pictures and heartbeats until the hub refuses both tokens. Guests go on.
async fn work(
    link: &Link,
    tokens: &Tokens,
    agent_life: Duration,
    renew_life: Option<Duration>,
) -> Standing {
    let hub = &tokens.working;
    let standing = tokio::select! {
        standing = Box::pin(tokens.keep(link, agent_life, renew_life)) => standing,
        never = Box::pin(leases::run(link, hub)) => end(never),
        never = Box::pin(pools::run(link, hub)) => end(never),
        never = Box::pin(heartbeat::run(link, hub)) => end(never),
    };
    link.live.send_replace(false);
    standing
}

fn end(never: Infallible) -> Standing {
    match never {}
}
