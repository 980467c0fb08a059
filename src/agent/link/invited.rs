//! A new invitation while the old rights still work: it is used at once, so that the hub's operator can
//! accept it, which ends the old rights. Work goes on meanwhile.

use std::time::Duration;

use tracing::{debug, info};

use super::Link;
use super::enrol::{self, Progress};
use super::key::Key;
use super::session::End;
use super::tokens::{self, Tokens};
use crate::cluster::{Error, chain};

/// How often it is looked for one, and whether it was accepted.
const EVERY: Duration = Duration::from_secs(5);

/// What became of an invitation.
enum Fate {
    /// There is none, or it is the one that this cluster was enrolled with.
    Known,
    /// The hub holds our request, or did not answer.
    Open,
    /// The hub does not take it.
    Dead(String),
    /// We are enrolled with it.
    Used,
}

/// Looks for a new invitation until this cluster is enrolled with one.
pub(super) async fn run(link: &Link, key: &Key) -> End {
    let mut dead = None;
    loop {
        match look(link, key, dead.as_ref()).await {
            Ok(Fate::Used) => {
                info!(grant = link.grant.name, "enrolled with a new invitation");
                return End::Anew;
            }
            Ok(Fate::Dead(mark)) => dead = Some(mark),
            Ok(Fate::Known | Fate::Open) => {}
            Err(error) => {
                debug!(grant = link.grant.name, error = chain(&error), "a new invitation waits");
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(link: &Link, key: &Key, dead: Option<&String>) -> Result<Fate, Error> {
    let Some(invitation) = tokens::invitation(link).await? else { return Ok(Fate::Known) };
    let mark = enrol::mark(&invitation);
    if dead == Some(&mark) || link.record.invitation().await == Some(mark.clone()) {
        return Ok(Fate::Known);
    }
    let joining = Tokens::new(link).await?;
    Ok(match enrol::attempt(link, &joining, key).await? {
        Progress::Enrolled(_) => Fate::Used,
        Progress::Waiting(standing) if standing.reason == "WaitingForAcceptance" => Fate::Open,
        Progress::Waiting(_) => Fate::Dead(mark),
    })
}
