//! An OCI layout as a registry would read it: by digest.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The image of `make image`, whose blobs are what their names say.
pub(super) struct Image {
    /// Settings for whoever runs it.
    pub(super) config: Value,
    /// Its one layer, unpacked: a tar.
    pub(super) layer: Vec<u8>,
    /// The layer as it is transferred.
    blob: PathBuf,
}

impl Image {
    /// # Panics
    /// If there is none, or a blob is not what its descriptor says.
    pub(super) fn open() -> Self {
        let folder = super::folder();
        let oci = folder.join("oci");
        let text = std::fs::read_to_string(oci.join("index.json"))
            .unwrap_or_else(|error| panic!("{}: {error}: run make image", oci.display()));
        let index: Value = serde_json::from_str(&text).unwrap();
        let path = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            oci.join("blobs").join(digest.replace(':', "/"))
        };
        let blob = |descriptor: &Value| {
            let bytes = std::fs::read(path(descriptor)).unwrap();
            assert_eq!(descriptor["size"], bytes.len(), "{descriptor}");
            assert_eq!(descriptor["digest"], format!("sha256:{}", digest(&bytes)));
            bytes
        };
        let shown = std::fs::read_to_string(folder.join("digest")).unwrap();
        assert_eq!(index["manifests"][0]["digest"], shown.trim());
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1, "{manifest}");
        blob(&layers[0]);
        let zipped = path(&layers[0]);
        let layer = Command::new("gzip").arg("-dc").arg(&zipped).output().unwrap().stdout;
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&layer)));
        Self { config, layer, blob: zipped }
    }

    /// Bytes of the layer as it is transferred.
    pub(super) fn compressed(&self) -> u64 {
        self.blob.metadata().unwrap().len()
    }

    /// What is in the layer, one line a file.
    pub(super) fn listing(&self) -> String {
        output(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&self.blob))
    }

    /// The program.
    pub(super) fn binary(&self) -> Vec<u8> {
        let mut tar = Command::new("tar");
        tar.arg("-xzOf").arg(&self.blob).arg("idlewild").output().unwrap().stdout
    }

    /// Unpacks the layer into `root`.
    pub(super) fn unpack(&self, root: &std::path::Path) {
        output(Command::new("tar").arg("-xzf").arg(&self.blob).arg("-C").arg(root));
    }

    /// The text of a file beside the image.
    #[allow(clippy::unused_self, reason = "whoever has an image knows that it was made")]
    pub(super) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(super::folder().join(name)).unwrap()
    }
}

/// What `command` prints.
///
/// # Panics
/// If it fails.
pub(super) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Whether `text` is somewhere in `bytes`.
pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The loader that a 64-bit ELF program asks for (`PT_INTERP`); a static one asks for none.
pub(super) fn interpreter(program: &[u8]) -> Option<String> {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, length: usize| {
        let bytes = &program[at..at + length];
        usize::try_from(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
            .expect("64 bits")
    };
    assert_eq!(&program[..5], b"\x7fELF\x02", "not a 64-bit program");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let headers = (0..count).map(|index| table + index * size);
    let header = headers.into_iter().find(|at| number(*at, 4) == INTERPRETER as usize)?;
    let (offset, length) = (number(header + 8, 8), number(header + 32, 8));
    Some(String::from_utf8_lossy(&program[offset..offset + length]).into_owned())
}

/// The folders of crates that messages in `program` name: `/crates/NAME-VERSION/`.
pub(super) fn crates_named_in(program: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(program);
    let folders = text.split("/crates/").skip(1);
    folders.filter_map(|rest| rest.split_once("/src/")).map(|(name, _)| name.to_owned()).collect()
}
