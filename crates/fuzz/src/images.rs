//! Images from strangers: layers, archives with their manifests and configurations.

use image::{Digest, ImageStore, Options, Platform, UnpackLimits};
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;

/// What an input may cost us: bombs must end.
const LIMITS: UnpackLimits = UnpackLimits { bytes: 1 << 20, entries: 200 };

fn tar(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_size(0);
            builder.append_link(&mut header, name, String::from_utf8_lossy(content).as_ref()).expect("memory");
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).expect("memory");
        }
    }
    builder.into_inner().expect("memory")
}

/// What must be as it was, whatever is unpacked beside it.
fn beside_a_canary(run: impl FnOnce(&Path)) {
    // In memory, if there is such a place: what is synced here is lost anyway.
    let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a temporary directory");
    std::fs::write(dir.path().join("canary"), "alive").expect("a file");
    run(dir.path());
    assert_eq!(std::fs::read(dir.path().join("canary")).expect("the canary"), b"alive");
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.retain(|name| !matches!(name.as_str(), "canary" | "store" | "input"));
    assert!(names.is_empty(), "new beside the store: {names:?}");
}

/// An import is images, or an error that leaves nothing.
fn import(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let options = Options { limits: LIMITS, ..Options::default() };
        let store = ImageStore::open(&dir.join("store"), options).expect("a new store");
        match store.import(&dir.join("input")).await {
            Ok(images) => images.iter().for_each(|image| drop(store.files(image).read("etc/passwd"))),
            Err(_) => assert!(store.list().is_empty()),
        }
        store.prune(|_| false).await.expect("everything may go");
        assert_eq!(store.disk_usage().expect("readable"), 0);
    });
}

pub(crate) fn layer_seeds() -> Vec<Vec<u8>> {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    vec![
        tar(&[("etc/", Directory, b""), ("etc/passwd", Regular, b"root:x:0:0::/:\n"), ("etc/.wh.group", Regular, b"")]),
        tar(&[("a", Symlink, b"/b"), ("b/c", Regular, b"x"), ("d", Link, b"b/c"), ("b/.wh..wh..opq", Regular, b"")]),
        tar(&[("up", Symlink, b"../../.."), ("up/canary", Regular, b"dead"), (&"n".repeat(150), Regular, b"long")]),
    ]
}

/// A layer unpacks into its own directory or not at all.
pub(crate) fn layer(input: &[u8]) {
    beside_a_canary(|dir| {
        let root = dir.join("input");
        let blobs = root.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("a directory");
        let put = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            std::fs::write(blobs.join(digest.hex()), bytes).expect("a file");
            json!({"digest": digest, "size": bytes.len()})
        };
        let mut layer = put(input);
        let config = json!({"architecture": Platform::host().architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
        let mut config = put(config.to_string().as_bytes());
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": [layer]});
        let mut manifest = put(manifest.to_string().as_bytes());
        manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
        manifest["annotations"] = json!({"io.containerd.image.name": "docker.io/library/x:1"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        std::fs::write(root.join("index.json"), index.to_string()).expect("a file");
        std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        import(dir);
    });
}

pub(crate) fn archive_seeds() -> Vec<Vec<u8>> {
    use tar::EntryType::{Regular, Symlink};
    let layer = tar(&[("etc/passwd", Regular, b"root:x:0:0::/:\n")]);
    let config = json!({"architecture": Platform::host().architecture, "os": "linux",
        "config": {"Entrypoint": ["/run"], "Env": ["A=b"], "User": "web", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}})
    .to_string();
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l/layer.tar"]}]"#;
    let all = [
        ("manifest.json", Regular, manifest.as_bytes()),
        ("c.json", Regular, config.as_bytes()),
        ("l/layer.tar", Regular, layer.as_slice()),
    ];
    let linked =
        [all[0], all[1], ("l/layer.tar", Symlink, b"../m/layer.tar"), ("m/layer.tar", Regular, layer.as_slice())];
    vec![tar(&all), tar(&linked)]
}

/// Whatever is in an archive, it is images or an error.
pub(crate) fn archive(input: &[u8]) {
    beside_a_canary(|dir| {
        std::fs::write(dir.join("input"), input).expect("a file");
        import(dir);
    });
}
