//! What lies between a process and an API server: delays, losses, and the death of either.
//!
//! Invariant: all that happens here is drawn from the run's own random numbers, so that a seed gives
//! the same run again. A request of a process that died reaches nobody, and nobody answers it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use kube::{Client, client};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::time::sleep;

use super::models::patch;
use super::server::{At, Call, Server, Verb, Watch, response};
use super::time::Epoch;
use super::trace::Trace;
use crate::cluster::client::DEAD_AFTER;

/// What is wrong with the way between a process and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Requests vanish.
    BlackHole,
    /// Requests arrive, answers vanish.
    OneWay,
    /// Nobody takes connections.
    Refused,
    /// A proxy answers 503 and asks for a day's patience.
    Busy,
    /// Everything takes seconds.
    Slow,
    /// Requests work, watches bring nothing.
    DeafWatch,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mishap {
    /// It never arrives.
    RequestLost,
    /// It is carried out, and the answer is lost.
    ReplyLost,
    /// It arrives twice.
    Twice,
    /// The server says 500 and does nothing.
    FailedBefore,
    /// The server does it and says 500.
    FailedAfter,
    /// Somebody else writes the object first.
    Overtaken,
    /// The server is overloaded: 429.
    TooMany,
}

const MISHAPS: [Mishap; 7] = [
    Mishap::RequestLost,
    Mishap::ReplyLost,
    Mishap::Twice,
    Mishap::FailedBefore,
    Mishap::FailedAfter,
    Mishap::Overtaken,
    Mishap::TooMany,
];

/// Where a crash strikes a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    /// Before it is carried out.
    Before,
    /// When it is durable, and nobody knows.
    Unanswered,
    /// When the answer was heard.
    Answered,
}

/// Kills whoever sends the write of this number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) write: usize,
    pub(crate) strike: Strike,
}

/// Everything between processes and servers.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<Wire>>);

pub(crate) struct Wire {
    pub(crate) random: StdRng,
    pub(crate) trace: Trace,
    /// Requests per million that meet a mishap.
    pub(crate) mishaps: u32,
    /// Trouble on the way from a process to a server.
    troubles: BTreeMap<(String, String), Trouble>,
    /// Processes that died.
    dead: BTreeSet<usize>,
    /// Processes that are to be ended, as their death was planned.
    pub(crate) struck: Vec<usize>,
    pub(crate) crash: Option<Crash>,
    /// Writes of processes, heartbeats and the like apart.
    pub(crate) writes: usize,
    /// Kinds of trouble and mishaps that were met, and how often.
    pub(crate) met: BTreeMap<String, u64>,
    lives: usize,
}

/// One process as the network knows it.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) number: usize,
    pub(crate) name: String,
}

/// What happens to a request.
struct Fate {
    there: Duration,
    back: Duration,
    mishap: Option<Mishap>,
    trouble: Option<Trouble>,
}

impl Network {
    pub(crate) fn new(seed: u64, epoch: Epoch) -> Self {
        Self(Arc::new(Mutex::new(Wire {
            random: StdRng::seed_from_u64(seed),
            trace: Trace::new(epoch),
            mishaps: 0,
            troubles: BTreeMap::new(),
            dead: BTreeSet::new(),
            struck: Vec::new(),
            crash: None,
            writes: 0,
            met: BTreeMap::new(),
            lives: 0,
        })))
    }

    pub(crate) fn wire(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap()
    }

    /// A new process of this name.
    pub(crate) fn born(&self, name: &str) -> Life {
        let mut wire = self.wire();
        wire.lives += 1;
        Life { number: wire.lives, name: name.to_owned() }
    }

    /// Nothing of this process is carried out any more.
    pub(crate) fn dies(&self, life: &Life) {
        self.wire().dead.insert(life.number);
    }

    pub(crate) fn set_trouble(&self, process: &str, server: &str, trouble: Option<Trouble>) {
        let way = (process.to_owned(), server.to_owned());
        let mut wire = self.wire();
        match trouble {
            Some(trouble) => {
                wire.meet(format!("{trouble:?}"));
                wire.troubles.insert(way, trouble);
            }
            None => drop(wire.troubles.remove(&way)),
        }
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn heal(&self) {
        let mut wire = self.wire();
        wire.troubles.clear();
        wire.mishaps = 0;
    }

    /// A client of `server`, for a process.
    pub(crate) fn client(&self, life: &Life, server: &Server, name: &str) -> Client {
        let way = Way {
            network: self.clone(),
            life: life.clone(),
            server: server.clone(),
            to: name.to_owned(),
        };
        let service =
            tower::service_fn(move |request: Request<client::Body>| way.clone().carry(request));
        Client::new(service, "default")
    }
}

impl Wire {
    pub(crate) fn meet(&mut self, what: impl Into<String>) {
        *self.met.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn trouble(&self, from: &str, to: &str) -> Option<Trouble> {
        self.troubles.get(&(from.to_owned(), to.to_owned())).copied()
    }

    fn fate(&mut self, from: &str, to: &str) -> Fate {
        let trouble = self.trouble(from, to);
        let (least, most) = if trouble == Some(Trouble::Slow) { (500, 9_000) } else { (0, 8) };
        let there = Duration::from_millis(self.random.random_range(least..=most));
        let back = Duration::from_millis(self.random.random_range(least / 2..=most / 2));
        let strikes = self.mishaps > 0 && self.random.random_range(0..1_000_000) < self.mishaps;
        let mishap = strikes.then(|| MISHAPS[self.random.random_range(0..MISHAPS.len())]);
        if let Some(mishap) = mishap {
            self.meet(format!("{mishap:?}"));
        }
        Fate { there, back, mishap, trouble }
    }

    /// Counts a write; where it is the one at which its sender is to die, how.
    fn count_write(&mut self, call: &Call) -> Option<Strike> {
        if !is_work(call) {
            return None;
        }
        let number = self.writes;
        self.writes += 1;
        self.crash.filter(|crash| crash.write == number).map(|crash| crash.strike)
    }
}

/// Whether a request is a write that matters: not a heartbeat, election or token.
pub(crate) fn is_work(call: &Call) -> bool {
    call.is_write()
        && !matches!(call.plural(), "leases" | "serviceaccounts" | "hubgrants" | "secrets")
}

/// The way from one process to one server.
#[derive(Clone)]
struct Way {
    network: Network,
    life: Life,
    server: Server,
    to: String,
}

type Answer = Result<Response<Body>, io::Error>;

impl Way {
    async fn carry(self, request: Request<client::Body>) -> Answer {
        let call = Call::read(request).await;
        let fate = self.network.wire().fate(&self.life.name, &self.to);
        sleep(fate.there).await;
        self.living().await;
        match (fate.trouble, fate.mishap) {
            (Some(Trouble::BlackHole), _) | (_, Some(Mishap::RequestLost)) => {
                return dead_connection().await;
            }
            (Some(Trouble::Refused), _) => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
            }
            (Some(Trouble::Busy), _) => return Ok(busy()),
            (_, Some(Mishap::FailedBefore)) => return Ok(failed(500)),
            (_, Some(Mishap::TooMany)) => return Ok(failed(429)),
            _ => {}
        }
        if call.verb == Verb::Watch {
            return Ok(self.watch(&call));
        }
        let answer = self.reach(&call, fate.mishap).await;
        if fate.trouble == Some(Trouble::OneWay) || fate.mishap == Some(Mishap::ReplyLost) {
            return dead_connection().await;
        }
        sleep(fate.back).await;
        self.living().await;
        Ok(answer)
    }

    /// The server carries out the call, unless its sender dies at it.
    async fn reach(&self, call: &Call, mishap: Option<Mishap>) -> Response<Body> {
        let strike = self.network.wire().count_write(call);
        if strike == Some(Strike::Before) {
            self.die().await;
        }
        if mishap == Some(Mishap::Overtaken) {
            self.overtake(call);
        }
        let mut answer = self.server.answer(&self.life.name, call);
        if mishap == Some(Mishap::Twice) {
            answer = self.server.answer(&self.life.name, call);
        }
        self.network.wire().trace.call(&self.life, &self.to, call, answer.0);
        match strike {
            Some(Strike::Unanswered) => self.die().await,
            Some(Strike::Answered) => {
                // The others go on until it has heard.
                let mut wire = self.network.wire();
                wire.struck.push(self.life.number);
            }
            _ => {}
        }
        if mishap == Some(Mishap::FailedAfter) {
            return failed(500);
        }
        response(answer.0, &answer.1)
    }

    /// Somebody else writes the object of `call` first.
    fn overtake(&self, call: &Call) {
        if call.name.is_empty() || !matches!(call.verb, Verb::Patch | Verb::Update) {
            return;
        }
        let at = At::new(call.plural(), &call.namespace, &call.name);
        let mut store = self.server.store();
        let note =
            json!({"metadata": {"annotations": {"overtaken": store.revision().to_string()}}});
        patch(&mut store, "somebody", (&at, ""), &note);
    }

    /// The process ends here.
    async fn die(&self) {
        {
            let mut wire = self.network.wire();
            wire.struck.push(self.life.number);
            wire.dead.insert(self.life.number);
        }
        std::future::pending::<()>().await;
    }

    /// Goes on only if the process lives.
    async fn living(&self) {
        let dead = self.network.wire().dead.contains(&self.life.number);
        if dead {
            std::future::pending::<()>().await;
        }
    }

    fn watch(&self, call: &Call) -> Response<Body> {
        match self.server.watch(&self.life.name, call) {
            Ok(watch) => {
                let lines = futures::stream::unfold(
                    (self.clone(), Box::pin(watch)),
                    |(way, mut watch)| async move {
                        let line = way.next(&mut watch).await?;
                        Some((line, (way, watch)))
                    },
                );
                let answer = Response::builder().header(CONTENT_TYPE, "application/json");
                answer.body(Body::from_stream(lines)).expect("a known header")
            }
            Err((code, body)) => response(code, &body),
        }
    }

    /// The next line of a watch, when it gets through.
    async fn next(&self, watch: &mut Pin<Box<Watch>>) -> Option<Result<String, io::Error>> {
        let line = tokio::time::timeout(DEAD_AFTER, watch.next()).await;
        let Ok(line) = line else { return Some(Err(timed_out())) };
        let line = line?;
        let delay = self.network.wire().random.random_range(0..=10);
        sleep(Duration::from_millis(delay)).await;
        self.living().await;
        let mut waited = Duration::ZERO;
        while self.is_cut() {
            if waited >= DEAD_AFTER {
                return Some(Err(timed_out()));
            }
            sleep(Duration::from_secs(1)).await;
            waited += Duration::from_secs(1);
        }
        self.living().await;
        Some(Ok(line))
    }

    /// Whether watches bring nothing now.
    fn is_cut(&self) -> bool {
        let trouble = self.network.wire().trouble(&self.life.name, &self.to);
        matches!(
            trouble,
            Some(Trouble::BlackHole | Trouble::OneWay | Trouble::DeafWatch | Trouble::Refused)
        )
    }
}

async fn dead_connection() -> Answer {
    sleep(DEAD_AFTER).await;
    Err(timed_out())
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nothing was heard for long")
}

fn failed(code: u16) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the network says so", "reason": "InternalError", "code": code});
    response(code, &body)
}

fn busy() -> Response<Body> {
    let mut answer = failed(503);
    let day = http::HeaderValue::from_static("86400");
    answer.headers_mut().insert(http::header::RETRY_AFTER, day);
    answer
}
