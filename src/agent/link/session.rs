//! One hub, for as long as its grant stands: join, work, and begin again when that ends.

use std::convert::Infallible;
use std::time::Duration;

use super::enrol::{self, Progress};
use super::key::{self, Key};
use super::record::Standing;
use super::tokens::{self, Tokens, is_refusal, new_key, re_enrol};
use super::trust::distrust;
use super::{Link, heartbeat, invited, leases, pools, vigil};
use crate::cluster::{Error, chain};

/// How often the link looks whether somebody else has acted.
const WAITING: Duration = Duration::from_secs(3);
/// How long a revoked link waits before it asks again.
const REVOKED: Duration = Duration::from_secs(30);
/// How long a hub that does not answer is left alone.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// Why work for a hub ended.
pub(super) enum End {
    /// The owner is told, and after the pause it is tried again.
    Told(Standing, Duration),
    /// Certificates or rights are others from now on: begin with new connections.
    Anew,
}

/// Serves the hub of `link` until its task is stopped.
pub(super) async fn serve(link: &Link) {
    loop {
        let tokens = match Tokens::new(link).await {
            Ok(tokens) => tokens,
            Err(error) => {
                // Only a change of the grant's spec or of the proxy helps: another task, or process.
                link.record.show(&Standing::new("Misconfigured", chain(&error))).await;
                return;
            }
        };
        loop {
            let (standing, pause) = match attempt(link, &tokens).await {
                Ok(End::Anew) => break,
                Ok(End::Told(standing, pause)) => (standing, pause),
                Err(error) => (standing(link, &error), UNREACHABLE),
            };
            link.show(&standing).await;
            tokio::time::sleep(pause).await;
        }
    }
}

/// What a failure means for the owner.
pub(super) fn standing(link: &Link, error: &Error) -> Standing {
    if let Some(standing) = distrust(error, &link.grant.spec) {
        return standing;
    }
    let reason = match error {
        _ if is_refusal(error) => "Unauthorized",
        Error::Unfit { .. } => "Misconfigured",
        _ => "Unreachable",
    };
    Standing::new(reason, chain(error))
}

/// Joins if need be, then works until the hub refuses to go on.
async fn attempt(link: &Link, tokens: &Tokens) -> Result<End, Error> {
    link.record.refresh().await?;
    let key = key::ours(link).await?;
    let enrolled = link.record.enrolled_key().await;
    // A hub accepted a key: the token that it gave is not used with another one.
    let replaced = enrolled.as_ref().is_some_and(|enrolled| *enrolled != key.public());
    let stored = tokens::stored(link).await?;
    if let Some(token) = stored.as_ref().filter(|_| !replaced) {
        tokens.renew_with(token);
        match tokens.fetch_agent(link).await {
            Ok(life) => return Ok(work(link, tokens, &key, (life, None)).await),
            Err(error) if is_refusal(&error) => {} // perhaps there is a new invitation
            Err(error) => return Err(error),
        }
    }
    match enrol::attempt(link, tokens, &key).await? {
        Progress::Enrolled(renew_life) => {
            let life = tokens.fetch_agent(link).await?;
            Ok(work(link, tokens, &key, (life, Some(renew_life))).await)
        }
        Progress::Waiting(standing) => Ok(match (stored, standing.reason, replaced) {
            (Some(_), "WaitingForInvitation" | "Unauthorized", true) => {
                End::Told(new_key(link), WAITING)
            }
            (Some(_), "WaitingForInvitation" | "Unauthorized", false) => {
                End::Told(re_enrol(link), REVOKED)
            }
            _ => End::Told(standing, WAITING),
        }),
    }
}

/// Carries leases, pictures and heartbeats until the hub refuses both tokens, or what the connection
/// stands on changes. Guests go on.
async fn work(link: &Link, tokens: &Tokens, key: &Key, lives: (Duration, Option<Duration>)) -> End {
    let hub = &tokens.working;
    let end = tokio::select! {
        biased;
        standing = Box::pin(tokens.keep(link, lives.0, lives.1)) => End::Told(standing, WAITING),
        end = Box::pin(vigil::run(link, tokens, key)) => end,
        end = Box::pin(invited::run(link, key)) => end,
        never = Box::pin(leases::run(link, hub)) => never_ends(never),
        never = Box::pin(pools::run(link, hub)) => never_ends(never),
        never = Box::pin(heartbeat::run(link, hub)) => never_ends(never),
    };
    link.live.send_replace(false);
    end
}

fn never_ends(never: Infallible) -> End {
    match never {}
}
