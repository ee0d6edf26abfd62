//! ImageLocality: nodes that already have the images, weighted by size and by how many nodes have them (`image_locality.go`).

use super::{MAX, Score, as_is};

const MIN_BYTES: i64 = 23 * 1024 * 1024;
const MAX_BYTES: i64 = 1000 * 1024 * 1024;

pub(super) const SCORE: Score = Score {
    name: "ImageLocality",
    weight: 1,
    score: |scoring, info| {
        let (pod, having) = (scoring.cycle.pod, &scoring.cycle.snapshot.images);
        let mut sum = 0i64;
        for name in &pod.images {
            if let Some(size) = info.images.get(name) {
                let spread = having.get(name).copied().unwrap_or(0) as f64 / scoring.nodes;
                sum = sum.saturating_add((*size as f64 * spread) as i64);
            }
        }
        let top = MAX_BYTES * i64::try_from(pod.containers).unwrap_or(1).max(1);
        MAX * (sum.clamp(MIN_BYTES, top) - MIN_BYTES) / (top - MIN_BYTES)
    },
    normalize: as_is,
};
