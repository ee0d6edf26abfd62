//! The image store without a network: import, export, names, root file systems, collection, crashes.

mod support;

use image::{ImageError, Reference, ResolvedUser};
use std::path::Path;
use support::{file_in, layer, layout, store, tar_of};
use tempfile::TempDir;

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Three layers in three compressions, the last with a whiteout.
fn three_layers() -> support::Layout {
    let bottom = layer(&[
        ("etc/", ""),
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\n"),
        ("etc/group", "adm:x:4:web\n"),
        ("gone", "1"),
    ]);
    layout(&[
        ("", bottom),
        ("+gzip", layer(&[("etc/motd", "hello"), ("run", "#!")])),
        ("+zstd", layer(&[("etc/.wh.motd", ""), (".wh.gone", ""), ("new", "2")])),
    ])
}

async fn imported(dir: &Path) -> (image::ImageStore, std::sync::Arc<image::Image>) {
    three_layers().write(&dir.join("layout"), "example.com/web:1");
    let store = store(&dir.join("store"));
    let images = store.import(&dir.join("layout")).await.unwrap();
    assert_eq!(images.len(), 1);
    (store, images[0].clone())
}

#[tokio::test]
async fn oci_layout_directory_is_imported_and_stacked() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    assert_eq!(image.names, ["example.com/web:1"]);
    assert_eq!((image.layers.len(), image.config.entrypoint[0].as_str()), (3, "/run"));
    assert_eq!((&*image.config.volumes, &*image.config.exposed_ports), (&["/data".into()][..], &["80/tcp".into()][..]));

    let mount = store.prepare("c1", &image).await.unwrap();
    assert_eq!(mount.lower.len(), 3);
    assert_eq!(file_in(&mount.lower, "/new").as_deref(), Some("2"));
    assert_eq!(file_in(&mount.lower, "/run").as_deref(), Some("#!"));
    assert_eq!(file_in(&mount.lower, "/etc/motd"), None, "whited out");
    assert_eq!(file_in(&mount.lower, "/gone"), None, "whited out");
    assert_eq!(store.prepare("c1", &image).await.unwrap(), mount, "again is the same");
    assert!(mount.upper.is_dir() && mount.work.is_dir());

    let user = image::resolve_user(&store.files(&image), "web").unwrap();
    let expected = ResolvedUser { uid: 33, gid: 33, groups: vec![4], name: Some("web".into()), home: "/srv".into() };
    assert_eq!(user, expected);
}

#[tokio::test]
async fn overlayfs_takes_what_prepare_says() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    let mount = store.prepare("c1", &image).await.unwrap();
    let lower: Vec<String> = mount.lower.iter().map(|dir| dir.display().to_string()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), mount.upper.display(), mount.work.display());
    // In a mount namespace that ends with the command.
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let script = format!(
        "mount -t overlay overlay -o {options} {0} && cd {0} && ls -A . etc && cat new && echo w > etc/group",
        root.display()
    );
    let shown = unshared(&script);
    assert_eq!(shown, ".:\netc\nnew\nrun\n\netc:\ngroup\npasswd\n2");
    assert_eq!(std::fs::read_to_string(mount.upper.join("etc/group")).unwrap(), "w\n");
    assert!(file_in(&mount.lower, "/etc/group").unwrap().starts_with("adm"));
}

#[expect(clippy::disallowed_methods, reason = "a test may use the host's mount")]
fn unshared(script: &str) -> String {
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "needs root: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn export_and_import_round_trip() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    store.tag("example.com/web:1", &reference("other")).unwrap();
    let tar = dir.path().join("image.tar");
    store.export(&[image.id.to_string()], std::fs::File::create(&tar).unwrap()).await.unwrap();
    let again = support::store(&dir.path().join("again"));
    let images = again.import(&tar).await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!((&images[0].id, &images[0].manifest), (&image.id, &image.manifest));
    assert_eq!(images[0].names, ["docker.io/library/other:latest", "example.com/web:1"]);
    let one = dir.path().join("one.tar");
    store.export(&["other".into()], std::fs::File::create(&one).unwrap()).await.unwrap();
    let third = support::store(&dir.path().join("third"));
    assert_eq!(third.import(&one).await.unwrap()[0].names, ["docker.io/library/other:latest"]);
}

/// The format of `docker save` before version 25: directories per layer, links between equal layers, no OCI files.
#[tokio::test]
async fn old_docker_save_is_imported_also_compressed() {
    let dir = TempDir::new().unwrap();
    let layers = [layer(&[("a", "1")]), layer(&[("b", "2")])];
    let diff_ids: Vec<_> = [0, 1, 0].iter().map(|i: &usize| image::Digest::of(&layers[*i])).collect();
    let config = serde_json::json!({"architecture": support::architecture(), "os": "linux", "config": null,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8], kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        if kind.is_symlink() {
            header.set_size(0);
            tar.append_link(&mut header, name, std::str::from_utf8(bytes).unwrap()).unwrap();
        } else {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
        }
    };
    add("one/layer.tar", &layers[0], tar::EntryType::Regular);
    add("two/layer.tar", &layers[1], tar::EntryType::Regular);
    add("three/layer.tar", b"../one/layer.tar", tar::EntryType::Symlink);
    add("config.json", config.to_string().as_bytes(), tar::EntryType::Regular);
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["old:1", "quay.io/old/one:2"],
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"]}]);
    add("manifest.json", manifest.to_string().as_bytes(), tar::EntryType::Regular);
    let file = dir.path().join("old.tar.gz");
    std::fs::write(&file, support::gzip(&tar.into_inner().unwrap())).unwrap();

    let store = store(&dir.path().join("store"));
    let images = store.import(&file).await.unwrap();
    assert_eq!(images[0].names, ["docker.io/library/old:1", "quay.io/old/one:2"]);
    let mount = store.prepare("c", &images[0]).await.unwrap();
    assert_eq!(mount.lower.len(), 2, "overlayfs refuses one directory twice");
    assert_eq!(file_in(&mount.lower, "a").as_deref(), Some("1"));
    assert_eq!(file_in(&mount.lower, "b").as_deref(), Some("2"));
}

#[tokio::test]
async fn bad_archives_are_refused_and_leave_nothing() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir.path().join("store"));
    let refuse = async |name: &str, bytes: Vec<u8>| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let error = store.import(&file).await.unwrap_err();
        base::chain(&error).replace(&dir.path().display().to_string(), "DIR")
    };
    let text = refuse("empty.tar", layer(&[("x", "y")])).await;
    assert_eq!(
        text,
        "DIR/empty.tar is not a valid image: it has neither index.json (OCI layout) nor manifest.json (docker save)"
    );
    let text = refuse("text", b"this is not a tar at all".repeat(100)).await;
    assert!(text.starts_with("DIR/text is not a valid image"), "{text}");
    let names = r#"[{"Config":"../../etc/passwd","RepoTags":[],"Layers":[]}]"#;
    let text = refuse("escape.tar", layer(&[("manifest.json", names)])).await;
    assert_eq!(text, r#"DIR/escape.tar is not a valid image: the name "../../etc/passwd" leads out of it"#);

    let good = three_layers();
    let swap = |bytes: &[u8]| {
        let out = dir.path().join("swapped");
        good.write(&out, "x:1");
        std::fs::write(out.join("blobs/sha256").join(good.blobs[1].0.hex()), bytes).unwrap();
        tar_of(&out)
    };
    let text = refuse("changed.tar", swap(b"something else")).await;
    assert!(text.contains("is not what it should be") && text.contains(&good.blobs[1].0.to_string()), "{text}");

    let mut liar = layout(&[("", layer(&[("a", "1")]))]);
    let other = layer(&[("a", "2")]);
    let manifest = String::from_utf8(liar.blobs[2].1.clone()).unwrap();
    let manifest = manifest.replace(&liar.blobs[0].0.to_string(), &image::Digest::of(&other).to_string());
    liar.blobs[0] = (image::Digest::of(&other), other);
    liar.manifest = image::Digest::of(manifest.as_bytes());
    liar.manifest_size = manifest.len();
    liar.blobs[2] = (liar.manifest.clone(), manifest.into_bytes());
    let out = dir.path().join("liar");
    liar.write(&out, "liar:1");
    let text = refuse("liar.tar", tar_of(&out)).await;
    assert!(text.contains("layer unpacks to") && text.contains("instead of"), "{text}");

    let escape = layout(&[("", hostile())]);
    let out = dir.path().join("hostile");
    escape.write(&out, "hostile:1");
    let text = refuse("hostile.tar", tar_of(&out)).await;
    assert!(text.contains(r#"layer entry "../../evil" would escape the image"#), "{text}");

    assert!(store.list().is_empty());
    store.prune(|_| true).await.unwrap();
    assert_eq!(store.disk_usage().unwrap(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0);
}

fn hostile() -> Vec<u8> {
    let mut bytes = layer(&[("aa/aa/evil", "x")]);
    bytes[..10].copy_from_slice(b"../../evil");
    let sum: u32 =
        bytes[..512].iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

#[tokio::test]
async fn names_move_and_images_are_found_by_all_of_them() {
    let dir = TempDir::new().unwrap();
    let (store, first) = imported(dir.path()).await;
    layout(&[("", layer(&[("x", "x")]))]).write(&dir.path().join("second"), "second:1");
    let second = store.import(&dir.path().join("second")).await.unwrap()[0].clone();
    assert_eq!(store.list().len(), 2);
    let hex = first.id.hex();
    for text in ["example.com/web:1", &first.id.to_string(), &hex, &hex[..12], &first.manifest.digest.to_string()] {
        assert_eq!(store.find(text).map(|found| found.id.clone()).as_ref(), Some(&first.id), "{text}");
    }
    assert_eq!(store.find("second:1").unwrap().id, second.id);
    assert!(store.find("second").is_none(), "that is second:latest");
    store.tag("second:1", &reference("example.com/web:1")).unwrap();
    assert_eq!(store.find("example.com/web:1").unwrap().id, second.id);
    assert!(store.find(&hex).unwrap().names.is_empty());
    let error = store.inspect("none").unwrap_err();
    assert_eq!(error.to_string(), "image none is not on this node: pull or import it");
}

#[tokio::test]
async fn removal_frees_what_nobody_needs() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    store.tag("example.com/web:1", &reference("alias")).unwrap();
    store.prepare("c1", &image).await.unwrap();
    let removed = store.remove("alias").await.unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 0));
    let error = store.remove("example.com/web:1").await.unwrap_err();
    assert_eq!(error.to_string(), "image example.com/web:1 is used by container c1: remove the container first");
    assert_eq!(store.prune(|_| false).await.unwrap().deleted.len(), 0, "a container uses it");
    store.remove_snapshot("c1").await.unwrap();
    store.remove_snapshot("c1").await.unwrap();
    let removed = store.remove("example.com/web:1").await.unwrap();
    assert_eq!(removed.deleted.as_slice(), std::slice::from_ref(&image.id));
    assert!(removed.bytes > 0);
    assert_eq!(store.disk_usage().unwrap(), 0);
    assert!(matches!(store.remove("example.com/web:1").await, Err(ImageError::NotFound(_))));
}

#[tokio::test]
async fn images_and_root_file_systems_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    let mount = store.prepare("c1", &image).await.unwrap();
    std::fs::write(mount.upper.join("written"), "by the container").unwrap();
    let refused = image::ImageStore::open(&dir.path().join("store"), image::Options::default()).map(drop).unwrap_err();
    assert!(matches!(refused, ImageError::StoreInUse { .. }), "{refused}");
    wait_for_release(store, &dir.path().join("store")).await;

    let root = dir.path().join("store");
    // What kill -9 may leave: half a download, half a layer, half a snapshot, a new index that was not named yet.
    std::fs::write(root.join("ingest/7.tmp"), "half").unwrap();
    std::fs::create_dir_all(root.join("layers/zz.tmp/fs/x")).unwrap();
    std::fs::create_dir_all(root.join("snapshots/.c2/upper")).unwrap();
    std::fs::create_dir_all(root.join("trash/old/x")).unwrap();
    std::fs::write(root.join("images.new"), "half").unwrap();
    let store = support::store(&root);
    assert_eq!(store.list().as_slice(), std::slice::from_ref(&image));
    assert_eq!(store.prepare("c1", &image).await.unwrap(), mount);
    assert_eq!(std::fs::read_to_string(mount.upper.join("written")).unwrap(), "by the container");
    for (dir, left) in [("ingest", 0), ("layers", 3), ("snapshots", 1), ("trash", 0)] {
        assert_eq!(std::fs::read_dir(root.join(dir)).unwrap().count(), left, "{dir}");
    }
}

/// The last clone may be with the task that syncs, which needs this runtime to end.
async fn wait_for_release(store: image::ImageStore, root: &Path) {
    drop(store);
    let lock = std::fs::File::open(root.join("LOCK")).unwrap();
    tokio::task::spawn_blocking(move || lock.lock()).await.unwrap().unwrap();
}

/// Two layers that take a while to unpack.
fn large_layers() -> support::Layout {
    let files = |from: usize| -> Vec<(String, String)> {
        (from..from + 400).map(|n| (format!("f{n}"), n.to_string().repeat(500))).collect()
    };
    let layer_of = |files: &[(String, String)]| {
        let borrowed: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        layer(&borrowed)
    };
    layout(&[("+gzip", layer_of(&files(0))), ("", layer_of(&files(400)))])
}

#[tokio::test]
#[ignore = "is the process that `a_store_is_whole_whenever_its_process_is_killed` kills"]
async fn imports_in_the_current_directory() {
    // Run by hand it has nothing to do.
    if Path::new("layout").exists() {
        store(Path::new("store")).import(Path::new("layout")).await.unwrap();
    }
}

#[tokio::test]
async fn a_store_is_whole_whenever_its_process_is_killed() {
    type Moment = fn(&str) -> bool;
    let moments: [Moment; 4] = [
        |name| name == "LOCK",
        |name| name.ends_with(".tmp"),
        |name| name.ends_with("/f300"),
        // The first layer is whole.
        |name| name.ends_with("/layer.json"),
    ];
    for reached in moments {
        let dir = TempDir::new().unwrap();
        large_layers().write(&dir.path().join("layout"), "example.com/large:1");
        let root = dir.path().join("store");
        let mut other = support::this_test("imports_in_the_current_directory", dir.path());
        while !support::paths_below(&root).iter().any(|path| reached(path)) {
            // Too fast for us.
            let Some(status) = other.try_wait().unwrap() else { continue };
            assert!(status.success());
            break;
        }
        other.kill().unwrap();
        other.wait().unwrap();
        let store = store(&root);
        assert!(!support::paths_below(&root).iter().any(|path| path.ends_with(".tmp")), "half a layer is left");
        let image = store.import(&dir.path().join("layout")).await.unwrap().remove(0);
        let mount = store.prepare("c", &image).await.unwrap();
        for n in [0, 399, 400, 799] {
            assert_eq!(file_in(&mount.lower, &format!("f{n}")), Some(n.to_string().repeat(500)));
        }
        assert_eq!(mount.lower.len(), 2);
    }
}

#[tokio::test]
async fn layers_that_a_power_cut_may_have_emptied_are_made_again() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    let mount = store.prepare("c1", &image).await.unwrap();
    let root = dir.path().join("store");
    wait_for_release(store, &root).await;
    // Another boot, no sync, files empty.
    for layer in std::fs::read_dir(root.join("layers")).unwrap().map(|entry| entry.unwrap().path()) {
        drop(std::fs::remove_file(layer.join("synced")));
        let record = std::fs::read_to_string(layer.join("layer.json")).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["bootId"] = "another".into();
        std::fs::write(layer.join("layer.json"), record.to_string()).unwrap();
    }
    std::fs::write(mount.lower[0].join("new"), "").unwrap();
    let store = support::store(&root);
    let again = store.prepare("c1", &image).await.unwrap();
    assert_eq!(file_in(&again.lower, "new").as_deref(), Some("2"));
    assert_eq!(again.upper, mount.upper);
}

#[tokio::test]
async fn unlisted_directories_look_like_what_they_cover() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = TempDir::new().unwrap();
    let bottom = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o1777);
        header.set_uid(12);
        header.set_size(0);
        tar.append_data(&mut header, "tmp", &[][..]).unwrap();
        tar.into_inner().unwrap()
    };
    layout(&[("", bottom), ("", layer(&[("tmp/x", "1")]))]).write(&dir.path().join("layout"), "x:1");
    let store = store(&dir.path().join("store"));
    let image = store.import(&dir.path().join("layout")).await.unwrap()[0].clone();
    let mount = store.prepare("c", &image).await.unwrap();
    let found = std::fs::metadata(mount.lower[0].join("tmp")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o1777, 12));
}

/// Archives of tools that never look at lower layers (Bazel, ko) have `lib/x` on top of a base with `lib -> usr/lib`.
#[tokio::test]
async fn unlisted_directories_go_where_links_below_lead() {
    let dir = TempDir::new().unwrap();
    let bottom = {
        let mut files = layer(&[("usr/", ""), ("usr/lib/", ""), ("usr/lib/old", "1")]);
        files.truncate(4 * 512); // Three headers and a content; without the end, to go on.
        let mut tar = tar::Builder::new(Vec::new());
        std::io::Write::write_all(tar.get_mut(), &files).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "lib", "usr/lib").unwrap();
        tar.append_link(&mut header, "evil", "/tmp").unwrap();
        tar.into_inner().unwrap()
    };
    let top = layer(&[("lib/new", "2"), ("lib/deep/er", "3"), ("evil/dhow-settle-test", "4")]);
    layout(&[("", bottom), ("", top)]).write(&dir.path().join("layout"), "x:1");
    let store = store(&dir.path().join("store"));
    let image = store.import(&dir.path().join("layout")).await.unwrap()[0].clone();
    let mount = store.prepare("c", &image).await.unwrap();
    for (path, content) in
        [("lib/old", "1"), ("lib/new", "2"), ("usr/lib/deep/er", "3"), ("evil/dhow-settle-test", "4")]
    {
        assert_eq!(file_in(&mount.lower, path).as_deref(), Some(content), "{path}");
    }
    assert!(!Path::new("/tmp/dhow-settle-test").exists());
}

#[tokio::test]
async fn bad_container_ids_are_refused() {
    let dir = TempDir::new().unwrap();
    let (store, image) = imported(dir.path()).await;
    for id in ["", "..", "a/b", ".hidden", "a\0"] {
        assert!(matches!(store.prepare(id, &image).await, Err(ImageError::InvalidId(_))), "{id:?}");
    }
    layout(&[("", layer(&[("x", "x")]))]).write(&dir.path().join("second"), "second:1");
    let second = store.import(&dir.path().join("second")).await.unwrap()[0].clone();
    store.prepare("c", &image).await.unwrap();
    assert!(matches!(store.prepare("c", &second).await, Err(ImageError::SnapshotExists(_))));
}

#[tokio::test]
async fn image_without_layers_has_an_empty_root() {
    let dir = TempDir::new().unwrap();
    layout(&[]).write(&dir.path().join("layout"), "scratch:1");
    let store = store(&dir.path().join("store"));
    let image = store.import(&dir.path().join("layout")).await.unwrap()[0].clone();
    let mount = store.prepare("c", &image).await.unwrap();
    assert_eq!(mount.lower.len(), 1);
    assert_eq!(std::fs::read_dir(&mount.lower[0]).unwrap().count(), 0);
}

#[tokio::test]
async fn full_disk_is_said_and_leaves_nothing() {
    let disk = SmallDisk::new();
    let dir = TempDir::new().unwrap();
    layout(&[("+gzip", layer(&[("big", &"0".repeat(80 << 20))]))]).write(&dir.path().join("layout"), "big:1");
    let store = store(&disk.0.path().join("store"));
    let error = store.import(&dir.path().join("layout")).await.unwrap_err();
    let text = base::chain(&error);
    assert!(text.contains("no space left to unpack into"), "{text}");
    assert!(store.list().is_empty());
    store.prune(|_| true).await.unwrap();
    assert_eq!(store.disk_usage().unwrap(), 0);
}

/// A tmpfs that is gone when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> SmallDisk {
        let dir = TempDir::new().unwrap();
        run(&["mount", "-t", "tmpfs", "-o", "size=100m", "none", dir.path().to_str().unwrap()]);
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(&["umount", "-l", self.0.path().to_str().unwrap()]);
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may use the host's mount")]
fn run(command: &[&str]) {
    let status = std::process::Command::new(command[0]).args(&command[1..]).status().unwrap();
    assert!(status.success(), "{command:?} failed; this test needs root");
}

/// Every value of a document, by JSON pointer.
fn places(value: &serde_json::Value, at: String, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(k, v)| places(v, format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), out))
        }
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), out))
        }
        _ => {}
    }
    out.push(at);
}

fn damaged(document: &[u8], place: usize, with: &serde_json::Value) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(document).unwrap();
    let mut all = Vec::new();
    places(&value, String::new(), &mut all);
    *value.pointer_mut(&all[place % all.len()]).unwrap() = with.clone();
    serde_json::to_vec(&value).unwrap()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    /// One value of the manifest or of the configuration is something else, and all digests are right: it is an image or an error, and
    /// an error leaves nothing.
    #[test]
    fn documents_with_any_value_in_any_place_are_read_or_refused(
        in_config in proptest::bool::ANY,
        place in 0usize..1000,
        with in proptest::sample::select(vec![
            serde_json::json!(null), serde_json::json!(true), serde_json::json!(-1), serde_json::json!(u64::MAX),
            serde_json::json!(1e300), serde_json::json!(""), serde_json::json!("../../etc/passwd"), serde_json::json!("sha256:"),
            serde_json::json!("sha256:../../../../../../../../../../../../../../../../../../../../etc/pass"),
            serde_json::json!([]), serde_json::json!({}), serde_json::json!(["", null, {"a": [1]}]),
        ]),
    ) {
        let mut changed = three_layers();
        let index = |digest: &image::Digest, l: &support::Layout| l.blobs.iter().position(|(d, _)| d == digest).unwrap();
        let at = index(&changed.manifest, &changed);
        let mut manifest: serde_json::Value = serde_json::from_slice(&changed.blobs[at].1).unwrap();
        let mut bytes = changed.blobs[at].1.clone();
        if in_config {
            let config: image::Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
            let at = index(&config, &changed);
            let text = damaged(&changed.blobs[at].1, place, &with);
            let digest = image::Digest::of(&text);
            manifest["config"]["digest"] = digest.to_string().into();
            manifest["config"]["size"] = text.len().into();
            changed.blobs[at] = (digest, text);
            bytes = serde_json::to_vec(&manifest).unwrap();
        } else {
            bytes = damaged(&bytes, place, &with);
        }
        changed.manifest = image::Digest::of(&bytes);
        changed.manifest_size = bytes.len();
        changed.blobs[at] = (changed.manifest.clone(), bytes);
        let dir = TempDir::new().unwrap();
        changed.write(&dir.path().join("layout"), "x:1");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = store(&dir.path().join("store"));
            let found = store.import(&dir.path().join("layout")).await;
            if found.is_err() {
                assert!(store.list().is_empty());
                store.prune(|_| true).await.unwrap();
                assert_eq!(store.disk_usage().unwrap(), 0);
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
