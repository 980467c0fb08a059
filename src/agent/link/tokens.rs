//! The tokens of one hub: the renew token, kept in a Secret, and the agent's, kept in memory.
//!
//! Invariant: no token is ever logged, and renewal follows our own monotonic timer, since the wall
//! clocks of two machines are never compared.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::client::Token;
use super::life::{half, life};
use super::trust::{Roots, roots};
use super::{Link, record::Standing};
use crate::api::member::short_life;
use crate::api::{JOIN_SECRET_MEMBER, RENEW_SECONDS, TOKEN_SECRET};
use crate::cluster::{Error, Outcome, chain, within};

/// Life asked for an agent's token.
const AGENT_SECONDS: i64 = 3_600;
/// How long a refused renewal waits before it is tried again.
const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// How long a renewal without an answer waits before it is tried again.
const UNANSWERED_RETRY: Duration = Duration::from_secs(5);

/// A token that a hub gave.
struct Granted {
    token: String,
    expires: Time,
    /// How long it lives from now, as the hub says.
    life: Duration,
}

/// The two accounts of a member on its hub, and clients that use them.
pub(super) struct Tokens {
    renew: Token,
    agent: Token,
    /// Authenticates as `join` until there is a renew token, then as `renew`.
    pub(super) renewing: Client,
    /// Authenticates as `agent`.
    pub(super) working: Client,
}

impl Tokens {
    /// Clients that trust what `link` knows by now.
    pub(super) async fn new(link: &Link) -> Result<Self, Error> {
        let (renew, agent) = (Token::default(), Token::default());
        let (grant, dial) = (&link.grant.spec, &link.dial);
        let roots = roots(grant, link.record.followed_ca().await.as_ref())?;
        let renewing = dial.connect(grant, roots.clone(), &renew, link.figures.requests())?;
        let working = dial.connect(grant, roots, &agent, link.figures.requests())?;
        Ok(Self { renew, agent, renewing, working })
    }

    /// A client that works as `working` does, but believes `roots` alone.
    pub(super) fn believing(&self, link: &Link, roots: Roots) -> Result<Client, Error> {
        link.dial.connect(&link.grant.spec, roots, &self.agent, link.figures.requests())
    }

    /// Authenticates `renewing` with `token` from now on.
    pub(super) fn renew_with(&self, token: &str) {
        self.renew.set(token);
    }

    /// Fetches an agent's token with the renew token; returns how long it lives.
    pub(super) async fn fetch_agent(&self, link: &Link) -> Result<Duration, Error> {
        let granted = request(&self.renewing, link, "agent", AGENT_SECONDS).await?;
        self.agent.set(&granted.token);
        link.figures.granted(&link.grant.name, "agent", granted.life);
        Ok(granted.life)
    }

    /// Replaces the renew token, by `join` or by the one before; returns how long it lives.
    pub(super) async fn fetch_renew(&self, link: &Link) -> Result<Duration, Error> {
        let granted = request(&self.renewing, link, "renew", RENEW_SECONDS).await?;
        store(link, &granted.token).await?;
        self.renew.set(&granted.token);
        link.figures.granted(&link.grant.name, "renew", granted.life);
        link.renewal.store(granted.life.as_secs(), Ordering::Relaxed);
        let expires = granted.expires;
        link.record.change(|status| status.renewal_expires = Some(expires.clone())).await?;
        Ok(granted.life)
    }

    /// Renews both tokens at half their lives. Returns when the hub refuses to renew and refuses
    /// the agent's token as well: what remains is to enrol again.
    ///
    /// Without `renew_life` the renew token comes from an earlier run: its age is unknown, so it is
    /// replaced at once.
    pub(super) async fn keep(
        &self,
        link: &Link,
        agent_life: Duration,
        renew_life: Option<Duration>,
    ) -> Standing {
        let mut agent_in = half(agent_life);
        let mut renew_in = renew_life.map_or(Duration::ZERO, half);
        let mut doubted = false;
        loop {
            let began = tokio::time::Instant::now();
            tokio::select! {
                biased;
                () = tokio::time::sleep(agent_in.min(renew_in)) => {}
                () = link.doubt.notified() => {
                    doubted = true;
                    agent_in = Duration::ZERO;
                }
            }
            agent_in = agent_in.saturating_sub(began.elapsed());
            renew_in = renew_in.saturating_sub(began.elapsed());
            if renew_in.is_zero() {
                let renewed = self.fetch_renew(link).await;
                renew_in = renewed.map_or_else(|error| retry(link, "renew", &error), half);
            }
            if !agent_in.is_zero() {
                continue;
            }
            let fetched = self.fetch_agent(link).await;
            if doubted && fetched.as_ref().is_err_and(is_refusal) {
                return re_enrol(link);
            }
            doubted &= fetched.is_err();
            agent_in = fetched.map_or_else(|error| retry(link, "agent", &error), half);
        }
    }
}

/// What the owner reads once the hub refuses every token.
pub(super) fn re_enrol(link: &Link) -> Standing {
    let member = &link.grant.spec.member;
    Standing::new(
        "ReEnrolNeeded",
        format!(
            "the hub refuses this member's tokens: they ended while it was away, or it was revoked. \
             Guests go on; ask the hub's operator for kubectl idlewild invite {member} --again and \
             apply what it prints"
        ),
    )
}

/// Whether the hub answered that we may not: anything else says nothing about our rights.
pub(super) fn is_refusal(error: &Error) -> bool {
    let Error::Call { source, .. } = error else { return false };
    matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

/// Whether the hub does not know the token at all, which is more than that it gives no right.
pub(super) fn is_unknown_token(error: &Error) -> bool {
    let Error::Call { source, .. } = error else { return false };
    matches!(source.as_ref(), kube::Error::Api(status) if status.code == 401)
}

fn retry(link: &Link, account: &str, error: &Error) -> Duration {
    let grant = &link.grant.name;
    tracing::warn!(grant, account, reason = error.reason(), error = chain(error), "not renewed");
    if is_refusal(error) { REFUSED_RETRY } else { UNANSWERED_RETRY }
}

/// Asks the hub for a token of `account`.
async fn request(
    client: &Client,
    link: &Link,
    account: &str,
    seconds: i64,
) -> Result<Granted, Error> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &link.grant.spec.namespace);
    let spec = TokenRequestSpec { expiration_seconds: Some(seconds), ..Default::default() };
    let ask = TokenRequest { spec, ..Default::default() };
    let params = PostParams::default();
    let answer = within("request token", api.create_token_request(account, &params, &ask)).await?;
    let life = life(&answer, seconds, link.clock.wall());
    let status = answer.status.ok_or_else(|| Error::Unfit {
        reason: "the hub answered a request for a token without a token".into(),
    })?;
    Ok(Granted { token: status.token, expires: status.expiration_timestamp, life })
}

/// What the owner reads besides, where tokens live shorter than a member may be away for.
pub(super) fn lives(link: &Link) -> String {
    let seconds = link.renewal.load(Ordering::Relaxed);
    let short = (seconds > 0).then(|| short_life(seconds)).flatten();
    short.map_or_else(String::new, |life| {
        format!(
            "; the hub's renew tokens live {life} only: after longer away, this cluster must be invited \
             again"
        )
    })
}

/// What the owner reads when the agent's key is not the one that the hub accepted.
pub(super) fn new_key(link: &Link) -> Standing {
    let member = &link.grant.spec.member;
    Standing::new(
        "ReEnrolNeeded",
        format!(
            "this agent has a new key, which the hub must accept: ask its operator for kubectl idlewild \
             invite {member} --again, apply what it prints, and read out the new fingerprint. Guests go on"
        ),
    )
}

/// The renew token that an earlier run stored.
pub(super) async fn stored(link: &Link) -> Result<Option<String>, Error> {
    secret(link, TOKEN_SECRET).await
}

/// The join token of the owner's invitation.
pub(super) async fn invitation(link: &Link) -> Result<Option<String>, Error> {
    secret(link, JOIN_SECRET_MEMBER).await
}

async fn secret(link: &Link, name: &str) -> Result<Option<String>, Error> {
    let api: Api<Secret> = Api::namespaced(link.local.clone(), &link.grant.home);
    let secret = match within("get secret", api.get(name)).await {
        Ok(secret) => secret,
        Err(error) if error.outcome() == Outcome::Gone => return Ok(None),
        Err(error) => return Err(error),
    };
    let value = secret.data.and_then(|mut data| data.remove(&link.grant.name));
    let text = value.and_then(|ByteString(bytes)| String::from_utf8(bytes).ok());
    Ok(text.filter(|token| !token.trim().is_empty()))
}

async fn store(link: &Link, token: &str) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(link.local.clone(), &link.grant.home);
    let data = BTreeMap::from([(&link.grant.name, ByteString(token.as_bytes().to_vec()))]);
    let patch = Patch::Merge(json!({ "data": data }));
    let params = PatchParams::default();
    within("store renew token", api.patch(TOKEN_SECRET, &params, &patch)).await.map(drop)
}
