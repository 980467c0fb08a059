//! `idlewild sandbox`: everything up, in the foreground, until Ctrl-C.

use tokio::signal::unix::{SignalKind, signal};

use super::error::Error;
use super::federation::Federation;
use super::say::say;
use super::settings::Settings;

/// Starts the sandbox, says how to reach it, and stops it on Ctrl-C or SIGTERM.
///
/// # Errors
/// If it cannot be started or stopped.
pub async fn up(settings: &Settings) -> Result<(), Error> {
    let Some(federation) = started(settings).await? else { return Ok(()) };
    for line in federation.exports()? {
        say(line);
    }
    say(format!("Logs: {}/logs. Ctrl-C stops everything.", federation.settings.dir.display()));
    interrupted().await?;
    say("Stopping");
    federation.stop().await
}

/// A started federation, or `None` if the start was interrupted (and all of it killed).
pub(super) async fn started(settings: &Settings) -> Result<Option<Federation>, Error> {
    say(format!(
        "Starting a hub and {} members in {}",
        settings.members.len(),
        settings.dir.display()
    ));
    let federation = tokio::select! {
        federation = Box::pin(Federation::start(settings)) => federation?,
        stop = interrupted() => return stop.map(|()| None),
    };
    for step in federation.timeline.steps() {
        say(format!(
            "  {:>5.1} s  +{:>4.1} s  {}",
            step.began.as_secs_f32(),
            step.took.as_secs_f32(),
            step.what
        ));
    }
    say(format!("Up in {:.1} s", federation.timeline.elapsed().as_secs_f32()));
    Ok(Some(federation))
}

/// Returns at Ctrl-C or SIGTERM.
pub(super) async fn interrupted() -> Result<(), Error> {
    let listen = |kind| signal(kind).map_err(Error::system("listen for signals"));
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
