//! A child process with a log and a pid file, which can be paused, killed and started again.
//!
//! Invariant: no child outlives us. It gets SIGKILL from the kernel when we die (`setpriv
//! --pdeathsig`, so that no unsafe code is needed here) and from `Drop` when its handle goes.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::Error;
use super::nursery;
use super::wait::eventually;
use super::workplace::Workplace;

/// Proxies of the machine must not stand between processes that talk over 127.0.0.1.
pub(super) const PROXY_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// The kernel reaps a killed process at once; only a process stuck in the kernel takes longer.
const REAPED_WITHIN: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Unique in the sandbox; names the log.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A running, paused or ended child process.
#[derive(Debug)]
pub struct Process {
    program: Program,
    log: PathBuf,
    pid_file: PathBuf,
    directory: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts `program`; its output is appended to its log.
    ///
    /// # Errors
    /// If it cannot be started. A program that ends at once is seen by [`Process::is_running`].
    pub fn start(program: Program, workplace: &Workplace) -> Result<Self, Error> {
        let process = Self {
            log: workplace.log(&program.name),
            pid_file: workplace.pid_file(&program.name),
            directory: workplace.directory().to_path_buf(),
            child: Mutex::new(None),
            program,
        };
        process.spawn()?;
        Ok(process)
    }

    fn spawn(&self) -> Result<(), Error> {
        let what = || format!("start {}", self.program.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Error::system(format!("open {}", self.log.display())))?;
        let errors = log.try_clone().map_err(Error::system(what()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program.path)
            .args(&self.program.arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C reaches us alone, and we stop everything in order.
            .process_group(0);
        for variable in PROXY_VARIABLES {
            command.env_remove(variable);
        }
        let child = nursery::spawn(command)
            .map_err(Error::system(format!("{} (with setpriv of util-linux)", what())))?;
        fs::write(&self.pid_file, child.id().to_string())
            .map_err(Error::system(format!("write {}", self.pid_file.display())))?;
        *self.child() = Some(child);
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, to say why it failed.
    #[must_use]
    pub fn last_words(&self) -> String {
        const LINES: usize = 5;
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        format!("{} (all of it: {})", tail.join(" | "), self.log.display())
    }

    /// Its process ID while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        let running = child.as_mut()?;
        matches!(running.try_wait(), Ok(None)).then(|| running.id())
    }

    /// Whether it runs; a paused process does.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Stops it where it stands (SIGSTOP): sockets stay open and nothing answers.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<(), Error> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<(), Error> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it (SIGKILL) and returns when it is gone; no error if it was.
    ///
    /// # Errors
    /// If it is still there after ten seconds.
    pub async fn kill(&self) -> Result<(), Error> {
        if self.is_running() {
            // It may end between the look and the signal: then there is nothing to kill.
            drop(self.signal(Signal::SIGKILL));
        }
        self.gone(REAPED_WITHIN).await
    }

    /// Asks it to end (SIGTERM) and kills it when `patience` is over.
    ///
    /// # Errors
    /// If it is still there ten seconds after the kill.
    pub async fn terminate(&self, patience: Duration) -> Result<(), Error> {
        if self.is_running() {
            // A paused process would not see the request; see `kill` for a race with its end.
            drop(self.signal(Signal::SIGTERM).and_then(|()| self.signal(Signal::SIGCONT)));
        }
        match self.gone(patience).await {
            Ok(()) => Ok(()),
            Err(_) => self.kill().await,
        }
    }

    /// Kills it if it runs, and starts it anew with the same arguments and log.
    ///
    /// # Errors
    /// If it cannot be killed or started.
    pub async fn restart(&self) -> Result<(), Error> {
        self.kill().await?;
        self.spawn()
    }

    async fn gone(&self, limit: Duration) -> Result<(), Error> {
        eventually(&format!("the end of {}", self.program.name), limit, async || {
            match self.pid() {
                None => Ok(()),
                Some(pid) => Err(format!("process {pid} runs")),
            }
        })
        .await?;
        drop(fs::remove_file(&self.pid_file));
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        let name = &self.program.name;
        let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) else {
            return Err(Error::Program { what: name.clone(), said: self.last_words() });
        };
        kill(Pid::from_raw(pid), signal)
            .map_err(|errno| Error::system(format!("send {signal} to {name}"))(errno.into()))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            // Both fail only for a process that is gone already.
            drop(child.kill());
            drop(child.wait());
            drop(fs::remove_file(&self.pid_file));
        }
    }
}
