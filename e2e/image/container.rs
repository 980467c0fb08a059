//! Containers by `runc`: real rights and a real root, but the network of this machine.

use std::cell::RefCell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::layout::{Image, output};

/// An unpacked image and the folder of the containers that are made of it.
pub(super) struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// Unpacks `image` into `folder`, which only its owner may enter: tokens lie there.
    pub(super) fn unpack(image: &Image, folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("rootfs")).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        image.unpack(&folder.join("rootfs"));
        Self { folder }
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.folder.join("runc"));
        runc
    }
}

/// What is to run, and with which rights.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) user: i64,
    pub(super) group: i64,
    pub(super) read_only: bool,
    pub(super) no_new_privileges: bool,
    pub(super) capabilities: Vec<&'static str>,
    /// Files that are mounted: path and text.
    pub(super) files: Vec<(&'static str, String)>,
}

/// The image with `arguments` and nothing else.
pub(super) fn plain(arguments: &[&str]) -> Process {
    Process {
        arguments: arguments.iter().map(ToString::to_string).collect(),
        environment: vec![],
        user: 65532,
        group: 65532,
        read_only: true,
        no_new_privileges: true,
        capabilities: vec![],
        files: vec![],
    }
}

impl Process {
    fn config(&self, rootfs: &Path, folder: &Path) -> Value {
        let mut arguments = vec!["/idlewild".to_owned()];
        arguments.extend(self.arguments.iter().cloned());
        let sets = ["bounding", "effective", "inheritable", "permitted", "ambient"];
        let capabilities: serde_json::Map<_, _> =
            sets.iter().map(|set| ((*set).to_owned(), json!(self.capabilities))).collect();
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=64k"] }),
        ];
        for (path, text) in &self.files {
            let source = folder.join(path.replace('/', "_"));
            fs::write(&source, text).unwrap();
            fs::set_permissions(&source, Permissions::from_mode(0o644)).unwrap();
            mounts.push(json!({ "destination": path, "type": "bind", "source": source,
                "options": ["bind", "ro"] }));
        }
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({ "type": kind }));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": self.user, "gid": self.group },
                "args": arguments,
                "env": self.environment,
                "cwd": "/",
                "capabilities": capabilities,
                "noNewPrivileges": self.no_new_privileges,
            },
            "root": { "path": rootfs, "readonly": self.read_only },
            "mounts": mounts,
            "linux": { "namespaces": namespaces },
        })
    }
}

/// Runs `process` to its end: its exit code and what it said.
pub(super) fn run(bundle: &Bundle, process: &Process) -> (i32, String) {
    let container = Container::start(bundle, process);
    let status = container.runc.borrow_mut().wait().unwrap();
    (status.code().unwrap_or(-1), container.log())
}

/// A running container; it goes when its handle does.
pub(super) struct Container<'a> {
    bundle: &'a Bundle,
    name: String,
    folder: PathBuf,
    runc: RefCell<Child>,
}

impl<'a> Container<'a> {
    pub(super) fn start(bundle: &'a Bundle, process: &Process) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("idlewild-{}-{number}", std::process::id());
        let folder = bundle.folder.join(&name);
        fs::create_dir_all(&folder).unwrap();
        let config = process.config(&bundle.folder.join("rootfs"), &folder);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let mut runc = bundle.runc();
        runc.arg("run").arg("--bundle").arg(&folder).arg("--pid-file").arg(folder.join("pid"));
        runc.arg(&name).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let runc = runc.spawn().unwrap_or_else(|error| panic!("runc (make packages): {error}"));
        Self { bundle, name, folder, runc: RefCell::new(runc) }
    }

    /// What it wrote.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// # Panics
    /// If it has ended: waiting for more is in vain.
    pub(super) fn assert_running(&self) {
        let ended = self.runc.borrow_mut().try_wait().unwrap();
        assert!(ended.is_none(), "ended with {ended:?}: {}", self.log());
    }

    /// Its exit code.
    pub(super) fn ended(&self) -> Result<i32, String> {
        let ended = self.runc.borrow_mut().try_wait().unwrap();
        ended.and_then(|status| status.code()).ok_or_else(|| format!("it runs: {}", self.log()))
    }

    /// What the kernel says of its rights.
    pub(super) fn assert_without_rights(&self, user: u32) {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap();
        let proc = Path::new("/proc").join(pid.trim());
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>()
        };
        for name in ["Uid:", "Gid:"] {
            assert_eq!(field(name), vec![user.to_string(); 4], "{name}");
        }
        for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(name), ["0000000000000000"], "{name}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.split(' ').nth(5).unwrap().starts_with("ro,"), "{root}");
    }

    /// SIGTERM to its first process, as a kubelet ends a container.
    pub(super) fn terminate(&self) {
        output(self.bundle.runc().args(["kill", &self.name, "TERM"]));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // One that has ended is deleted already, which `--force` does not mind.
        drop(self.bundle.runc().args(["delete", "--force", &self.name]).output());
        drop(self.runc.borrow_mut().wait());
    }
}
