//! The directory of one sandbox: its lock, logs and pid files, and the clean-up after a crash.
//!
//! Invariant: one sandbox in a directory at a time; what an earlier one left there is gone before a
//! new one starts.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::Error;
use super::wait::eventually;

/// How long somebody else's lock is believed to be a passing one.
const LOCKED_WITHIN: Duration = Duration::from_secs(1);

/// A directory that this sandbox holds until the value is dropped.
#[derive(Debug)]
pub struct Workplace {
    directory: PathBuf,
    _lock: File,
}

impl Workplace {
    /// Takes `directory`: creates it, locks it, kills what a crashed sandbox left, empties it.
    ///
    /// # Errors
    /// [`Error::Occupied`] if a sandbox runs there; otherwise if the file system refuses.
    pub async fn take(directory: &Path) -> Result<Self, Error> {
        let what = || format!("prepare {}", directory.display());
        fs::create_dir_all(directory).map_err(Error::system(what()))?;
        let directory = directory.canonicalize().map_err(Error::system(what()))?;
        let lock = File::create(directory.join("lock")).map_err(Error::system(what()))?;
        // A child holds the lock too for the moment between its start and its exec.
        let locked = eventually("the lock", LOCKED_WITHIN, async || match lock.try_lock() {
            Ok(()) => Ok(Ok(())),
            Err(TryLockError::WouldBlock) => Err("it is held".into()),
            Err(TryLockError::Error(source)) => Ok(Err(source)),
        });
        match locked.await {
            Ok(answer) => answer.map_err(Error::system(what()))?,
            Err(_) => return Err(Error::Occupied { directory }),
        }
        let workplace = Self { directory, _lock: lock };
        workplace.kill_leftovers().await?;
        workplace.empty().map_err(Error::system(what()))?;
        Ok(workplace)
    }

    /// The directory, absolute.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The log of the process `name`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// The pid file of the process `name`.
    #[must_use]
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.directory.join("pids").join(format!("{name}.pid"))
    }

    /// Removes the API servers' data, which is large; logs and kubeconfigs stay to be read.
    pub(super) fn remove_data(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            // A cluster without data has nothing to remove.
            drop(fs::remove_dir_all(entry.path().join("etcd")));
        }
    }

    async fn kill_leftovers(&self) -> Result<(), Error> {
        let Ok(entries) = fs::read_dir(self.directory.join("pids")) else { return Ok(()) };
        let pids: Vec<i32> = entries
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok()?.trim().parse().ok())
            .filter(|pid| self.is_ours(*pid))
            .collect();
        for pid in &pids {
            // It may have ended since: then there is nothing to kill.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        eventually(
            "the end of processes of an earlier sandbox",
            Duration::from_secs(10),
            async || match pids.iter().find(|pid| self.is_ours(**pid)) {
                None => Ok(()),
                Some(pid) => Err(format!("process {pid} runs")),
            },
        )
        .await
    }

    /// Process IDs are used again: ours name this directory in their arguments.
    fn is_ours(&self, pid: i32) -> bool {
        let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let directory = format!("{}/", self.directory.display());
        String::from_utf8_lossy(&arguments).contains(&directory)
    }

    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name() == "lock" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        fs::create_dir(self.directory.join("logs"))?;
        fs::create_dir(self.directory.join("pids"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn directory(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("idlewild-workplace-{name}-{}", std::process::id()))
    }

    #[tokio::test]
    async fn processes_and_files_of_a_crashed_sandbox_are_gone_and_others_are_left_alone() {
        let directory = directory("crash");
        let workplace = Workplace::take(&directory).await.unwrap();
        // A shell that names a file of the directory in its arguments, as all our programs do, and
        // one whose process ID merely stands in an old pid file.
        let argument = directory.join("etcd").display().to_string();
        let start = |argument: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "while :; do sleep 1; done", argument]).stdin(Stdio::null());
            shell.process_group(0).spawn().unwrap()
        };
        let (mut ours, mut other) = (start(&argument), start("other"));
        fs::write(workplace.pid_file("etcd"), ours.id().to_string()).unwrap();
        fs::write(workplace.pid_file("other"), other.id().to_string()).unwrap();
        fs::write(directory.join("rubbish"), "").unwrap();
        drop(workplace);

        let reaper = std::thread::spawn(move || ours.wait().unwrap());
        let workplace = Workplace::take(&directory).await.unwrap();
        assert!(!reaper.join().unwrap().success(), "ours was killed");
        assert!(other.try_wait().unwrap().is_none(), "the other still runs");
        assert!(!directory.join("rubbish").exists());
        assert!(directory.join("logs").is_dir());
        other.kill().unwrap();
        other.wait().unwrap();
        drop(workplace);
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_directory_serves_one_sandbox_at_a_time() {
        let directory = directory("lock");
        let workplace = Workplace::take(&directory).await.unwrap();
        let second = Workplace::take(&directory).await;
        assert!(matches!(second, Err(Error::Occupied { .. })), "{second:?}");
        drop(workplace);
        Workplace::take(&directory).await.unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}
