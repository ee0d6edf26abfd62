//! When a supervisor goes away without having been told to: another one takes its place, with what was kept for it.
//!
//! A supervisor may also have let us go because we were slow; then it is only connected to again. Either way its snapshot tells of exits
//! whose word was lost. One that hangs is killed, so that this is the only way on. Invariants: while this goes on, requests wait; what cannot be repaired is told as
//! [`EngineEvent::SupervisorLost`], once.

use super::*;
use std::sync::Weak;
use tokio::time::{Instant, timeout};

/// Attempts to repair one loss. Memory or descriptors may be short for a moment.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Supervisors of which so many in a row live so shortly die of something that the next one would die of, too.
const MANY: u32 = 100;
const SHORT: Duration = Duration::from_secs(1);

/// Listens to the supervisor of a pod, whichever it is, until there is none.
pub(super) async fn tend(
    engine: Weak<Inner>,
    events: mpsc::UnboundedSender<EngineEvent>,
    link: Arc<Link>,
    mut connection: Arc<Connection>,
) {
    let mut short_lives = 0;
    loop {
        let begun = Instant::now();
        listen(&engine, &events, &link, &connection).await;
        let expected = link.end_expected.load(Ordering::SeqCst);
        link.state.send_replace(if expected { Way::Gone } else { Way::Repaired });
        connection.lose();
        let Some(engine) = engine.upgrade().filter(|_| !expected) else { break };
        short_lives = if begun.elapsed() < SHORT { short_lives + 1 } else { 0 };
        let repaired = if short_lives > MANY { None } else { Engine { inner: engine }.repair(&link).await };
        let Some(new) = repaired else { break };
        connection = Arc::new(new);
        link.state.send_replace(Way::Open(connection.clone()));
    }
    let expected = link.end_expected.load(Ordering::SeqCst);
    link.state.send_replace(Way::Gone);
    link.execs.lock().clear();
    *link.kept.lock() = Kept::default();
    if !expected {
        // Nobody listens only when the engine is gone.
        events.send(EngineEvent::SupervisorLost { pod: link.pod.clone() }).ok();
    }
}

/// Hands on what a supervisor tells until there is nothing more to come. Whoever is silent is asked, and whoever does not answer is
/// killed: a hung supervisor can neither start nor end nor log anything, and a dead one can be replaced.
async fn listen(
    engine: &Weak<Inner>,
    events: &mpsc::UnboundedSender<EngineEvent>,
    link: &Link,
    connection: &Connection,
) {
    let Some(patience) = engine.upgrade().map(|e| e.config.patience) else { return };
    let mut unanswered = 0u32;
    loop {
        match timeout(patience, connection.receive(&link.pod)).await {
            Ok(None) => return,
            Ok(Some(packet)) => {
                unanswered = 0;
                link.dispatch(connection, packet, events);
            }
            Err(_) => {
                match (unanswered, engine.upgrade()) {
                    (0, _) => {
                        let id = link.next.fetch_add(1, Ordering::Relaxed);
                        // Whether it can be sent or not: what counts is the answer.
                        timeout(patience, connection.send(&link.pod, id, &Request::Ping, &[])).await.ok();
                    }
                    (1, Some(engine)) => end_hung(&Engine { inner: engine }, &link.pod),
                    // It is in the hands of the kernel: dying, or waiting for a disk.
                    _ => {}
                }
                unanswered = unanswered.saturating_add(1);
            }
        }
    }
}

/// By a descriptor of the process that listens on the pod's socket, not by an id that might be somebody else's.
fn end_hung(engine: &Engine, pod: &str) {
    let killed = sys::socket::connect(&engine.run_dir(pod).join("sock"))
        .and_then(|socket| sys::socket::peer_process(socket.as_fd()))
        .and_then(|process| sys::process::pidfd_kill(process.as_fd(), libc::SIGKILL));
    match killed {
        Ok(()) => tracing::warn!(pod, "a supervisor did not answer and was killed"),
        Err(error) => tracing::warn!(pod, %error, "a supervisor does not answer and cannot be killed"),
    }
}

impl Engine {
    /// A connection to a supervisor of the pod that knows everything, or nothing if that cannot be.
    async fn repair(&self, link: &Link) -> Option<Connection> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.try_repair(link).await {
                Ok((connection, replaced)) => {
                    if replaced {
                        tracing::warn!(pod = link.pod, took = ?begun.elapsed(), "a dead supervisor was replaced");
                        let event = EngineEvent::SupervisorReplaced { pod: link.pod.clone() };
                        // Nobody listens only when the engine is gone.
                        self.inner.events.send(event).ok();
                    }
                    return Some(connection);
                }
                Err(error) => {
                    tracing::warn!(pod = link.pod, attempt, error = %base::chain(&error), "failed to replace a supervisor");
                }
            }
            // Without that no attempt will work.
            link.kept.lock().pod.as_ref()?;
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        None
    }

    /// The connection, and whether a new supervisor is at its other end.
    async fn try_repair(&self, link: &Link) -> Result<(Connection, bool)> {
        let socket = sys::socket::connect(&self.run_dir(&link.pod).join("sock"));
        let (connection, replaced) = match socket {
            Ok(socket) => (Connection::new(&link.pod, socket)?, false),
            Err(_) => (self.replace(link).await?, true),
        };
        self.catch_up(link, &connection).await?;
        Ok((connection, replaced))
    }

    /// Starts a supervisor that takes the pod over.
    async fn replace(&self, link: &Link) -> Result<Connection> {
        let lost = || EngineError::SupervisorLost { pod: link.pod.clone() };
        let (pod, containers) = {
            let kept = link.kept.lock();
            (kept.pod.clone().ok_or_else(lost)?, kept.containers.clone())
        };
        let execs: Vec<(u64, i32, Arc<OwnedFd>)> = (link.execs.lock().iter())
            .filter_map(|(exec, wait)| wait.process.as_ref().map(|(pid, fd)| (*exec, *pid, fd.clone())))
            .collect();
        let (run_dir, state_dir) = (self.run_dir(&link.pod), self.state_dir(&link.pod));
        let spec = self.orphan(link.pod.clone()).spec.ok_or_else(lost)?;
        let (ours, theirs) = sys::socket::pair().map_err(io_error("create a socket for", &run_dir))?;
        let request = Request::CreatePod { spec: Box::new(spec), run_dir, state_dir, adopt: true };
        self.ask_zygote(&request, theirs)?;
        let connection = Connection::new(&link.pod, ours)?;
        let (created_at_ns, parts) = pod;
        let mut estate = vec![(Request::AdoptPod { created_at_ns, parts: parts.names() }, parts.fds())];
        estate.extend(containers.into_iter().map(|c| {
            let parts = c.parts.names();
            (Request::AdoptContainer { record: Box::new(c.record), state: c.state, parts }, c.parts.fds())
        }));
        estate.extend(execs.into_iter().map(|(exec, pid, fd)| (Request::AdoptExec { exec, pid }, vec![fd])));
        estate.push((Request::Adopted, Vec::new()));
        for (request, fds) in &estate {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            if !connection.send(&link.pod, 0, request, &fds).await? {
                // It has said why, if it could.
                break;
            }
        }
        self.answer(link, &connection, 0).await?;
        Ok(connection)
    }

    /// Tells of exits that were not told.
    async fn catch_up(&self, link: &Link, connection: &Connection) -> Result<()> {
        let id = link.next.fetch_add(1, Ordering::Relaxed);
        connection.send(&link.pod, id, &Request::Snapshot, &[]).await?;
        let (Reply::Snapshot(snapshot), _) = self.answer(link, connection, id).await? else { return unexpected() };
        for container in snapshot.containers {
            if let ContainerState::Exited(exit) = container.state
                && link.kept.lock().runs(&container.id)
            {
                link.happened(Event::Exited { container: container.id, exit }, &self.inner.events);
            }
        }
        Ok(())
    }

    /// The answer to a request on a connection that nobody else reads.
    async fn answer(&self, link: &Link, connection: &Connection, id: u32) -> Result<Answer> {
        while let Some(packet) = connection.receive(&link.pod).await {
            if packet.kind == Kind::Reply as u16 && packet.id == id {
                let reply = packet.parse::<Reply>().or_else(|e| refused(Reason::Unsupported, e.to_string()))?;
                return accepted((reply, packet.fds));
            }
            link.dispatch(connection, packet, &self.inner.events);
        }
        Err(EngineError::SupervisorLost { pod: link.pod.clone() })
    }
}
