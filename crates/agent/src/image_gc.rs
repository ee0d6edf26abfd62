//! Which images to remove when the disk fills (`pkg/kubelet/images/image_gc_manager.go`). Pure but for [`Records`]' memory.
//!
//! Differs: what a container or an image volume uses is what the store has a root file system for, so an image in use can
//! never be removed, whatever is remembered here.

use crate::images::Image;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Above this share of the disk images are removed (`imageGCHighThresholdPercent`), …
pub const HIGH_PERCENT: u64 = 85;
/// … down to this one (`imageGCLowThresholdPercent`).
pub const LOW_PERCENT: u64 = 80;
/// An image that came so lately may be about to be used (`imageMinimumGCAge`).
const MINIMUM_AGE: SignedDuration = SignedDuration::from_mins(2);

/// When an image was first seen and last used; forgotten with the agent, as the kubelet forgets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    first_seen: Timestamp,
    last_used: Timestamp,
}

/// What is remembered of images, by id.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<String, Record>);

impl Records {
    /// Looks at what there is and what is used.
    pub fn look(&mut self, images: &[Image], in_use: &[String], now: Timestamp) {
        self.0.retain(|id, _| images.iter().any(|i| i.id == *id));
        for image in images {
            let first = Record { first_seen: now, last_used: Timestamp::UNIX_EPOCH };
            let record = self.0.entry(image.id.clone()).or_insert(first);
            if in_use.contains(&image.id) {
                record.last_used = now;
            }
        }
    }

    /// Ids to remove, the one not used for longest first, until `bytes` are freed; and how much that is.
    pub fn plan(&self, images: &[Image], bytes: u64, now: Timestamp) -> (Vec<String>, u64) {
        let known = |image: &Image| self.0.get(&image.id).copied();
        let mut candidates: Vec<(Record, &Image)> = images.iter().filter_map(|i| Some((known(i)?, i))).collect();
        candidates.retain(|(r, _)| r.last_used < now && now.duration_since(r.first_seen) >= MINIMUM_AGE);
        candidates.sort_by_key(|(r, _)| (r.last_used, r.first_seen));
        let (mut out, mut freed) = (Vec::new(), 0);
        for (_, image) in candidates {
            if freed >= bytes {
                break;
            }
            out.push(image.id.clone());
            freed += image.size;
        }
        (out, freed)
    }
}

/// How many bytes are to be freed of a disk.
pub fn to_free(capacity: u64, available: u64) -> Option<u64> {
    if capacity == 0 {
        return None;
    }
    let available = available.min(capacity);
    let used_percent = 100 - available * 100 / capacity;
    (used_percent >= HIGH_PERCENT).then(|| (capacity / 100 * (100 - LOW_PERCENT)).saturating_sub(available))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    fn image(id: &str, size: u64) -> Image {
        Image { id: id.into(), size, ..Image::default() }
    }

    #[test]
    fn the_longest_unused_goes_first_and_neither_used_nor_new_ones_go() {
        let mut images = vec![image("used", 10), image("older", 10), image("old", 10)];
        let mut records = Records::default();
        records.look(&images, &["older".into(), "used".into()], at(0));
        records.look(&images, &["old".into(), "used".into()], at(100));
        images.push(image("new", 10));
        records.look(&images, &["used".into()], at(200));
        let plan = |bytes| records.plan(&images, bytes, at(200));
        assert_eq!(plan(5), (vec!["older".into()], 10));
        assert_eq!(plan(u64::MAX), (vec!["older".into(), "old".into()], 20));
        assert_eq!(records.plan(&images, u64::MAX, at(320)).1, 40, "time has passed since anybody looked");
    }

    #[test]
    fn a_disk_is_freed_down_to_the_low_threshold() {
        assert_eq!(to_free(1000, 160), None);
        assert_eq!(to_free(1000, 150), Some(50));
        assert_eq!(to_free(0, 0), None);
    }
}
