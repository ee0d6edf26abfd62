//! How fast: sizes of old and new ReplicaSets (`rolling.go`, `recreate.go`, `sync.go`, `util/deployment_util.go`). Pure.

use super::{DESIRED, MAX, Sets, available, is_recreate, replicas, spec, wanted};
use crate::plan::{Plan, Write};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::meta::MetaExt;
use api::prelude::*;
use std::collections::BTreeMap;

/// maxSurge and maxUnavailable as numbers; never both zero (`ResolveFenceposts`).
fn fenceposts(d: &Deployment) -> (i32, i32) {
    let rolling = spec(d).strategy.and_then(|s| s.rolling_update).unwrap_or_default();
    let wanted = replicas(d);
    let surge = scaled(rolling.max_surge.as_ref(), wanted, true);
    let unavailable = scaled(rolling.max_unavailable.as_ref(), wanted, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A number, or a percentage of `total`.
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let n = if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(n).unwrap_or(i32::MAX)
        }
    }
}

/// `MaxSurge`
pub(super) fn max_surge(d: &Deployment) -> i32 {
    if is_recreate(d) { 0 } else { fenceposts(d).0 }
}

/// `MaxUnavailable`
pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if is_recreate(d) || replicas(d) == 0 { 0 } else { fenceposts(d).1.min(replicas(d)) }
}

fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sets.into_iter().map(wanted).sum()
}

/// How many the new ReplicaSet, now of size `current`, may have (`NewRSNewReplicas`).
pub(super) fn new_replicas(d: &Deployment, set: &Sets<'_>, current: i32) -> i32 {
    if is_recreate(d) {
        return replicas(d);
    }
    let limit = replicas(d) + max_surge(d);
    let all = total(set.all());
    if all >= limit { current } else { current + (limit - all).min(replicas(d) - current) }
}

/// One step of a rolling update: the new up, or the old down.
pub(super) fn rolling(d: &Deployment, set: &Sets<'_>, plan: &mut Plan) {
    let Some(new) = set.new else { return };
    let target = if wanted(new) > replicas(d) { replicas(d) } else { new_replicas(d, set, wanted(new)) };
    if target != wanted(new) {
        resize(d, new, target, plan);
        return;
    }
    let old = set.active_old();
    // A status behind its spec counts pods that are about to go (upstream believes it and goes below the minimum).
    let available = |rs: &ReplicaSet| available(rs).min(wanted(rs));
    let unavailable_new = wanted(new) - available(new);
    let min_available = replicas(d) - max_unavailable(d);
    let may_go = total(set.all()) - min_available - unavailable_new;
    if old.is_empty() || may_go <= 0 {
        return;
    }
    let mut sizes: BTreeMap<&str, i32> = old.iter().map(|rs| (rs.name(), wanted(rs))).collect();
    // Unhealthy ones first: they help nobody (`cleanupUnhealthyReplicas`).
    let mut gone = 0;
    for rs in &old {
        let unhealthy = (wanted(rs) - available(rs)).clamp(0, may_go - gone);
        gone += unhealthy;
        *sizes.entry(rs.name()).or_default() -= unhealthy;
    }
    // Then healthy ones as far as availability allows (`scaleDownOldReplicaSetsForRollingUpdate`).
    let mut spare = set.all().map(available).sum::<i32>() - min_available;
    for rs in &old {
        let size = sizes.entry(rs.name()).or_default();
        let down = spare.clamp(0, *size);
        spare -= down;
        *size -= down;
    }
    for rs in old {
        resize(d, rs, sizes[rs.name()], plan);
    }
}

/// Nothing of the old is wanted or left.
pub(super) fn is_vacated(set: &Sets<'_>, running: &BTreeMap<String, usize>) -> bool {
    set.active_old().is_empty() && set.old.iter().filter_map(|rs| running.get(rs.uid())).sum::<usize>() == 0
}

/// Recreate: all old pods end before the first new one starts.
pub(super) fn recreate(d: &Deployment, set: &Sets<'_>, running: &BTreeMap<String, usize>, plan: &mut Plan) {
    let old = set.active_old();
    if !old.is_empty() {
        old.into_iter().for_each(|rs| resize(d, rs, 0, plan));
        return;
    }
    if is_vacated(set, running)
        && let Some(new) = set.new
    {
        resize(d, new, replicas(d), plan);
    }
}

/// Somebody changed the Deployment's size (`isScalingEvent`).
///
/// Differs where it became Recreate with several ReplicaSets and another size: upstream's `scale` does nothing then, so it stays as it is for
/// good. Here the rollout goes on, in which the old ones end anyway.
pub(super) fn is_scaling(d: &Deployment, set: &Sets<'_>) -> bool {
    let active = set.active();
    let nothing_to_scale = is_recreate(d) && active.len() > 1;
    !nothing_to_scale && active.into_iter().any(|rs| number(rs, DESIRED).is_some_and(|n| n != replicas(d)))
}

/// Keeps the proportions while the size changes, or while paused (`scale`).
pub(super) fn scale(d: &Deployment, set: &Sets<'_>, plan: &mut Plan) {
    let mut active = set.active();
    match active.as_slice() {
        [] => {
            if let Some(latest) = set.new.or_else(|| set.old.last().copied()) {
                resize(d, latest, replicas(d), plan);
            }
            return;
        }
        [one] => {
            resize(d, one, replicas(d), plan);
            return;
        }
        _ => {}
    }
    if set.new.is_some_and(|rs| is_saturated(d, rs)) {
        set.active_old().into_iter().for_each(|rs| resize(d, rs, 0, plan));
        return;
    }
    if is_recreate(d) {
        return;
    }
    let allowed = if replicas(d) > 0 { replicas(d) + max_surge(d) } else { 0 };
    let to_add = allowed - total(active.iter().copied());
    let created = |rs: &ReplicaSet| rs.metadata.creation_timestamp.as_ref().map(|t| t.0);
    active.sort_by(|a, b| {
        let by_age = created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name()));
        wanted(b).cmp(&wanted(a)).then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let mut sizes = Vec::new();
    for rs in &active {
        let part = proportion(d, rs, to_add, added);
        added += part;
        sizes.push(wanted(rs) + part);
    }
    sizes[0] = (sizes[0] + to_add - added).max(0);
    for (rs, size) in active.into_iter().zip(sizes) {
        resize(d, rs, size, plan);
    }
}

/// `GetReplicaSetProportion`
fn proportion(d: &Deployment, rs: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if wanted(rs) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let allowed = to_add - added;
    let part = fraction(d, rs);
    if to_add > 0 { part.min(allowed) } else { part.max(allowed) }
}

/// `getReplicaSetFraction`
fn fraction(d: &Deployment, rs: &ReplicaSet) -> i32 {
    if replicas(d) == 0 {
        return -wanted(rs);
    }
    let before =
        number(rs, MAX).filter(|n| *n != 0).or_else(|| d.status.as_ref().and_then(|s| s.replicas)).unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let size = f64::from(wanted(rs)) * f64::from(replicas(d) + max_surge(d)) / f64::from(before);
    size.round() as i32 - wanted(rs)
}

fn is_saturated(d: &Deployment, rs: &ReplicaSet) -> bool {
    wanted(rs) == replicas(d) && number(rs, DESIRED) == Some(replicas(d)) && available(rs) == replicas(d)
}

fn number(rs: &ReplicaSet, annotation: &str) -> Option<i32> {
    rs.annotation(annotation)?.parse().ok()
}

/// Writes the Deployment's size on the ReplicaSet (`SetReplicasAnnotations`).
pub(super) fn annotate_size(d: &Deployment, rs: &mut ReplicaSet) {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), replicas(d).to_string());
    annotations.insert(MAX.to_owned(), (replicas(d) + max_surge(d)).to_string());
}

/// Updates size and annotations if they differ (`scaleReplicaSet`).
fn resize(d: &Deployment, rs: &ReplicaSet, size: i32, plan: &mut Plan) {
    let mut next = rs.clone();
    annotate_size(d, &mut next);
    next.spec.get_or_insert_default().replicas = Some(size);
    if next == *rs {
        return;
    }
    let mut write = Write::update(next);
    if size != wanted(rs) {
        let direction = if size > wanted(rs) { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {} from {} to {size}", rs.name(), wanted(rs));
        write =
            write.telling(d, ("ScalingReplicaSet", &text), ("FailedScale", "Failed to scale a replica set: {error}"));
        write.on_failure = None;
    }
    plan.writes.push(write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        Deployment::decode(
            format!(
                r#"{{"metadata":{{"name":"web","uid":"d"}},"spec":{{"replicas":{replicas},"selector":{{}},"template":{{}},
                "strategy":{{"type":"RollingUpdate","rollingUpdate":{{"maxSurge":{surge},"maxUnavailable":{unavailable}}}}}}}}}"#
            )
            .as_bytes(),
        )
        .expect("literal is a Deployment")
    }

    fn set(name: &str, wanted: i32, available: i32) -> ReplicaSet {
        ReplicaSet::decode(
            format!(
                r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"spec":{{"replicas":{wanted},"selector":{{}}}},
                "status":{{"replicas":{wanted},"availableReplicas":{available}}}}}"#
            )
            .as_bytes(),
        )
        .expect("literal is a ReplicaSet")
    }

    /// The sizes a rolling step asks for, as `name=size`.
    fn check(d: &Deployment, new: (i32, i32), old: &[(i32, i32)]) -> String {
        let new = set("new", new.0, new.1);
        let old: Vec<ReplicaSet> = old.iter().enumerate().map(|(i, (w, a))| set(&format!("old{i}"), *w, *a)).collect();
        let sets = Sets { new: Some(&new), old: old.iter().collect() };
        let mut plan = Plan::done();
        rolling(d, &sets, &mut plan);
        let told = plan.writes.iter().filter_map(|w| w.on_success.as_ref());
        told.map(|e| e.message.replace("Scaled ", "").replace("replica set ", "")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_status_behind_its_spec_makes_no_room() {
        // The new one wants 1 and still tells of the 3 that it had before a rollback.
        let d = deployment(4, "0", "1");
        assert_eq!(check(&d, (1, 3), &[(3, 3)]), "down old0 from 3 to 2");
    }

    #[test]
    fn the_new_goes_up_by_the_surge_then_the_old_down_as_availability_allows() {
        let d = deployment(4, "\"25%\"", "\"25%\"");
        assert_eq!(check(&d, (0, 0), &[(4, 4)]), "up new from 0 to 1");
        assert_eq!(check(&d, (1, 0), &[(4, 4)]), "down old0 from 4 to 3");
        assert_eq!(check(&d, (1, 0), &[(3, 3)]), "up new from 1 to 2");
        assert_eq!(check(&d, (2, 0), &[(3, 3)]), "");
        assert_eq!(check(&d, (2, 2), &[(3, 3)]), "down old0 from 3 to 1");
        assert_eq!(check(&d, (4, 4), &[(1, 1)]), "down old0 from 1 to 0");
        assert_eq!(check(&d, (4, 4), &[]), "");
    }

    #[test]
    fn unhealthy_old_pods_go_first() {
        let d = deployment(10, "2", "2");
        assert_eq!(check(&d, (2, 0), &[(3, 0), (7, 7)]), "down old0 from 3 to 1");
        assert_eq!(check(&d, (2, 2), &[(3, 0), (7, 7)]), "down old0 from 3 to 0; down old1 from 7 to 6");
    }

    #[test]
    fn both_limits_zero_means_one_unavailable() {
        let d = deployment(1, "0", "\"0%\"");
        assert_eq!(fenceposts(&d), (0, 1));
        assert_eq!(check(&d, (0, 0), &[(1, 1)]), "down old0 from 1 to 0");
    }

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailable() {
        let d = deployment(3, "\"25%\"", "\"25%\"");
        assert_eq!(fenceposts(&d), (1, 0));
    }
}
