//! [`LeaderElection`]: one holder of a Lease at a time, as client-go's leaderelection does.
//!
//! Differs from client-go: the holder's clock is trusted only for its own renewals; others judge by how long *they*
//! have seen no change of the lease (as client-go does, too), so clock skew between machines does not matter.

use crate::{Client, ClientError};
use api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use api::k8s::apimachinery::pkg::apis::meta::v1::MicroTime;
use api::{Object, ObjectMeta};
use base::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// client-go's defaults: 15 s, 10 s, 2 s.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Where the Lease lives.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are; unique per process.
    pub identity: String,
    /// Others wait this long after the last seen change.
    pub duration: Duration,
    /// Between renewals and attempts.
    pub retry: Duration,
}

/// Tells whether we lead.
pub struct LeaderElection {
    leading: watch::Receiver<bool>,
}

impl LeaderElection {
    /// Starts campaigning until `shutdown`, then releases the lease.
    pub fn start(client: &Client, config: LeaseConfig, clock: Arc<dyn Clock>, shutdown: CancellationToken) -> Self {
        let (sender, leading) = watch::channel(false);
        let campaign = Campaign { client: client.clone(), config, clock, seen: None, leading: sender };
        base::tasks::detach("leader-election", campaign.run(shutdown));
        LeaderElection { leading }
    }

    /// Follows changes of leadership.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.leading.clone()
    }
}

struct Campaign {
    client: Client,
    config: LeaseConfig,
    clock: Arc<dyn Clock>,
    /// The lease as last seen and when we saw it change.
    seen: Option<(String, Instant)>,
    leading: watch::Sender<bool>,
}

impl Campaign {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            match self.attempt().await {
                Ok(leads) => {
                    if leads {
                        renewed = Instant::now();
                    }
                    self.leading.send_if_modified(|l| std::mem::replace(l, leads) != leads);
                }
                Err(error) => {
                    tracing::warn!(lease = self.config.name, error = %base::chain(&error), "failed to renew the lease");
                    // Stop leading before others may start.
                    if renewed.elapsed() + self.config.retry * 2 >= self.config.duration {
                        self.leading.send_if_modified(|l| std::mem::replace(l, false));
                    }
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(self.config.retry) => {}
            }
        }
        if *self.leading.borrow() {
            self.release().await;
        }
    }

    async fn attempt(&mut self) -> Result<bool, ClientError> {
        let api = self.client.api::<Lease>();
        let Some(lease) = api.find(&self.config.namespace, &self.config.name).await? else {
            return match api.create(&self.fresh()).await {
                Ok(_) => Ok(true),
                Err(e) if e.is_already_exists() => Ok(false),
                Err(e) => Err(e),
            };
        };
        let version = lease.meta().resource_version.clone().unwrap_or_default();
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(v, _)| *v != version) {
            self.seen = Some((version, Instant::now()));
        }
        let fresh = self.seen.as_ref().is_some_and(|(_, at)| at.elapsed() < self.config.duration);
        if holder != self.config.identity && !holder.is_empty() && fresh {
            return Ok(false);
        }
        let mut next = lease;
        next.spec = Some(self.renewed(spec, &holder));
        match api.update(&next).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_conflict() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn fresh(&self) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.config.name.clone()),
            namespace: Some(self.config.namespace.clone()),
            ..ObjectMeta::default()
        };
        let mut spec = self.renewed(LeaseSpec::default(), &self.config.identity);
        spec.lease_transitions = Some(0);
        spec.acquire_time = spec.renew_time.clone();
        Lease { metadata, spec: Some(spec) }
    }

    fn renewed(&self, old: LeaseSpec, holder: &str) -> LeaseSpec {
        let now = MicroTime(self.clock.now());
        let changed = holder != self.config.identity;
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: if changed { Some(now.clone()) } else { old.acquire_time },
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(changed)),
            renew_time: Some(now),
            ..old
        }
    }

    /// Gives the lease up, so that the next leader need not wait.
    async fn release(&self) {
        let api = self.client.api::<Lease>();
        let Ok(mut lease) = api.get(&self.config.namespace, &self.config.name).await else { return };
        if let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_deref() == Some(&self.config.identity)
        {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            if let Err(error) = api.update(&lease).await {
                tracing::debug!(error = %base::chain(&error), "failed to release the lease; it expires by itself");
            }
        }
    }
}
