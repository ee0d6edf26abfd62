//! [`normalize`]: a proposed size within bounds, rates and what was recommended recently (`horizontal.go`). Pure.

use api::k8s::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use jiff::{SignedDuration, Timestamp};

/// `--horizontal-pod-autoscaler-downscale-stabilization`
const DOWNSCALE_STABILIZATION: i32 = 300;
/// The longest window that a rule may have, and so how long anything is remembered.
const LONGEST: i32 = 3600;

/// What was recommended, and how the size changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    recommendations: Vec<(Timestamp, i32)>,
    /// Pods added (positive) and taken away.
    changes: Vec<(Timestamp, i32)>,
}

fn since(now: Timestamp, seconds: i32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MIN)
}

impl Memory {
    /// The size at the start counts as recommended.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    fn recommend(&mut self, replicas: i32, now: Timestamp) {
        self.recommendations.retain(|(at, _)| *at >= since(now, LONGEST));
        self.recommendations.push((now, replicas));
    }

    /// The size changed.
    pub(super) fn scaled(&mut self, by: i32, now: Timestamp) {
        self.changes.retain(|(at, _)| *at >= since(now, LONGEST));
        self.changes.push((now, by));
    }

    fn recent(&self, now: Timestamp, seconds: i32) -> impl Iterator<Item = i32> {
        self.recommendations.iter().filter(move |(at, _)| *at > since(now, seconds)).map(|(_, n)| *n)
    }

    fn changed(&self, now: Timestamp, seconds: i32) -> i32 {
        self.changes.iter().filter(|(at, _)| *at > since(now, seconds)).map(|(_, by)| by).sum()
    }
}

pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) proposed: i32,
    pub(super) least: i32,
    pub(super) most: i32,
}

pub(super) struct Outcome {
    pub(super) replicas: i32,
    /// Type, whether it holds, reason, message.
    pub(super) conditions: Vec<(&'static str, bool, &'static str, &'static str)>,
}

const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

/// `normalizeDesiredReplicas`, `normalizeDesiredReplicasWithBehaviors`
pub(super) fn normalize(
    b: &Bounds,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    memory: &mut Memory,
    now: Timestamp,
) -> Outcome {
    let (stable, why, (replicas, limit)) = match behavior {
        None => {
            let stable = memory.recent(now, DOWNSCALE_STABILIZATION).fold(b.proposed, i32::max);
            (stable, DOWN_STABILIZED, within_rules(b, stable))
        }
        Some(behavior) => {
            let (stable, why) = stabilize(b, behavior, memory, now);
            (stable, why, within_rates(b, stable, behavior, memory, now))
        }
    };
    memory.recommend(b.proposed, now);
    let (reason, text) =
        if stable == b.proposed { ("ReadyForNewScale", "recommended size matches current size") } else { why };
    let conditions =
        vec![("AbleToScale", true, reason, text), ("ScalingLimited", replicas != stable, limit.0, limit.1)];
    Outcome { replicas, conditions }
}

type Limit = (&'static str, &'static str);

/// `convertDesiredReplicasWithRules`: at most twice as many, but at least four.
fn within_rules(b: &Bounds, stable: i32) -> (i32, Limit) {
    let fastest = b.current.saturating_mul(2).max(4);
    let (most, limit) = if b.most > fastest { (fastest, TOO_FAST_UP) } else { (b.most, TOO_MANY) };
    if stable < b.least {
        (b.least, TOO_FEW)
    } else if stable > most {
        (most, limit)
    } else {
        (stable, WITHIN)
    }
}

/// `stabilizeRecommendationWithBehaviors`
fn stabilize(b: &Bounds, behavior: &HorizontalPodAutoscalerBehavior, memory: &Memory, now: Timestamp) -> (i32, Limit) {
    let window = |rules: Option<&HPAScalingRules>, default| {
        rules.and_then(|r| r.stabilization_window_seconds).unwrap_or(default)
    };
    let up = memory.recent(now, window(behavior.scale_up.as_ref(), 0)).fold(b.proposed, i32::min);
    let down_window = window(behavior.scale_down.as_ref(), DOWNSCALE_STABILIZATION);
    let down = memory.recent(now, down_window).fold(b.proposed, i32::max);
    let stable = b.current.max(up).min(down);
    (stable, if b.proposed >= b.current { UP_STABILIZED } else { DOWN_STABILIZED })
}

/// `convertDesiredReplicasWithBehaviorRate`
fn within_rates(
    b: &Bounds,
    stable: i32,
    behavior: &HorizontalPodAutoscalerBehavior,
    memory: &Memory,
    now: Timestamp,
) -> (i32, Limit) {
    if stable > b.current {
        let fastest = rate(b.current, behavior.scale_up.as_ref(), memory, now, 1).max(b.current);
        let (most, limit) = if b.most > fastest { (fastest, TOO_FAST_UP) } else { (b.most, TOO_MANY) };
        if stable > most {
            return (most, limit);
        }
    } else if stable < b.current {
        let fastest = rate(b.current, behavior.scale_down.as_ref(), memory, now, -1).min(b.current);
        let (least, limit) = if b.least < fastest { (fastest, TOO_FAST_DOWN) } else { (b.least, TOO_FEW) };
        if stable < least {
            return (least, limit);
        }
    }
    (stable, WITHIN)
}

/// How far the policies let the size go in the direction of `sign` (`calculateScaleUpLimitWithScalingRules`,
/// `calculateScaleDownLimitWithBehaviors`). The API server has filled in what rules leave out.
fn rate(current: i32, rules: Option<&HPAScalingRules>, memory: &Memory, now: Timestamp, sign: i32) -> i32 {
    let unlimited = if sign > 0 { i32::MAX } else { 0 };
    let Some(rules) = rules else { return unlimited };
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let limits = rules.policies.iter().flatten().map(|policy| {
        let start = current - memory.changed(now, policy.period_seconds);
        if policy.type_ == "Pods" {
            return start.saturating_add(sign * policy.value);
        }
        let part = f64::from(start) * (1.0 + f64::from(sign) * f64::from(policy.value) / 100.0);
        // Rounded up, or a small size could never grow.
        (if sign > 0 { part.ceil() } else { part }).clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
    });
    // The largest change is the highest limit upwards and the lowest downwards.
    let highest = (select == "Min") != (sign > 0);
    (if highest { limits.max() } else { limits.min() }).unwrap_or(unlimited)
}
