//! A logind for tests, at the other end of a socket. Keeps logind's promises: what it grants changes when its files have been read
//! again, a lock is held as long as its file is open, and shutdowns are told to whoever listens.

use super::logind::Logind;
use parking_lot::Mutex;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedFd;
use zbus::{Connection, Guid, connection::Builder};

#[derive(Default)]
struct State {
    granted_micros: u64,
    /// Our ends of the locks.
    locks: Vec<UnixStream>,
}

struct Manager(Arc<Mutex<State>>);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn granted(&self) -> u64 {
        self.0.lock().granted_micros
    }

    fn inhibit(&self, what: &str, _who: &str, _why: &str, mode: &str) -> zbus::fdo::Result<OwnedFd> {
        assert_eq!((what, mode), ("shutdown", "delay"));
        let (ours, theirs) = UnixStream::pair().expect("a socket");
        ours.set_nonblocking(true).expect("set");
        self.0.lock().locks.push(ours);
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }

    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, begins: bool) -> zbus::Result<()>;
}

struct Systemd {
    state: Arc<Mutex<State>>,
    file: PathBuf,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn kill_unit(&self, unit: &str, _who: &str, signal: i32) {
        assert_eq!((unit, signal), ("systemd-logind.service", 1));
        let text = std::fs::read_to_string(&self.file).expect("the override is there");
        let seconds = text.lines().find_map(|l| l.strip_prefix("InhibitDelayMaxSec=")?.parse::<u64>().ok());
        self.state.lock().granted_micros = seconds.expect("a number") * 1_000_000;
    }
}

/// See the file's head.
pub(crate) struct FakeLogind {
    bus: Connection,
    state: Arc<Mutex<State>>,
}

impl FakeLogind {
    /// One that grants five seconds, and what connects to it.
    pub(crate) async fn start(file: &Path) -> (FakeLogind, Logind) {
        let state = Arc::new(Mutex::new(State { granted_micros: 5_000_000, ..State::default() }));
        let systemd = Systemd { state: state.clone(), file: file.to_owned() };
        let (ours, theirs) = tokio::net::UnixStream::pair().expect("a socket");
        let server = async {
            let builder = Builder::unix_stream(ours).server(Guid::generate())?.p2p();
            let builder = builder.serve_at("/org/freedesktop/login1", Manager(state.clone()))?;
            builder.serve_at("/org/freedesktop/systemd1", systemd)?.build().await
        };
        let client = Builder::unix_stream(theirs).p2p().build();
        let (server, client): (zbus::Result<Connection>, zbus::Result<Connection>) = tokio::join!(server, client);
        let bus = server.expect("it serves");
        (FakeLogind { bus, state }, Logind::over(client.expect("it connects"), file))
    }

    /// Says that the machine shuts down, or does not after all.
    pub(crate) async fn tell(&self, begins: bool) {
        let emitter = SignalEmitter::new(&self.bus, "/org/freedesktop/login1").expect("a path");
        Manager::prepare_for_shutdown(&emitter, begins).await.expect("sent");
    }

    /// How many locks are held.
    pub(crate) fn held(&self) -> usize {
        let mut state = self.state.lock();
        let is_held =
            |lock: &mut UnixStream| lock.read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        state.locks.iter_mut().filter_map(|lock| is_held(lock).then_some(())).count()
    }
}
