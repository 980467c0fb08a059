//! Runs beside the hub: an aggregated API, so that users ask what no stored object can tell, with
//! the credentials that kubectl already uses.
//!
//! ```text
//! kubectl ─► the hub's API server ─► gateway ─► SubjectAccessReview, then the hub's own round
//!            (who are you, RBAC)     (mutual TLS: only that API server gets in)
//! ```
//!
//! Invariant: whoever cannot show the API server's proxy certificate is refused before a byte of HTTP
//! is read; headers that name a user are believed of nobody else. Discovery never depends on the
//! API server or on what was read of it: while it cannot be answered no namespace can be deleted.
//!
//! # Why it signs its own certificate
//!
//! The API server must be told whom to trust (`caBundle` of the `APIService`). A certificate made by
//! the chart would be made anew with every rendering and lie in the release; one of cert-manager asks
//! for cert-manager. So the first replica fills a Secret that the chart made empty, and each of them
//! makes sure that the bundle of the one `APIService` named in their role holds it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::api::GpuJobExplanation;
use crate::cluster::{Error, Outcome, chain};
use crate::hub::snapshot::View;
use crate::metrics::Process;
use crate::{http, metrics};

mod access;
mod caller;
mod discovery;
mod name;
mod routes;
mod serving;
mod tls;
mod trust;

use access::Access;
use tls::{Secured, Tls};
use trust::Trust;

/// Certificates and whom to trust are looked at again this often.
const LOOKED_AGAIN: Duration = Duration::from_mins(1);
/// The same after a failure, and until the first success.
const TRIED_AGAIN: Duration = Duration::from_secs(2);
/// After somebody else wrote first.
const AT_ONCE: Duration = Duration::from_millis(200);
/// Questions that wait at once; more are turned away.
const QUESTIONS: usize = 64;

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the hub.
    pub namespace: String,
    /// Where metrics and probes are served, in the clear.
    pub listen: SocketAddr,
    /// Where the hub's API server reaches the aggregated API.
    pub secure_listen: SocketAddr,
}

/// Which gates are closed, by who closes them.
#[derive(Clone, Debug, Default)]
struct Gates(Arc<Mutex<(Vec<&'static str>, Option<&'static str>)>>);

impl Gates {
    fn view(&self, closed: Vec<&'static str>) {
        if let Ok(mut gates) = self.0.lock() {
            gates.0 = closed;
        }
    }

    fn certificate(&self, closed: Option<&'static str>) {
        if let Ok(mut gates) = self.0.lock() {
            gates.1 = closed;
        }
    }

    fn closed(&self) -> Vec<String> {
        let Ok(gates) = self.0.lock() else { return Vec::new() };
        gates.0.iter().chain(&gates.1).map(|gate| (*gate).to_owned()).collect()
    }
}

/// A question about one job, and where the answer goes.
#[derive(Debug)]
struct Question {
    namespace: String,
    name: String,
    answer: oneshot::Sender<Answer>,
}

/// What comes of a question.
#[derive(Debug)]
enum Answer {
    /// The explanation.
    Explained(Box<GpuJobExplanation>),
    /// There is no such job.
    NoSuchJob,
    /// These are not listed yet.
    NotYet(Vec<&'static str>),
}

/// Runs until the process is told to stop.
///
/// # Errors
/// If an address cannot be listened on.
pub async fn run(
    client: Client,
    process: Process,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let unfit = |what: SocketAddr, error: &dyn std::fmt::Debug| Error::Unfit {
        reason: format!("cannot serve on {what}: {error:?}"),
    };
    let gates = Gates::default();
    gates.view(vec!["start"]);
    gates.certificate(Some("certificate"));
    let registry = process.registry;
    let metrics = metrics::Gateway::new(&registry);
    let shown = gates.clone();
    let server =
        tokio::spawn(http::serve(settings.listen, registry, Arc::new(move || shown.closed())));
    let (secure, secured) = watch::channel(None);
    let (ask, questions) = mpsc::channel(QUESTIONS);
    let tls = Tls::bind(settings.secure_listen, secured.clone())
        .await
        .map_err(|error| unfit(settings.secure_listen, &error))?;
    let (view, feeds) = View::open(&client);
    let desk = routes::Desk {
        access: Access::new(client.clone()),
        ask,
        gates: gates.clone(),
        metrics,
        secured,
    };
    let api = tokio::spawn(routes::serve(tls, desk));
    info!(listen = %settings.secure_listen, "gateway starts");
    tokio::select! {
        () = answer(view, questions, &gates) => Ok(()),
        () = feeds => Ok(()),
        () = keep_secure(&client, &settings.namespace, &gates, &secure) => Ok(()),
        ended = server => Err(unfit(settings.listen, &ended)),
        ended = api => Err(unfit(settings.secure_listen, &ended)),
        () = stop => Ok(()),
    }
}

/// Answers questions from what is known; one at a time, since they share a snapshot.
async fn answer(mut view: View, mut questions: mpsc::Receiver<Question>, gates: &Gates) {
    loop {
        tokio::select! {
            more = view.listen() => if !more { return },
            question = questions.recv() => match question {
                Some(question) => tell(&mut view, question),
                None => return,
            },
        }
        gates.view(view.closed_gates());
    }
}

fn tell(view: &mut View, Question { namespace, name, answer }: Question) {
    let closed = view.closed_gates();
    let said = match closed.is_empty() {
        false => Answer::NotYet(closed),
        true => match view.explain(&namespace, &name) {
            Some(explanation) => Answer::Explained(Box::new(explanation)),
            None => Answer::NoSuchJob,
        },
    };
    // Who asked may have gone away.
    drop(answer.send(said));
}

/// Keeps the certificate fit and whom to trust current.
async fn keep_secure(
    client: &Client,
    namespace: &str,
    gates: &Gates,
    secure: &watch::Sender<Option<Secured>>,
) {
    loop {
        let again = match secured(client, namespace).await {
            Ok(fresh) => {
                gates.certificate(None);
                secure.send_if_modified(|held| {
                    let changed = held.as_ref() != Some(&fresh);
                    *held = Some(fresh);
                    changed
                });
                LOOKED_AGAIN
            }
            // The API server writes the registration's status, and replicas the same Secret.
            Err(error) if error.outcome() == Outcome::Conflict => AT_ONCE,
            Err(error) => {
                warn!(error = chain(&error), "certificates: will be tried again");
                TRIED_AGAIN
            }
        };
        tokio::time::sleep(again).await;
    }
}

async fn secured(client: &Client, namespace: &str) -> Result<Secured, Error> {
    let trust = Trust::read(client).await?;
    let pair = serving::keep(client, namespace, Timestamp::now()).await?;
    Secured::new(trust, &pair)
}
