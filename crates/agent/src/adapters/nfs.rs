//! NFS without `mount.nfs`: the kernel takes the options as text, if the server's address is among them.

use crate::volumes::persistent::Nfs;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

/// Newest first, when the user names none.
const VERSIONS: [&str; 4] = ["vers=4.2", "vers=4.1", "vers=4.0", "vers=3,nolock"];

/// Mounts at an existing directory. Blocks until the server answers.
pub(super) fn mount(nfs: &Nfs, at: &Path) -> io::Result<()> {
    let address = (nfs.server.trim_matches(['[', ']']), 2049).to_socket_addrs()?.next().map(|a| a.ip());
    let address = address.ok_or_else(|| io::Error::other(format!("{} has no address", nfs.server)))?;
    let mut last = None;
    for attempt in attempts(nfs, address) {
        let data = CString::new(attempt.data).map_err(io::Error::other)?;
        let source = format!("{}:{}", nfs.server, nfs.path);
        match rustix::mount::mount(source, at, attempt.kind, attempt.flags, Some(data.as_c_str())) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| io::ErrorKind::Unsupported.into(), io::Error::from))
}

struct Attempt {
    kind: &'static str,
    flags: MountFlags,
    data: String,
}

fn attempts(nfs: &Nfs, address: IpAddr) -> Vec<Attempt> {
    let (mut flags, options) = super::mounts::parse_options(&nfs.options);
    flags.set(MountFlags::RDONLY, nfs.read_only || flags.contains(MountFlags::RDONLY));
    let named = options.iter().any(|o| o.starts_with("vers=") || o.starts_with("nfsvers="));
    let options = options.iter().map(|o| o.replacen("nfsvers=", "vers=", 1));
    let data: Vec<String> = std::iter::once(format!("addr={address}")).chain(options).collect();
    let versions: &[&str] = if named { &[""] } else { &VERSIONS };
    let attempt = |version: &&str| {
        let mut all = data.clone();
        all.extend((!version.is_empty()).then(|| (*version).to_owned()));
        let data = all.join(",");
        Attempt { kind: if data.contains("vers=3") { "nfs" } else { "nfs4" }, flags, data }
    };
    versions.iter().map(attempt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[&str], want: &[&str]) {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        let nfs = Nfs { server: "s".into(), path: "/e".into(), options, read_only: false };
        let shown = |a: Attempt| format!("{} {:?} {}", a.kind, a.flags, a.data);
        let got: Vec<String> = attempts(&nfs, IpAddr::from([10, 0, 0, 1])).into_iter().map(shown).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn options_become_flags_and_text() {
        check(
            &["nfsvers=3", "hard,timeo=600", "_netdev"],
            &["nfs MountFlags(0x0) addr=10.0.0.1,vers=3,hard,timeo=600"],
        );
        check(
            &["ro,noexec"],
            &[
                "nfs4 MountFlags(NOEXEC | RDONLY) addr=10.0.0.1,vers=4.2",
                "nfs4 MountFlags(NOEXEC | RDONLY) addr=10.0.0.1,vers=4.1",
                "nfs4 MountFlags(NOEXEC | RDONLY) addr=10.0.0.1,vers=4.0",
                "nfs MountFlags(NOEXEC | RDONLY) addr=10.0.0.1,vers=3,nolock",
            ],
        );
    }
}
