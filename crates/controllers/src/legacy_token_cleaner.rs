//! LegacyTokenCleaner: token Secrets that were made for an account by itself and that nobody used for a year are marked as invalid,
//! and deleted after another (`pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`).
//!
//! Watches   Secret (self: token Secrets); reads ServiceAccount, Pod, and the ConfigMap that tells since when use is noted.
//! Writes    Secret patch/delete.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use crate::token_secrets::{account_of, is_token};
use api::prelude::*;
use client::Patch;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a token may be unused (`--legacy-service-account-token-clean-up-period`).
const UNUSED: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How often each is looked at.
const LOOK: Duration = Duration::from_secs(24 * 3600);
/// Where it is told since when use is noted, by which key.
const TRACKING: (&str, &str) = ("kube-apiserver-legacy-service-account-token-tracking", "since");
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

pub(crate) struct LegacyTokenCleaner;

pub(crate) struct View {
    secret: Arc<Secret>,
    tracked_since: Option<Date>,
    /// The account lists it among its secrets: then it was not made by hand.
    is_listed: bool,
    is_mounted: bool,
}

impl Controller for LegacyTokenCleaner {
    const NAME: &'static str = "legacy-service-account-token-cleaner";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Secret>(|_, change| match &change.new {
            Some(secret) if is_token(secret) => vec![Key::of(secret.as_ref())],
            _ => Vec::new(),
        });
        watches.reads::<ServiceAccount>();
        watches.reads::<Pod>();
        watches.reads::<ConfigMap>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let secret = ctx.cache::<Secret>().get(&key.namespace, &key.name).filter(|s| is_token(s))?;
        let tracking = ctx.cache::<ConfigMap>().get("kube-system", TRACKING.0);
        let since = tracking.as_ref().and_then(|map| map.data.as_ref()?.get(TRACKING.1));
        let names = |name: &Option<String>| name.as_deref() == Some(&*key.name);
        let is_listed = account_of(&secret, ctx)
            .is_some_and(|account| account.secrets.iter().flatten().any(|reference| names(&reference.name)));
        let pods = ctx.cache::<Pod>().list();
        let is_mounted = pods.iter().filter(|pod| pod.namespace() == key.namespace).any(|pod| uses(pod, &key.name));
        Some(View { tracked_since: since.and_then(|day| day.parse().ok()), secret, is_listed, is_mounted })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        plan.again(LOOK);
        match judge(view, now) {
            Verdict::Keep => {}
            Verdict::Mark => {
                let labels = json!({INVALID_SINCE: today(now).to_string()});
                let patch = json!({"metadata": {"uid": view.secret.uid(), "labels": labels}});
                plan.writes.push(Write::patch(view.secret.as_ref(), "", Patch::Merge(patch)));
            }
            Verdict::Delete => plan.writes.push(Write::delete(view.secret.as_ref())),
        }
        plan
    }
}

enum Verdict {
    Keep,
    Mark,
    Delete,
}

fn today(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// `evaluateSATokens`
fn judge(view: &View, now: Timestamp) -> Verdict {
    let secret = &view.secret;
    let limit = now - UNUSED;
    // The day on which noting began may be missed.
    let tracked = view.tracked_since.and_then(|day| day.tomorrow().ok());
    let created = secret.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let too_young = created.is_none_or(|at| at >= limit);
    if tracked.is_none_or(|day| day > today(limit)) || too_young || secret.is_deleting() {
        return Verdict::Keep;
    }
    let label = |name: &str| secret.metadata.labels.as_ref().and_then(|l| l.get(name));
    match label(LAST_USED).map(|text| text.parse::<Date>()) {
        // What cannot be read tells nothing.
        Some(Err(_)) => return Verdict::Keep,
        Some(Ok(day)) if day >= today(limit) => return Verdict::Keep,
        _ => {}
    }
    if !view.is_listed || view.is_mounted {
        return Verdict::Keep;
    }
    match label(INVALID_SINCE).map(|text| text.parse::<Date>()) {
        Some(Ok(since)) if since >= today(limit) => Verdict::Keep,
        Some(Ok(_)) => Verdict::Delete,
        _ => Verdict::Mark,
    }
}

/// Whether a pod names the Secret (`podutil.VisitPodSecretNames`, as far as tokens go).
fn uses(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let is = |other: Option<&str>| other == Some(name);
    let in_volumes = spec.volumes.iter().flatten().any(|volume| {
        let projected = volume.projected.as_ref().and_then(|p| p.sources.as_ref());
        is(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()))
            || projected.into_iter().flatten().any(|s| s.secret.as_ref().is_some_and(|s| s.name == name))
    });
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let in_environment = containers.into_iter().any(|container| {
        let from = container.env_from.iter().flatten().any(|e| e.secret_ref.as_ref().is_some_and(|s| s.name == name));
        let one = container
            .env
            .iter()
            .flatten()
            .any(|e| e.value_from.as_ref().and_then(|v| v.secret_key_ref.as_ref()).is_some_and(|s| s.name == name));
        from || one
    });
    in_volumes || in_environment || spec.image_pull_secrets.iter().flatten().any(|s| s.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    fn check(labels: serde_json::Value, is_listed: bool, is_mounted: bool) -> &'static str {
        let secret: Arc<Secret> = object(json!({"metadata": {"name": "s", "namespace": "a", "labels": labels,
            "creationTimestamp": "2020-01-01T00:00:00Z"}, "type": "kubernetes.io/service-account-token"}));
        let tracked_since = Some("2020-01-01".parse().expect("a day"));
        let view = View { secret, tracked_since, is_listed, is_mounted };
        match judge(&view, "2026-01-01T00:00:00Z".parse().expect("a time")) {
            Verdict::Keep => "keep",
            Verdict::Mark => "mark",
            Verdict::Delete => "delete",
        }
    }

    #[test]
    fn what_is_unused_is_marked_and_then_deleted() {
        assert_eq!(check(json!({}), true, false), "mark");
        assert_eq!(check(json!({}), false, false), "keep", "made by hand");
        assert_eq!(check(json!({}), true, true), "keep", "in use by a pod");
        assert_eq!(check(json!({LAST_USED: "2025-06-01"}), true, false), "keep");
        assert_eq!(check(json!({LAST_USED: "last year"}), true, false), "keep");
        assert_eq!(check(json!({LAST_USED: "2024-06-01"}), true, false), "mark");
        assert_eq!(check(json!({INVALID_SINCE: "2025-06-01"}), true, false), "keep");
        assert_eq!(check(json!({INVALID_SINCE: "2024-06-01"}), true, false), "delete");
    }
}
