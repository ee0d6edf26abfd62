//! Taking over from a supervisor that is dead, with the descriptors that an agent kept for it.
//!
//! The pod's processes are now children of init: their ends are told by pidfds instead of wait(2). Invariants: a process is touched
//! through its pidfd only, never by its id; what runs in the pod's cgroup and is not handed over was half started, and is ended.

use super::*;
use crate::keep::KeptContainer;
use crate::log::missing;

/// Everything that is handed over.
pub(super) struct Estate {
    created_at_ns: i64,
    pod: Parts,
    containers: Vec<KeptContainer>,
    execs: Vec<(u64, Task)>,
}

/// Waits until everything has come.
pub(super) fn receive(client: BorrowedFd<'_>) -> Result<Estate, Refusal> {
    let mut estate = Estate { created_at_ns: 0, pod: Parts::default(), containers: Vec::new(), execs: Vec::new() };
    loop {
        let packet = match protocol::receive(client, false) {
            Ok(Some(packet)) => packet,
            Ok(None) => return refuse(Reason::Internal, "the agent is gone"),
            Err(e) => return refuse(Reason::Internal, format!("failed to receive what is handed over: {e}")),
        };
        let request = packet.parse::<Request>().map_err(|e| (Reason::Unsupported, e.to_string()))?;
        let mut fds = packet.fds;
        match request {
            Request::AdoptPod { created_at_ns, parts } => {
                (estate.created_at_ns, estate.pod) = (created_at_ns, Parts::new(&parts, fds));
            }
            Request::AdoptContainer { record, state, parts } => {
                let (record, parts) = (*record, Parts::new(&parts, fds));
                estate.containers.push(KeptContainer { record, state, parts });
            }
            Request::AdoptExec { exec, pid } => {
                if let Some(pidfd) = fds.pop() {
                    estate.execs.push((exec, Task { pid, pidfd, ours: false }));
                }
            }
            Request::Adopted => return Ok(estate),
            _ => return refuse(Reason::Invalid, "this supervisor has no pod yet"),
        }
    }
}

/// Joins the namespaces of the pod and finds its `/dev/shm`.
pub(super) fn pod(spec: &PodSandboxSpec, run_dir: &Path, mut parts: Parts) -> Result<Shm, Refusal> {
    for (mode, part, flag) in [
        (spec.network, Part::Network, libc::CLONE_NEWNET),
        (spec.ipc, Part::Ipc, libc::CLONE_NEWIPC),
        (spec.uts, Part::Uts, libc::CLONE_NEWUTS),
    ] {
        if mode == NamespaceMode::Pod {
            let ns = parts.take(part).ok_or_else(|| incomplete(part))?;
            sys::process::setns(ns.as_fd(), flag).map_err(start_failure("failed to join a namespace of the pod"))?;
        }
    }
    Ok(match parts.take(Part::Shm) {
        _ if spec.ipc == NamespaceMode::Host => Shm::None,
        Some(tree) => Shm::Detached(Detached::received(tree)),
        None => Shm::Attached(run_dir.join("shm")),
    })
}

fn incomplete(part: Part) -> Refusal {
    (Reason::Invalid, format!("what is handed over has no descriptor for {part:?}"))
}

impl Supervisor {
    pub(super) fn adopt(
        single: SingleThreaded,
        spec: PodSandboxSpec,
        cgroups: Cgroups,
        run_dir: PathBuf,
        state_dir: PathBuf,
        estate: Estate,
    ) -> Result<Self, Refusal> {
        let origin = Origin::Adopted(estate.created_at_ns, estate.pod);
        let mut supervisor = Self::new(single, spec, cgroups, run_dir, state_dir, origin)?;
        for kept in estate.containers {
            supervisor.adopt_container(kept)?;
        }
        for (number, task) in estate.execs {
            supervisor.next_exec = supervisor.next_exec.max(number + 1);
            supervisor.execs.insert(number, Exec { task, starting: None, master: None, ready: true, failure: None });
        }
        supervisor.bury_unknown();
        Ok(supervisor)
    }

    fn adopt_container(&mut self, kept: KeptContainer) -> Result<(), Refusal> {
        let KeptContainer { record, state, mut parts } = kept;
        if let Some(pidfd) = parts.take(Part::Pause) {
            // The same one from every container that is in its namespace. Its id is never needed.
            self.pause.get_or_insert(Task { pid: 0, pidfd, ours: false });
        }
        let (phase, task) = match state {
            ContainerState::Starting => return refuse(Reason::Invalid, "a container that has not started"),
            ContainerState::Exited(exit) => (Phase::Exited(exit), None),
            // Its end was recorded, but the word of it did not come through. Everything is in its log then.
            ContainerState::Running(started) => match self.recorded(&record.id) {
                Some(exit) => (Phase::Exited(exit), None),
                None => {
                    let pidfd = parts.take(Part::Process).ok_or_else(|| incomplete(Part::Process))?;
                    let task = Task { pid: started.pid, pidfd, ours: false };
                    (Phase::Running(started), Some(task))
                }
            },
        };
        let container = self.adopted(record, phase, task, parts);
        self.containers.insert(self.next_container, container);
        self.next_container += 1;
        Ok(())
    }

    fn recorded(&self, id: &str) -> Option<Exit> {
        serde_json::from_slice(&std::fs::read(self.state_dir.join(id).join("exit.json")).ok()?).ok()
    }

    fn adopted(&self, record: ContainerRecord, phase: Phase, task: Option<Task>, mut parts: Parts) -> Container {
        let outputs = [parts.take(Part::Stdout), parts.take(Part::Stderr)];
        let stdin = match &outputs[0] {
            Some(master) if record.process.tty => sys::fd::dup_above(master.as_fd(), 3).ok(),
            _ => parts.take(Part::Stdin),
        };
        let mut container = Container {
            phase,
            task,
            cgroup: self.cgroups.cgroup(&record.cgroup),
            missing: Vec::new(),
            log: record.log.as_ref().map(|l| LogFile::new(&l.path, l.max_size, l.max_files)),
            log_fault: false,
            outputs,
            lines: [Lines::new(Stream::Stdout), Lines::new(Stream::Stderr)],
            spools: [None, None],
            stdin,
            stdin_pending: Vec::new(),
            attached: Vec::new(),
            record,
        };
        let spools = [parts.take(Part::StdoutSpool), parts.take(Part::StderrSpool)];
        if let Err(e) = container.adopt_spools(spools, self.now()) {
            say!("shim-{}: output of {} may be lost: {e}", self.spec.id, container.record.id);
        }
        container
    }

    /// Ends what was half started when the old supervisor died, and what it had not removed yet.
    fn bury_unknown(&mut self) {
        let Some(pod) = &self.pod_cgroup else { return };
        let known: BTreeSet<&str> = self.containers.values().filter(|c| !c.exited()).map(|c| c.cgroup.path()).collect();
        let paths = self.cgroups.children(pod.path()).into_iter().map(|child| format!("{}/{child}", pod.path()));
        let unknown: Vec<Cgroup> =
            paths.filter(|path| !known.contains(path.as_str())).map(|path| self.cgroups.cgroup(&path)).collect();
        self.dying_cgroups.extend(unknown);
    }

    /// Looks which of the processes that are not our children have ended.
    pub(super) fn reap_strangers(&mut self) {
        let gone = |task: &Task| {
            let mut ready = [PollFd::new(task.pidfd.as_fd(), true, false)];
            !task.ours && matches!(sys::fd::poll(&mut ready, Some(0)), Ok(n) if n > 0)
        };
        let status = |task: &Task| sys::process::pidfd_status(task.pidfd.as_fd(), task.pid);
        let containers: Vec<(u32, Option<Status>)> = (self.containers.iter())
            .filter_map(|(number, c)| Some((*number, c.task.as_ref().filter(|t| gone(t))?)))
            .map(|(number, task)| (number, status(task)))
            .collect();
        let execs: Vec<(u64, Option<Status>)> =
            self.execs.iter().filter(|(_, e)| gone(&e.task)).map(|(number, e)| (*number, status(&e.task))).collect();
        for (number, status) in execs {
            self.on_exec_exit(number, status);
        }
        for (number, status) in containers {
            self.on_exit(number, status);
        }
        self.pause.take_if(|pause| gone(pause));
    }
}

impl Container {
    /// Logs what the old supervisor had read and not logged. If it was writing, some of it may be there already.
    fn adopt_spools(&mut self, spools: [Option<OwnedFd>; 2], now: i64) -> io::Result<()> {
        let mut begun = [None, None];
        let mut rest = [Vec::new(), Vec::new()];
        for (stream, fd) in spools.into_iter().enumerate() {
            let Some(fd) = fd else { continue };
            let (spool, unlogged) = Spool::adopt(fd)?;
            self.lines[stream] = Lines::resumed([Stream::Stdout, Stream::Stderr][stream], unlogged.continued);
            (self.spools[stream], begun[stream], rest[stream]) = (Some(spool), unlogged.begun, unlogged.rest);
        }
        // What was begun is the end of the log as long as nothing else is written.
        for (stream, begun) in begun.into_iter().enumerate() {
            if let Some((bytes, time)) = begun {
                self.complete(stream, &bytes, time, rest[stream].len())?;
            }
        }
        for (stream, rest) in rest.iter().enumerate() {
            if let Some(Event::LogFault { message, .. }) = self.log_bytes(stream, Some(rest), now) {
                return Err(io::Error::other(message));
            }
        }
        Ok(())
    }

    /// Appends the part that is missing of the entries that `bytes` make at that time; `rest` bytes follow them in the spool.
    fn complete(&mut self, stream: usize, bytes: &[u8], time: i64, rest: usize) -> io::Result<()> {
        let (Some(log), Some(spool)) = (&mut self.log, &mut self.spools[stream]) else { return Ok(()) };
        let border = self.lines.iter().all(Lines::at_border);
        let lines = &mut self.lines[stream];
        let mut entries = Vec::new();
        lines.push(bytes, time, &mut entries);
        let tail = log.tail(entries.len())?;
        log.write(missing(&tail, &entries), border, time)?;
        spool.logged(lines.partial_len() + rest, !lines.at_border())
    }
}
