//! Named tasks. Every spawn in the product goes through here, so a log line and a panic have a name.

use std::future::Future;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// Spawns `future` inside a tracing span called `name`. A panic in it ends only this task; the span names it.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    tokio::spawn(future.instrument(tracing::info_span!("task", name)))
}

/// Spawns a task that lives until its future ends and whose result nobody awaits.
pub fn detach<F>(name: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(spawn(name, future));
}
