//! Plugins: programs of the node that make themselves known by a socket in a directory (`pkg/kubelet/pluginmanager`).
//!
//! ```text
//!   a socket appears ─▶ GetInfo ─▶ the handler of its type: validate, register ─▶ NotifyRegistrationStatus
//!   it goes, or is another one ─▶ the handler: deregister
//! ```
//!
//! [`Handlers`] is the table of types. One task per socket: a plugin that hangs holds up no other. A registration that fails
//! is tried again with pauses for as long as the socket is there; a restart of the agent registers everything anew and
//! deregisters nothing.

pub mod csi;
pub mod dra;

use async_trait::async_trait;
use base::DirWatch;
use base::backoff::Backoff;
use node_api::plugin_registration::registration_client::RegistrationClient;
use node_api::plugin_registration::{InfoRequest, PluginInfo, RegistrationStatus};
use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// `dialTimeoutDuration`
const DIAL: Duration = Duration::from_secs(10);
/// How long a plugin may take to say what it is, and to hear what became of it (`notifyTimeoutDuration`).
const ANSWER: Duration = Duration::from_secs(5);
/// Pauses between attempts (`goroutinemap/exponentialbackoff`).
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// Changes that nobody tells of are found after this.
const PERIOD: Duration = Duration::from_secs(20);

/// A plugin, as it introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Its type: whose table entry it is for.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Where it serves.
    pub endpoint: PathBuf,
    /// What versions of its interface it speaks.
    pub versions: Vec<String>,
}

/// What is done with plugins of one type. Errors are upstream's texts, which the plugin gets to see.
#[async_trait]
pub trait PluginHandler: Send + Sync {
    /// Whether it can be used at all.
    fn validate(&self, plugin: &Plugin) -> Result<(), String>;
    /// Takes it into use.
    async fn register(&self, plugin: &Plugin) -> Result<(), String>;
    /// It is gone.
    async fn deregister(&self, plugin: &Plugin);
}

/// By type: `CSIPlugin`, `DevicePlugin`, …
pub type Handlers = BTreeMap<&'static str, Arc<dyn PluginHandler>>;

/// A connection to a socket of the node.
pub async fn connect(socket: &Path) -> Result<Channel, String> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).map_err(|e| base::chain(&e))?;
    endpoint.connect_timeout(DIAL).connect().await.map_err(|e| base::chain(&e))
}

/// An answer's error as Go's gRPC prints it.
pub fn rpc_error(status: &tonic::Status) -> String {
    format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
}

/// How it ended, in Go's words.
pub fn code_name(code: tonic::Code) -> String {
    match code {
        tonic::Code::Ok => "OK".to_owned(),
        tonic::Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Ends a call that takes too long as gRPC does.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded("context deadline exceeded")),
    }
}

/// Tells one socket from another of the same name.
type Stamp = (u64, u64, i64, i64);

/// Watches a directory and everything below it for sockets.
pub struct Registrar {
    dir: PathBuf,
    handlers: Arc<Handlers>,
    known: BTreeMap<PathBuf, Known>,
}

struct Known {
    stamp: Stamp,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Registrar {
    /// Touches nothing yet.
    pub fn new(dir: PathBuf, handlers: Handlers) -> Self {
        Registrar { dir, handlers: Arc::new(handlers), known: BTreeMap::new() }
    }

    /// Runs until `shutdown`; plugins stay registered.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if let Err(error) = std::fs::create_dir_all(&self.dir) {
            tracing::error!(dir = %self.dir.display(), %error, "failed to make the directory where plugins register");
        }
        loop {
            let dirs = dirs(&self.dir);
            let mut watch = DirWatch::new(dirs.iter().map(PathBuf::as_path));
            self.compare(sockets(&dirs), &shutdown);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = watch.changed() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    fn compare(&mut self, found: BTreeMap<PathBuf, Stamp>, shutdown: &CancellationToken) {
        let gone: Vec<PathBuf> = self.known.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for known in gone.iter().filter_map(|path| self.known.remove(path)) {
            known.stop.cancel();
        }
        for (socket, stamp) in found {
            if self.known.get(&socket).is_some_and(|k| k.stamp == stamp) {
                continue;
            }
            let before = self.known.remove(&socket).map(|k| {
                k.stop.cancel();
                k.task
            });
            let stop = CancellationToken::new();
            let keep = keep(socket.clone(), self.handlers.clone(), before, stop.clone(), shutdown.clone());
            let task = base::tasks::spawn("plugin", keep);
            self.known.insert(socket, Known { stamp, stop, task });
        }
    }
}

/// The directory and those below it.
fn dirs(root: &Path) -> Vec<PathBuf> {
    let mut out = vec![root.to_path_buf()];
    let mut next = 0;
    while let Some(dir) = out.get(next).cloned() {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        out.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        next += 1;
    }
    out
}

/// Sockets whose names do not begin with a dot.
fn sockets(dirs: &[PathBuf]) -> BTreeMap<PathBuf, Stamp> {
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
    let shown = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    let stamped = shown.filter_map(|entry| {
        let meta = entry.metadata().ok().filter(|m| m.file_type().is_socket())?;
        Some((entry.path(), (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())))
    });
    stamped.collect()
}

/// One socket's life: registered as soon as possible, deregistered when it is gone.
async fn keep(
    socket: PathBuf,
    handlers: Arc<Handlers>,
    before: Option<JoinHandle<()>>,
    stop: CancellationToken,
    shutdown: CancellationToken,
) {
    if let Some(before) = before {
        // Another socket of this name must be done with first; however it ended.
        before.await.ok();
    }
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let registered = loop {
        // Never broken off because the socket goes: what a handler has taken it must also give up.
        let error = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = register(&socket, &handlers) => match outcome {
                Ok(plugin) => break plugin,
                Err(error) => error,
            },
        };
        tracing::warn!(socket = %socket.display(), error, "failed to register a plugin");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.fail()) => {}
        }
    };
    tracing::info!(kind = registered.kind, name = registered.name, socket = %socket.display(), "registered a plugin");
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = stop.cancelled() => {}
    }
    if let Some(handler) = handlers.get(registered.kind.as_str()) {
        tracing::info!(kind = registered.kind, name = registered.name, "a plugin is gone");
        handler.deregister(&registered).await;
    }
}

/// `GenerateRegisterPluginFunc`
async fn register(socket: &Path, handlers: &Handlers) -> Result<Plugin, String> {
    let at = socket.display();
    let channel =
        connect(socket).await.map_err(|e| format!("RegisterPlugin error -- dial failed at socket {at}, err: {e}"))?;
    let mut client = RegistrationClient::new(channel);
    let info = within(ANSWER, client.get_info(InfoRequest {})).await.map_err(|e| {
        format!(
            "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {at}, err: {}",
            rpc_error(&e)
        )
    })?;
    let plugin = introduced(info, socket);
    let outcome = match handlers.get(plugin.kind.as_str()) {
        None => Err(format!(
            "RegisterPlugin error -- no handler registered for plugin type: {} at socket {at}",
            plugin.kind
        )),
        Some(handler) => match handler.validate(&plugin) {
            Err(e) => Err(format!("RegisterPlugin error -- plugin validation failed with err: {e}")),
            Ok(()) => handler
                .register(&plugin)
                .await
                .map_err(|e| format!("RegisterPlugin error -- plugin registration failed with err: {e}"))
                .map(|()| handler),
        },
    };
    let error = outcome.as_ref().err().cloned().unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: outcome.is_ok(), error };
    let told = within(ANSWER, client.notify_registration_status(status)).await;
    let handler = outcome?;
    if let Err(e) = told {
        handler.deregister(&plugin).await;
        let e = rpc_error(&e);
        return Err(format!("RegisterPlugin error -- failed to send registration status at socket {at}, err: {e}"));
    }
    Ok(plugin)
}

fn introduced(info: PluginInfo, socket: &Path) -> Plugin {
    let endpoint = if info.endpoint.is_empty() { socket.to_path_buf() } else { info.endpoint.into() };
    Plugin { kind: info.r#type, name: info.name, endpoint, versions: info.supported_versions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::plugin_registration::RegistrationStatusResponse;
    use node_api::plugin_registration::registration_server::{Registration, RegistrationServer};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, Status};

    /// A plugin that tells what it hears.
    struct Fake {
        kind: &'static str,
        heard: mpsc::UnboundedSender<String>,
    }

    #[async_trait]
    impl Registration for Fake {
        async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
            Ok(Response::new(PluginInfo {
                r#type: self.kind.into(),
                name: "p".into(),
                endpoint: String::new(),
                supported_versions: vec!["1.0.0".into()],
            }))
        }

        async fn notify_registration_status(
            &self,
            status: Request<RegistrationStatus>,
        ) -> Result<Response<RegistrationStatusResponse>, Status> {
            let status = status.into_inner();
            self.heard
                .send(format!("registered={} {}", status.plugin_registered, status.error))
                .expect("the test listens");
            Ok(Response::new(RegistrationStatusResponse {}))
        }
    }

    /// A handler that tells what it is asked.
    struct Told(mpsc::UnboundedSender<String>);

    #[async_trait]
    impl PluginHandler for Told {
        fn validate(&self, plugin: &Plugin) -> Result<(), String> {
            if plugin.name == "p" { Ok(()) } else { Err("a strange name".into()) }
        }
        async fn register(&self, plugin: &Plugin) -> Result<(), String> {
            let file = plugin.endpoint.file_name().expect("a path").to_string_lossy().into_owned();
            self.0.send(format!("register {} at {file}", plugin.name)).map_err(|e| e.to_string())
        }
        async fn deregister(&self, plugin: &Plugin) {
            self.0.send(format!("deregister {}", plugin.name)).expect("the test listens");
        }
    }

    fn serve(socket: &Path, kind: &'static str, heard: &mpsc::UnboundedSender<String>) -> JoinHandle<()> {
        let listener = UnixListener::bind(socket).expect("a socket");
        let incoming = UnixListenerStream::new(listener);
        let service = RegistrationServer::new(Fake { kind, heard: heard.clone() });
        base::tasks::spawn("fake plugin", async move {
            tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.expect("it serves");
        })
    }

    #[tokio::test]
    async fn sockets_that_come_and_go_are_registered_and_deregistered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (sender, mut told) = mpsc::unbounded_channel();
        let handlers = Handlers::from([("Known", Arc::new(Told(sender.clone())) as Arc<dyn PluginHandler>)]);
        let shutdown = CancellationToken::new();
        let root = dir.path().join("plugins_registry");
        let run = base::tasks::spawn("registrar", Registrar::new(root.clone(), handlers).run(shutdown.clone()));
        while !root.exists() {
            tokio::task::yield_now().await;
        }
        let socket = root.join("a.sock");
        let server = serve(&socket, "Known", &sender);
        assert_eq!(told.recv().await.as_deref(), Some("register p at a.sock"));
        assert_eq!(told.recv().await.as_deref(), Some("registered=true "));
        // Another one in its place: the old one goes first.
        server.abort();
        std::fs::remove_file(&socket).expect("it was there");
        let server = serve(&socket, "Known", &sender);
        assert_eq!(told.recv().await.as_deref(), Some("deregister p"));
        assert_eq!(told.recv().await.as_deref(), Some("register p at a.sock"));
        assert_eq!(told.recv().await.as_deref(), Some("registered=true "));
        server.abort();
        std::fs::remove_file(&socket).expect("it was there");
        assert_eq!(told.recv().await.as_deref(), Some("deregister p"));
        let strange = root.join("b.sock");
        let server = serve(&strange, "Other", &sender);
        let error = format!(
            "registered=false RegisterPlugin error -- no handler registered for plugin type: Other at socket {}",
            strange.display()
        );
        assert_eq!(told.recv().await, Some(error));
        server.abort();
        shutdown.cancel();
        run.await.expect("it ends");
    }
}
