//! What the tests of images share: layers, images in files, a real registry, and proxies that misbehave.

#![expect(dead_code, reason = "every test binary uses its part")]

use image::{Digest, ImageStore, Options, Registries};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tempfile::TempDir;

/// A layer's tar: names that end with `/` are directories.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        let directory = name.ends_with('/');
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn architecture() -> String {
    image::Platform::host().architecture
}

/// An image as files of an OCI layout.
pub(crate) struct Layout {
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    pub(crate) manifest: Digest,
    pub(crate) manifest_size: usize,
}

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Layers with how they are compressed: "", "+gzip" or "+zstd".
pub(crate) fn layout(layers: &[(&str, Vec<u8>)]) -> Layout {
    let mut blobs = Vec::new();
    let mut add = |bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        blobs.push((digest.clone(), bytes));
        (digest, size)
    };
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for (compression, tar) in layers {
        diff_ids.push(Digest::of(tar));
        let (digest, size) = add(match *compression {
            "+gzip" => gzip(tar),
            "+zstd" => zstd(tar),
            _ => tar.clone(),
        });
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{compression}");
        descriptors.push(serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}));
    }
    let config = serde_json::json!({"architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": ["/run"], "Cmd": ["arg"], "Env": ["A=b"], "User": "web", "WorkingDir": "/srv",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "StopSignal": "SIGQUIT"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let (config, config_size) = add(config.to_string().into_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": descriptors});
    let (manifest, manifest_size) = add(manifest.to_string().into_bytes());
    Layout { blobs, manifest, manifest_size }
}

impl Layout {
    /// As a directory; `name` goes into containerd's annotation.
    pub(crate) fn write(&self, dir: &Path, name: &str) {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        }
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST,
            "digest": self.manifest, "size": self.manifest_size, "annotations": {"io.containerd.image.name": name}}]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// A tar of a directory.
pub(crate) fn tar_of(dir: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", dir).unwrap();
    tar.into_inner().unwrap()
}

pub(crate) fn store(dir: &Path) -> ImageStore {
    ImageStore::open(dir, Options::default()).unwrap()
}

pub(crate) fn store_with(dir: &Path, registries: serde_json::Value) -> ImageStore {
    let registries: Registries = serde_json::from_value(registries).unwrap();
    ImageStore::open(dir, Options { registries, ..Options::default() }).unwrap()
}

/// What a container of these lower directories (top first) would see of a file.
pub(crate) fn file_in(lower: &[PathBuf], path: &str) -> Option<String> {
    image::Merged::new(lower.to_vec()).read(path).unwrap()
}

/// Debian's docker-registry on a port of its choice.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: SocketAddr,
    _dir: TempDir,
}

impl Registry {
    /// `auth` is a piece of its configuration, in which `DIR` is a directory of its own.
    #[expect(clippy::disallowed_methods, reason = "a test may start a real registry")]
    pub(crate) fn start(auth: &str, files: &[(&str, &str)]) -> Registry {
        let dir = TempDir::new().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let root = dir.path().display().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {root}/data}}\nhttp:\n  addr: 127.0.0.1:0\n{}",
            auth.replace("DIR", &root)
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut child = std::process::Command::new("/usr/bin/docker-registry")
            .args(["serve".as_ref(), file.as_os_str()])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("install Debian's docker-registry to run this test");
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "docker-registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':'))).unwrap_or(rest.len());
                break rest[..end].parse().unwrap();
            }
        };
        // Nobody reads the rest; a full pipe must not stop it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Registry { child, address, _dir: dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The named test of this program as a process of its own, in `dir`.
#[expect(clippy::disallowed_methods, reason = "a test may start and kill itself")]
pub(crate) fn this_test(name: &str, dir: &Path) -> Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Files and directories, relative; what vanishes meanwhile is left out.
pub(crate) fn paths_below(root: &Path) -> Vec<String> {
    let mut open = vec![root.to_owned()];
    let mut out = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            out.push(entry.path().strip_prefix(root).unwrap().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    out
}
