//! `hostPath` volumes (`pkg/volume/host_path`).
//!
//! Differs: with an empty type a missing path is made a directory here, as container runtimes do.

use super::VolumeError;
use api::k8s::api::core::v1::HostPathVolumeSource;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Checks the type, makes what `…OrCreate` asks for, and returns the path.
pub fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    if !path.exists() {
        match kind {
            "DirectoryOrCreate" | "" => make_dir(&path)?,
            "FileOrCreate" => make_file(&path)?,
            _ => {}
        }
    }
    let found = fs::metadata(&path).ok().map(|m| m.file_type());
    let wrong = |what| Err(VolumeError::HostPathType { path: source.path.clone(), what });
    match (kind, found) {
        ("", _) => Ok(path),
        ("DirectoryOrCreate" | "Directory", Some(t)) if t.is_dir() => Ok(path),
        ("DirectoryOrCreate" | "Directory", _) => wrong("a directory"),
        ("FileOrCreate" | "File", Some(t)) if t.is_file() => Ok(path),
        ("FileOrCreate" | "File", _) => wrong("a file"),
        ("Socket", Some(t)) if t.is_socket() => Ok(path),
        ("Socket", _) => wrong("a socket file"),
        ("CharDevice", Some(t)) if t.is_char_device() => Ok(path),
        ("CharDevice", _) => wrong("a character device"),
        ("BlockDevice", Some(t)) if t.is_block_device() => Ok(path),
        ("BlockDevice", _) => wrong("a block device"),
        (other, _) => Err(VolumeError::Unsupported(format!("hostPath type {other}"))),
    }
}

fn make_dir(path: &Path) -> Result<(), VolumeError> {
    fs::create_dir_all(path).map_err(|e| VolumeError::io("create", path, e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|e| VolumeError::io("open up", path, e))
}

fn make_file(path: &Path) -> Result<(), VolumeError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
    drop(file.map_err(|e| VolumeError::io("create", path, e))?);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(|e| VolumeError::io("open up", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, kind: &str, want: Result<(), &str>) {
        let source = HostPathVolumeSource { path: path.to_string_lossy().into_owned(), type_: Some(kind.into()) };
        let got = set_up(&source).map(drop).map_err(|e| e.to_string());
        let want = want.map_err(|what| format!("hostPath type check failed: {} is not {what}", path.display()));
        assert_eq!(got, want, "{kind}");
    }

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (sub, file) = (dir.path().join("d"), dir.path().join("f"));
        check(&sub, "Directory", Err("a directory"));
        check(&sub, "DirectoryOrCreate", Ok(()));
        check(&sub, "Directory", Ok(()));
        check(&sub, "FileOrCreate", Err("a file"));
        check(&file, "File", Err("a file"));
        check(&file, "FileOrCreate", Ok(()));
        check(&file, "Socket", Err("a socket file"));
        check(Path::new("/dev/null"), "CharDevice", Ok(()));
        check(Path::new("/dev/null"), "BlockDevice", Err("a block device"));
        check(&dir.path().join("any"), "", Ok(()));
    }
}
