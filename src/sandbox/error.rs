//! What can go wrong while a sandbox is set up or torn down.

use std::path::PathBuf;
use std::time::Duration;

/// A failed attempt of the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the sandbox needs is not there.
    #[error("{} is missing; e2e/controlplane/build.sh {} builds it", path.display(), directory.display())]
    Missing {
        /// The file that should be there.
        path: PathBuf,
        /// The folder to build into.
        directory: PathBuf,
    },
    /// The directory belongs to a sandbox that still runs.
    #[error("another sandbox runs in {}; stop it or choose another directory", directory.display())]
    Occupied {
        /// The directory.
        directory: PathBuf,
    },
    /// A file, a port or a child process failed.
    #[error("{what}")]
    System {
        /// The operation and its object.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A program ended that should run on, or ended badly.
    #[error("{what} failed: {said}")]
    Program {
        /// The program and what it was to do.
        what: String,
        /// The end of what it printed.
        said: String,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {limit:?}; last seen: {seen}")]
    Late {
        /// What was awaited.
        what: String,
        /// How long.
        limit: Duration,
        /// What there was instead.
        seen: String,
    },
    /// An API server refused or did not answer.
    #[error("{what}")]
    Cluster {
        /// The step of set-up.
        what: String,
        /// The cause.
        #[source]
        source: crate::cluster::Error,
    },
    /// A certificate could not be made.
    #[error("make certificate")]
    Certificate(#[from] rcgen::Error),
}

impl Error {
    /// Wraps a failure of the system under the name of what was tried.
    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// Wraps a failed call under the name of the step of set-up.
    pub(super) fn cluster(what: impl Into<String>) -> impl FnOnce(crate::cluster::Error) -> Self {
        let what = what.into();
        move |source| Self::Cluster { what, source }
    }
}
