//! Archives, honest and hostile, as text in and the resulting tree as text out. Need root: devices and owners are made.

use super::*;
use expect_test::{Expect, expect};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use tempfile::TempDir;

/// Builds tars without the checks of the `tar` crate's writer: names may be as bad as they like.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn raw(mut self, name: &str, kind: u8, link: &str, mode: u32, body: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    fn file(self, name: &str, body: &str) -> Self {
        self.raw(name, b'0', "", 0o644, body.as_bytes())
    }
    fn dir(self, name: &str) -> Self {
        self.raw(name, b'5', "", 0o750, b"")
    }
    fn symlink(self, name: &str, to: &str) -> Self {
        self.raw(name, b'2', to, 0o777, b"")
    }
    fn link(self, name: &str, to: &str) -> Self {
        self.raw(name, b'1', to, 0o644, b"")
    }
    /// A PAX header for the next entry.
    fn pax(self, pairs: &[(&str, &str)]) -> Self {
        let mut body = String::new();
        for (name, value) in pairs {
            let rest = name.len() + value.len() + 3;
            let digits = if rest + 2 < 100 { 2 } else { (rest + 7).to_string().len() };
            body.push_str(&format!("{} {name}={value}\n", rest + digits));
        }
        self.raw("pax", b'x', "", 0o644, body.as_bytes())
    }
    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A directory inside of one with a canary that must not change.
struct Arena {
    outer: TempDir,
}

impl Arena {
    fn new() -> Self {
        let outer = TempDir::new().unwrap();
        std::fs::create_dir(outer.path().join("root")).unwrap();
        std::fs::create_dir(outer.path().join("outside")).unwrap();
        std::fs::write(outer.path().join("outside/canary"), "alive").unwrap();
        Arena { outer }
    }
    fn root(&self) -> PathBuf {
        self.outer.path().join("root")
    }
    fn assert_untouched(&self) {
        assert_eq!(tree(&self.outer.path().join("outside")), "canary -rw644 alive\n");
        let names: Vec<_> = std::fs::read_dir(self.outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "something was made outside: {names:?}");
    }
}

fn tree(root: &Path) -> String {
    let mut out = String::new();
    show(root, Path::new(""), &mut out);
    out
}

fn show(root: &Path, at: &Path, out: &mut String) {
    let mut names: Vec<_> = std::fs::read_dir(root.join(at)).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = at.join(name);
        let full = root.join(&path);
        let found = std::fs::symlink_metadata(&full).unwrap();
        let mode = found.mode() & 0o7777;
        let kind = found.file_type();
        let device = || format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        let text = if kind.is_dir() {
            let opaque = xattr::get(&full, "trusted.overlay.opaque").unwrap().is_some();
            format!("dir {mode:o}{}", if opaque { " opaque" } else { "" })
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&full).unwrap().display())
        } else if kind.is_char_device() {
            format!("char {}", device())
        } else if kind.is_block_device() {
            format!("block {}", device())
        } else if kind.is_fifo() {
            "fifo".into()
        } else {
            let links = if found.nlink() > 1 { format!(" x{}", found.nlink()) } else { String::new() };
            format!("-rw{mode:o}{links} {}", String::from_utf8_lossy(&std::fs::read(&full).unwrap()))
        };
        out.push_str(&format!("{} {text}\n", path.display()));
        if kind.is_dir() {
            show(root, &path, out);
        }
    }
}

fn check(archive: Archive, expected: Expect) {
    let arena = Arena::new();
    let bytes = archive.end();
    let digest = Digest::of(&bytes);
    let shown = match unpack(io::Cursor::new(bytes), &arena.root(), UnpackLimits::default()) {
        Ok(unpacked) => {
            assert_eq!(unpacked.diff_id, digest);
            let implicit = unpacked.implicit;
            tree(&arena.root()) + &if implicit.is_empty() { String::new() } else { format!("implicit {implicit:?}\n") }
        }
        Err(error) => base::chain(&error),
    };
    arena.assert_untouched();
    expected.assert_eq(&shown);
}

#[test]
fn ordinary_entries() {
    let archive = Archive::default()
        .dir("./")
        .dir("etc/")
        .file("etc/hosts", "localhost")
        .raw("bin/su", b'0', "", 0o4755, b"su")
        .link("bin/sudo", "/bin/su")
        .symlink("lib", "usr/lib")
        .raw("pipe", b'6', "", 0o600, b"")
        .file("usr/lib/libc", "1")
        .file("lib/libm", "2");
    check(
        archive,
        expect![[r#"
            bin dir 755
            bin/su -rw4755 x2 su
            bin/sudo -rw4755 x2 su
            etc dir 750
            etc/hosts -rw644 localhost
            lib -> usr/lib
            pipe fifo
            usr dir 755
            usr/lib dir 755
            usr/lib/libc -rw644 1
            usr/lib/libm -rw644 2
            implicit ["bin", "usr", "usr/lib"]
        "#]],
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let archive = Archive::default()
        .file("a", "1")
        .file("a", "2")
        .dir("b")
        .file("b/deep/x", "x")
        .file("b", "now a file")
        .file("c", "file")
        .dir("c")
        .symlink("d", "c")
        .file("d", "not through the link");
    check(
        archive,
        expect![[r#"
            a -rw644 2
            b -rw644 now a file
            c dir 750
            d -rw644 not through the link
            implicit ["b/deep"]
        "#]],
    );
}

#[test]
fn whiteouts_take_overlay_form() {
    let archive = Archive::default()
        .file("etc/.wh.passwd", "")
        .dir("var")
        .file("var/.wh..wh..opq", "")
        .file("var/new", "1")
        .file(".wh.replaced", "")
        .dir("replaced")
        .file(".wh..wh.plnk", "")
        .dir("kept")
        .file("kept/mine", "1")
        .file(".wh.kept", "")
        .file("file", "mine")
        .file(".wh.file", "");
    check(
        archive,
        expect![[r#"
            etc dir 755
            etc/passwd char 0:0
            file -rw644 mine
            kept dir 750 opaque
            kept/mine -rw644 1
            replaced dir 750 opaque
            var dir 750 opaque
            var/new -rw644 1
            implicit ["etc"]
        "#]],
    );
}

#[test]
fn names_with_dot_dot_are_refused() {
    check(
        Archive::default().file("ok", "").file("../outside/canary", "dead"),
        expect![[r#"layer entry "../outside/canary" would escape the image: the image is malicious or damaged"#]],
    );
    check(
        Archive::default().file("a/../../outside/canary", "dead"),
        expect![[r#"layer entry "a/../../outside/canary" would escape the image: the image is malicious or damaged"#]],
    );
    check(
        Archive::default().file("x/.wh...", ""),
        expect![[r#"layer entry "x/.wh..." would escape the image: the image is malicious or damaged"#]],
    );
    check(
        Archive::default().link("passwd", "../outside/canary"),
        expect![[
            r#"layer entry "passwd -> ../outside/canary" would escape the image: the image is malicious or damaged"#
        ]],
    );
}

#[test]
fn absolute_names_and_links_stay_inside() {
    let archive = Archive::default()
        .file("/tmp/dhow-unpack-test", "inside")
        .symlink("up", "../../../outside")
        .dir("outside")
        .file("up/canary", "dead")
        .symlink("abs", "/outside")
        .file("abs/second", "dead")
        .symlink("proc", "/proc/self/root")
        .link("hard", "up/canary");
    check(
        archive,
        expect![[r#"
            abs -> /outside
            hard -rw644 x2 dead
            outside dir 750
            outside/canary -rw644 x2 dead
            outside/second -rw644 dead
            proc -> /proc/self/root
            tmp dir 755
            tmp/dhow-unpack-test -rw644 inside
            up -> ../../../outside
            implicit ["tmp"]
        "#]],
    );
    assert!(!Path::new("/tmp/dhow-unpack-test").exists());
}

#[test]
fn links_to_the_outside_world_find_nothing() {
    check(
        Archive::default().symlink("etc", "/etc").file("etc/passwd", "mine"),
        expect![[r#"layer is damaged at "etc/passwd": its directory is not a directory"#]],
    );
    check(
        Archive::default().link("shadow", "/etc/shadow"),
        expect![[r#"layer is damaged at "shadow": it is a link to "/etc/shadow", which is not in the layer"#]],
    );
    check(
        Archive::default().dir("d").link("x", "d"),
        expect![[r#"layer is damaged at "x": it is a link to the directory "d""#]],
    );
    check(
        Archive::default().symlink("l", "l").file("l/x", ""),
        expect![[r#"layer is damaged at "l/x": its directory is not a directory"#]],
    );
}

#[test]
fn pax_attributes_are_kept_and_overlay_ones_dropped() {
    let arena = Arena::new();
    let archive = Archive::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", "\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            ("mtime", "1234567890.25"),
            ("uid", "100000"),
        ])
        .file("ping", "x")
        .pax(&[("path", &"long/".repeat(40))])
        .dir("short");
    unpack(io::Cursor::new(archive.end()), &arena.root(), UnpackLimits::default()).unwrap();
    let ping = arena.root().join("ping");
    let found = std::fs::metadata(&ping).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec(), found.uid()), (1_234_567_890, 250_000_000, 100_000));
    let names: Vec<_> = xattr::list(&ping).unwrap().collect();
    assert_eq!(names, ["security.capability"]);
    assert!(arena.root().join("long/".repeat(40)).is_dir());
}

#[test]
fn directories_keep_their_times_and_owners() {
    let arena = Arena::new();
    let archive = Archive::default().dir("d").file("d/later", "x");
    unpack(io::Cursor::new(archive.end()), &arena.root(), UnpackLimits::default()).unwrap();
    assert_eq!(std::fs::metadata(arena.root().join("d")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn compressed_streams_are_told_by_their_first_bytes() {
    let plain = Archive::default().file("a", &"text".repeat(1000)).end();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain[..700]).unwrap();
        let mut first = encoder.finish().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain[700..]).unwrap();
        first.extend(encoder.finish().unwrap()); // Parallel compressors write several members.
        first
    };
    let zstd = zstd::encode_all(&*plain, 3).unwrap();
    for blob in [plain.clone(), gzip, zstd] {
        let arena = Arena::new();
        let unpacked = unpack(io::Cursor::new(blob), &arena.root(), UnpackLimits::default()).unwrap();
        assert_eq!(unpacked.diff_id, Digest::of(&plain));
        assert_eq!(unpacked.bytes, 4000);
    }
}

fn check_limit(blob: Vec<u8>, limits: UnpackLimits, expected: Expect) {
    let arena = Arena::new();
    let error = unpack(io::Cursor::new(blob), &arena.root(), limits).unwrap_err();
    expected.assert_eq(&base::chain(&error));
}

#[test]
fn bombs_are_bounded() {
    let limits = UnpackLimits { bytes: 1 << 20, entries: 10 };
    let zeros = zstd::encode_all(io::repeat(0).take(50 << 20), 3).unwrap();
    let mut big = Archive::default().raw("big", b'0', "", 0o644, &vec![0; 2 << 20]).end();
    check_limit(std::mem::take(&mut big), limits, expect!["layer is too large: more than 1048576 bytes"]);
    // After its end an archive may go on; that is read for its digest.
    check_limit(zeros, limits, expect!["layer is too large: more than 1048576 bytes"]);
    let many = (0..11).fold(Archive::default(), |archive, i| archive.file(&format!("f{i}"), "")).end();
    check_limit(many, limits, expect!["layer is too large: more than 10 entries"]);
    let name = Archive::default().pax(&[("path", &"x".repeat(3 << 20))]).file("f", "").end();
    check_limit(
        name,
        UnpackLimits::default(),
        expect!["layer is too large: more than 1048576 bytes in one entry's name and attributes"],
    );
}

#[test]
fn damaged_streams_are_errors() {
    let whole = Archive::default().file("a", &"x".repeat(5000)).end();
    for cut in [100, 600, 3000] {
        let arena = Arena::new();
        let error = unpack(io::Cursor::new(whole[..cut].to_vec()), &arena.root(), UnpackLimits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Malformed { .. }), "{error}");
    }
    let arena = Arena::new();
    let mut gzip = vec![0x1f, 0x8b, 8, 0];
    gzip.extend([7; 100]);
    assert!(unpack(io::Cursor::new(gzip), &arena.root(), UnpackLimits::default()).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]
    /// Whatever the names, kinds and links: no panic, and nothing outside changes.
    #[test]
    fn nothing_escapes(
        entries in proptest::collection::vec(("(\\.\\./|/|a/|b/|\\.wh\\.|l/){0,4}(a|b|l|\\.\\.|\\.wh\\.a|)", 0..8usize, "(/|\\.\\./|a/|l/){0,3}(a|b|outside|canary|)"), 1..12)
    ) {
        let arena = Arena::new();
        let archive = entries.iter().fold(Archive::default(), |archive, (name, kind, link)| {
            let kind = b"01234567"[*kind];
            let body: &[u8] = if kind == b'0' { b"body" } else { b"" };
            archive.raw(name, kind, link, 0o755, body)
        });
        drop(unpack(io::Cursor::new(archive.end()), &arena.root(), UnpackLimits::default()));
        arena.assert_untouched();
    }
}
