//! Every command in the guides, run as the person that it is written for.
//!
//! A block opens with its role and its place in the whole: a line of `sh owner:30` after the
//! backticks. All guides together are one story; what no kubelet here can do, starting the pods of
//! our own Deployments, the test does in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use idlewild::sandbox::{Federation, OPERATOR, OWNER, USER};

use crate::harness::{control_planes, fresh, member};

const GUIDES: [&str; 3] = ["run-a-hub.md", "lend-your-gpus.md", "submit-jobs.md"];
const MEMBER: &str = "uni-north";

/// One block of commands.
struct Block {
    role: String,
    text: String,
    /// Where it stands, for whoever must repair it.
    place: String,
}

/// All blocks by their place in the story.
fn blocks() -> BTreeMap<u32, Block> {
    let mut blocks = BTreeMap::new();
    for guide in GUIDES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(guide);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().enumerate();
        while let Some((line, opening)) = lines.next() {
            let place = format!("{guide}:{}", line + 1);
            let Some(info) = opening.strip_prefix("```") else { continue };
            let body: Vec<_> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let step = info.strip_prefix("sh ").and_then(|step| step.split_once(':'));
            let Some((role, number)) = step else {
                panic!("{place}: a block must say who runs it and when, such as ```sh owner:30");
            };
            let block = Block { role: role.into(), text: body.join("\n"), place: place.clone() };
            let taken = blocks.insert(number.parse().unwrap(), block);
            assert!(taken.is_none(), "{place}: step {number} stands twice");
        }
    }
    blocks
}

/// Where `kubectl`, `helm`, `idlewild` and its plugin are found.
fn programs(directory: &Path, federation: &Federation) -> PathBuf {
    let bin = directory.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let idlewild = &federation.settings.idlewild;
    for name in ["idlewild", "kubectl-idlewild"] {
        drop(std::fs::remove_file(bin.join(name)));
        std::os::unix::fs::symlink(idlewild, bin.join(name)).unwrap();
    }
    bin
}

/// Runs `block` as its person; what it printed, if it went wrong, is in the panic.
fn run(block: &Block, federation: &Federation, directory: &Path) {
    let hub = &federation.hub.cluster;
    let kubeconfig = match block.role.as_str() {
        "admin" => Ok(hub.admin_kubeconfig.clone()),
        "operator" => hub.kubeconfig_for(OPERATOR),
        "user" => hub.kubeconfig_for(USER),
        "owner" => federation.members[MEMBER].cluster.kubeconfig_for(OWNER),
        role => panic!("{}: there is no {role} here", block.place),
    };
    let programs = programs(directory, federation);
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{}:{path}", programs.display(), federation.settings.binaries.display());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block.text])
        .current_dir(directory)
        .env("PATH", path)
        .env("KUBECONFIG", kubeconfig.unwrap())
        .env("HOME", directory)
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (said(&output.stdout), said(&output.stderr));
    println!("{} ({})\n{printed}", block.place, block.role);
    assert!(output.status.success(), "{}:\n{}\n{printed}{errors}", block.place, block.text);
}

#[test]
fn every_command_of_the_guides_works_in_their_order() {
    let settings = control_planes("guides", vec![member(MEMBER, 2, 8)]);
    fresh(&settings, async |federation| {
        let directory = federation.settings.dir.join("person");
        std::fs::create_dir_all(&directory).unwrap();
        drop(std::fs::remove_file(directory.join("charts")));
        std::os::unix::fs::symlink(&federation.settings.charts, directory.join("charts")).unwrap();
        for (number, block) in blocks() {
            run(&block, federation, &directory);
            match number {
                10 => federation.serve_hub().await.unwrap(),
                20 => federation.serve_member(MEMBER).await.unwrap(),
                _ => {}
            }
        }
    });
}
