//! Files that stay in force while we run: read again when they change; what is wrong then is logged, and the old state stays
//! (`pkg/kubeapiserver/authorizer/reload.go`, `pkg/controlplane/apiserver/options/authentication…`).

use base::{Clock, DirWatch};
use machinery::digest::sha256_hex;
use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a file is looked at, should the kernel not tell of a change (that of a link's target, say).
const LOOK: Duration = Duration::from_secs(60);
/// Whoever changes a file may take some steps to it.
const SETTLE: Duration = Duration::from_millis(100);

/// What is counted of one file (`…config/metrics/metrics.go` of both).
#[derive(Clone)]
pub(crate) struct Reloads {
    /// As which this server is known.
    id: String,
    clock: Arc<dyn Clock>,
    total: IntCounterVec,
    last: GaugeVec,
    info: IntGaugeVec,
}

impl Reloads {
    /// Of the `authentication` or `authorization` of this server.
    pub(crate) fn new(what: &str, server: &str, clock: &Arc<dyn Clock>) -> Self {
        let opts = |name: &str, help: String| Opts::new(format!("apiserver_{what}_config_controller_{name}"), help);
        let well_formed = "the name is well-formed";
        let total = opts(
            "automatic_reloads_total",
            format!(
                "[BETA] Total number of automatic reloads of {what} configuration split by status and apiserver identity."
            ),
        );
        let last = opts(
            "automatic_reload_last_timestamp_seconds",
            format!(
                "[BETA] Timestamp of the last automatic reload of {what} configuration split by status and apiserver identity."
            ),
        );
        let info = opts(
            "last_config_info",
            format!(
                "[ALPHA] Information about the last applied {what} configuration with hash as label, split by apiserver identity."
            ),
        );
        let labels = ["status", "apiserver_id_hash"];
        Reloads {
            id: hash(server),
            clock: clock.clone(),
            total: IntCounterVec::new(total, &labels).expect(well_formed),
            last: GaugeVec::new(last, &labels).expect(well_formed),
            info: IntGaugeVec::new(info, &["apiserver_id_hash", "hash"]).expect(well_formed),
        }
    }

    /// For whoever shows them.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.total.clone()), Box::new(self.last.clone()), Box::new(self.info.clone())]
    }

    fn tried(&self, status: &str) {
        let labels = [status, &self.id];
        self.total.with_label_values(&labels).inc();
        self.last.with_label_values(&labels).set(self.clock.now().as_microsecond() as f64 / 1e6);
    }

    fn applied(&self, text: &str) {
        self.info.reset();
        self.info.with_label_values(&[&self.id, &hash(text)]).set(1);
    }
}

fn hash(text: &str) -> String {
    format!("sha256:{}", sha256_hex(text))
}

/// Applies a file now, which must work, and again whenever it changes.
pub(crate) fn follow(
    flag: &'static str,
    path: &Path,
    reloads: Reloads,
    apply: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    // What changes from here on is told of, or seen at the next look.
    let mut watch = watch(path);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(flag, path, &error.to_string()))?;
    apply(&text).map_err(|why| wrong(flag, path, &why))?;
    reloads.applied(&text);
    let shutdown = shutdown.clone();
    let mut followed = Followed { flag, path: path.to_owned(), reloads, apply, seen: text };
    base::tasks::detach(flag, async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = watch.changed() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(LOOK) => {}
            }
            watch = self::watch(&followed.path);
            let read = tokio::fs::read_to_string(&followed.path).await;
            followed.look(read);
        }
    });
    Ok(())
}

/// The directory of a file.
fn watch(path: &Path) -> DirWatch {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    DirWatch::new([dir.unwrap_or(Path::new("."))])
}

/// A file that is followed.
struct Followed<F> {
    flag: &'static str,
    path: PathBuf,
    reloads: Reloads,
    apply: F,
    /// What it said last, right or wrong.
    seen: String,
}

impl<F: Fn(&str) -> Result<(), String>> Followed<F> {
    fn look(&mut self, read: std::io::Result<String>) {
        let path = self.path.display();
        let text = match read {
            Ok(text) if text == self.seen => return,
            Ok(text) => text,
            Err(error) => {
                self.reloads.tried("failure");
                tracing::error!(flag = self.flag, %path, %error, "a file cannot be read; its last contents stay in force");
                return;
            }
        };
        let applied = (self.apply)(&text);
        match &applied {
            Ok(()) => {
                self.reloads.applied(&text);
                tracing::info!(flag = self.flag, %path, "a changed file is in force");
            }
            Err(error) => {
                tracing::error!(flag = self.flag, %path, error, "a changed file is wrong; its last contents stay in force");
            }
        }
        self.reloads.tried(if applied.is_ok() { "success" } else { "failure" });
        self.seen = text;
    }
}

fn wrong(flag: &str, path: &Path, why: &str) -> String {
    format!("{flag} {}: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_applied_and_a_wrong_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let reloads = Reloads::new("authorization", "apiserver-a", &base::SystemClock::shared());
        let in_force = Arc::new(Mutex::new(String::new()));
        let applied = in_force.clone();
        let apply = move |text: &str| match text {
            "wrong" => Err("it is wrong".to_owned()),
            text => {
                text.clone_into(&mut applied.lock());
                Ok(())
            }
        };
        let shutdown = CancellationToken::new();
        let missing = follow("flag", &path, reloads.clone(), apply.clone(), &shutdown).expect_err("there is no file");
        assert!(missing.starts_with("flag ") && missing.contains("No such file"), "{missing}");
        let write = |text: &str| std::fs::write(&path, text).expect("writes");
        write("one");
        follow("flag", &path, reloads.clone(), apply, &shutdown).expect("is well");
        for (text, wanted) in [("one", "one"), ("wrong", "one"), ("two", "two")] {
            write(text);
            tokio::time::sleep(LOOK * 2).await;
            assert_eq!(*in_force.lock(), wanted);
        }
        let count = |status: &str| reloads.total.with_label_values(&[status, &reloads.id]).get();
        assert_eq!((count("success"), count("failure")), (1, 1));
        std::fs::remove_file(&path).expect("is there");
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!((count("success"), count("failure") > 1), (1, true), "that it cannot be read is a failure");
        assert_eq!(*in_force.lock(), "two");
        let info = reloads.info.collect();
        let known: Vec<&str> = info[0].get_metric().iter().map(|m| m.get_label()[1].value()).collect();
        assert_eq!(known, [hash("two")]);
        shutdown.cancel();
    }
}
