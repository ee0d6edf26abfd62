//! Ends pods in order when the machine shuts down (`pkg/kubelet/nodeshutdown`), while logind waits for us.
//!
//! [`Settings`] say how long pods of which priority have; [`groups`] is pure; [`run`] listens to logind ([`logind`]), and on its word
//! makes the node not ready, refuses new pods, and ends group after group, the least important first.
//!
//! Differs: what logind grants at most is raised by a file below `/run` (upstream: `/etc`), which is gone with the boot.

#[cfg(test)]
pub(crate) mod fake;
pub mod logind;
pub mod times;

use crate::agent::AgentHandle;
use crate::cluster::ClusterEvent;
use crate::context::Context;
use crate::pod::admission::Rejection;
use crate::pod::observe::Observation;
use crate::pod::seen::Volumes;
use crate::pod::view;
use crate::pod::worker::PodView;
use api::meta::MetaExt;
use logind::Logind;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use times::Times;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// `status.reason` of a pod that was ended.
pub const REASON: &str = "Terminated";
/// Its message.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// What makes the node not ready.
pub const NOT_READY: &str = "node is shutting down";
/// `scheduling.SystemCriticalPriority`
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// How long logind may take to answer or to come back (`dbusReconnectPeriod`).
const AGAIN: Duration = Duration::from_secs(1);

/// How long pods have to stop, from this priority on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// The least priority that it is for.
    pub priority: i32,
    /// How long.
    pub seconds: u64,
}

/// Periods, the lowest priority first; without any, shutdowns are not waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(Vec<Period>);

/// Settings that make no sense; the sentences are upstream's (`apis/config/validation`).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// More for some than for all.
    #[error("shutdown-grace-period-critical-pods must be <= shutdown-grace-period")]
    CriticalLonger,
    /// Less than a second.
    #[error("{0} must be either zero or otherwise >= 1 sec")]
    TooShort(&'static str),
    /// Two ways of saying it.
    #[error("cannot specify both shutdown-grace-period-by-pod-priority and shutdown-grace-period at the same time")]
    Both,
    /// Not readable.
    #[error("shutdown-grace-period-by-pod-priority: {0:?} is not a list like 0=30,2000000000=10 (PRIORITY=SECONDS)")]
    Syntax(String),
}

impl Settings {
    /// From what the administrator says: all pods together, of that critical ones; or by priority.
    pub fn new(all: Duration, critical: Duration, by_priority: Option<&str>) -> Result<Self, SettingsError> {
        let short = |time: Duration| time > Duration::ZERO && time < Duration::from_secs(1);
        if critical > all {
            return Err(SettingsError::CriticalLonger);
        }
        if short(all) {
            return Err(SettingsError::TooShort("shutdown-grace-period"));
        }
        if short(critical) {
            return Err(SettingsError::TooShort("shutdown-grace-period-critical-pods"));
        }
        let Some(text) = by_priority else { return Ok(Self::of_two(all, critical)) };
        if all > Duration::ZERO {
            return Err(SettingsError::Both);
        }
        let period = |part: &str| {
            let (priority, seconds) = part.split_once('=')?;
            Some(Period { priority: priority.trim().parse().ok()?, seconds: seconds.trim().parse().ok()? })
        };
        let periods: Option<Vec<Period>> = text.split(',').map(period).collect();
        let mut periods = periods.ok_or_else(|| SettingsError::Syntax(text.to_owned()))?;
        periods.sort_by_key(|p| p.priority);
        Ok(Settings(periods))
    }

    /// `migrateConfig`
    fn of_two(all: Duration, critical: Duration) -> Self {
        if all.is_zero() {
            return Settings::default();
        }
        let ordinary = Period { priority: 0, seconds: (all - critical).as_secs() };
        Settings(vec![ordinary, Period { priority: SYSTEM_CRITICAL, seconds: critical.as_secs() }])
    }

    /// Whether shutdowns are waited for.
    pub fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// How long everything may take.
    fn total(&self) -> Duration {
        Duration::from_secs(self.0.iter().map(|p| p.seconds).sum())
    }
}

/// Pods that are ended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<P> {
    /// What they have.
    pub grace: Duration,
    /// Which.
    pub pods: Vec<P>,
}

/// Who is ended when: a pod belongs to the highest period that is not above it, or to the lowest (`groupByPriority`). Groups that have
/// nobody are left out.
pub fn groups<P>(settings: &Settings, pods: impl IntoIterator<Item = (i32, P)>) -> Vec<Group<P>> {
    let mut out: Vec<Group<P>> =
        settings.0.iter().map(|p| Group { grace: Duration::from_secs(p.seconds), pods: Vec::new() }).collect();
    for (priority, pod) in pods {
        let at = settings.0.partition_point(|p| p.priority <= priority).saturating_sub(1);
        if let Some(group) = out.get_mut(at) {
            group.pods.push(pod);
        }
    }
    out.retain(|g| !g.pods.is_empty());
    out
}

/// Whether the machine shuts down.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown(watch::Sender::new(false))
    }
}

impl Shutdown {
    /// Whether it does now.
    pub fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Notices when it begins, and when it is called off.
    pub fn moves(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    /// No pod is taken meanwhile.
    pub fn admit(&self) -> Result<(), Rejection> {
        if self.is_on() {
            return Err(Rejection {
                reason: "NodeShutdown".into(),
                message: "Pod was rejected as the node is shutting down.".into(),
            });
        }
        Ok(())
    }
}

/// Waits for shutdowns until `stop`. A logind that cannot be reached is tried again, and the log says so once.
pub async fn run(agent: AgentHandle, context: Arc<Context>, stop: CancellationToken) {
    if !context.config.shutdown.is_on() {
        return;
    }
    let mut told = false;
    loop {
        let watched = async {
            let logind = Logind::connect().await?;
            watch_over(&logind, &agent, &context).await
        };
        tokio::select! {
            () = stop.cancelled() => return,
            result = watched => match result {
                Err(error) if !told => {
                    tracing::error!(error = %base::chain(&error), "cannot wait for shutdowns of the machine, trying again");
                    told = true;
                }
                Err(_) => {}
                Ok(()) => told = false,
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Holds shutdowns up, and ends the pods when there is one, as long as logind lives.
pub(crate) async fn watch_over(
    logind: &Logind,
    agent: &AgentHandle,
    context: &Context,
) -> Result<(), logind::LogindError> {
    logind.grant(context.config.shutdown.total()).await?;
    let mut signals = logind.shutdowns().await?;
    let mut lock = Some(logind.inhibit().await?);
    while let Some(begins) = signals.next().await {
        let what = if begins { "event" } else { "cancellation" };
        let message = format!("Shutdown manager detected shutdown {what}");
        let event = ClusterEvent { pod: None, field_path: None, warning: false, reason: "Shutdown", message: &message };
        context.cluster.event(event);
        context.shutdown.0.send_replace(begins);
        if begins {
            let data_dir = &context.config.data_dir;
            let mut times = Times { start_time: Some(context.clock.now()), end_time: None };
            times.save(data_dir);
            end_all(agent, context).await;
            times.end_time = Some(context.clock.now());
            times.save(data_dir);
            // The machine goes on with its shutdown.
            drop(lock.take());
        } else {
            lock = Some(logind.inhibit().await?);
        }
    }
    Ok(())
}

/// Ends all pods, group after group (`killPods`).
async fn end_all(agent: &AgentHandle, context: &Context) {
    // Those that end already, too: they may have taken their time, and the machine does not (`GetActivePods`).
    let active = agent.views().into_iter().filter(|v| v.seen.may_run());
    let active = active.map(|v| (view::spec(&v.pod).priority.unwrap_or(0), v.pod));
    for group in groups(&context.config.shutdown, active) {
        for pod in &group.pods {
            tracing::info!(pod = view::describe(pod), grace = ?group.grace, "ending a pod before the machine shuts down");
            let (reason, message) = (REASON.into(), MESSAGE.into());
            let ends = Observation::Evicted { reason, message, grace: group.grace, disrupted: true };
            agent.tell(pod.uid(), ends);
        }
        let uids: Vec<&str> = group.pods.iter().map(|p| p.uid()).collect();
        if tokio::time::timeout(group.grace, all_over(agent, &uids)).await.is_err() {
            tracing::warn!(pods = uids.len(), "some of these pods did not end in time");
        }
    }
}

/// Waits until nothing of these pods runs and their volumes are free, so that a CSI driver, which goes later, can let go of them.
async fn all_over(agent: &AgentHandle, uids: &[&str]) {
    let is_over = |v: &PodView| !v.seen.may_run() && matches!(v.seen.volumes, Volumes::Pending | Volumes::Unmounted);
    for uid in uids {
        let Some(mut views) = agent.follow(uid) else { continue };
        // An error is the end of the worker, and so of the pod.
        views.wait_for(is_over).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(all: u64, critical: u64, by_priority: Option<&str>) -> Result<Settings, String> {
        let seconds = Duration::from_secs;
        Settings::new(seconds(all), seconds(critical), by_priority).map_err(|e| e.to_string())
    }

    fn check(settings: &Settings, want: &str) {
        let pods = [-5, 0, 10, 100, 1999, 2_000_000_000, 2_000_001_000].map(|p| (p, p));
        let shown: Vec<String> =
            groups(settings, pods).into_iter().map(|g| format!("{}s {:?}", g.grace.as_secs(), g.pods)).collect();
        assert_eq!(shown.join("; "), want);
    }

    #[test]
    fn pods_are_ended_by_priority_the_least_important_first() {
        check(&settings(30, 10, None).expect("valid"), "20s [-5, 0, 10, 100, 1999]; 10s [2000000000, 2000001000]");
        check(
            &settings(0, 0, Some("1000=3, 10=2,100000=9,2000000000=1")).expect("valid"),
            "2s [-5, 0, 10, 100]; 3s [1999]; 1s [2000000000, 2000001000]",
        );
        check(&settings(0, 0, None).expect("valid"), "");
    }

    #[test]
    fn settings_that_make_no_sense() {
        let error = |all, critical, list| settings(all, critical, list).expect_err("is refused");
        assert_eq!(error(1, 2, None), "shutdown-grace-period-critical-pods must be <= shutdown-grace-period");
        assert!(error(1, 0, Some("0=1")).starts_with("cannot specify both"));
        assert!(error(0, 0, Some("high=1")).contains("PRIORITY=SECONDS"));
        let short = Settings::new(Duration::from_millis(5), Duration::ZERO, None).expect_err("is refused");
        assert_eq!(short.to_string(), "shutdown-grace-period must be either zero or otherwise >= 1 sec");
    }
}
