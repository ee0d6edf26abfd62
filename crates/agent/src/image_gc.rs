//! Which images to remove when the disk fills (`pkg/kubelet/images/image_gc_manager.go`). Pure but for [`Records`]' memory.
//!
//! Differs: what a container or an image volume uses is what the store has a root file system for, so an image in use can
//! never be removed, whatever is remembered here.

use crate::images::Image;
use crate::node::Machine;
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

/// Why there is no room, as the event that tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The event's reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

/// How many bytes are to be freed of a disk; none of one that has room.
pub fn to_free(capacity: u64, available: u64) -> Result<u64, Failure> {
    if capacity == 0 {
        let message = "invalid capacity 0 on image filesystem".to_owned();
        return Err(Failure { reason: "InvalidDiskCapacity", message });
    }
    let full = used_percent(capacity, available) >= HIGH_PERCENT;
    Ok(if full { (capacity / 100 * (100 - LOW_PERCENT)).saturating_sub(available) } else { 0 })
}

/// Whether so much as was wanted has been freed.
pub fn judge(machine: &Machine, wanted: u64, freed: u64) -> Result<(), Failure> {
    if freed >= wanted {
        return Ok(());
    }
    let message = format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient \
         space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active \
         images, logs, volumes, or other data.",
        used_percent(machine.disk, machine.disk_available),
        size(machine.disk)
    );
    Err(Failure { reason: "FreeDiskSpaceFailed", message })
}

/// `formatSize`
fn size(bytes: u64) -> String {
    let (unit, power) = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, power)| bytes >> power > 0)
        .unwrap_or(("B", 0));
    // In tenths, and to the nearest.
    let tenths = (u128::from(bytes) * 20 / (1 << power)).div_ceil(2);
    if power == 0 { format!("{bytes} {unit}") } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

fn used_percent(capacity: u64, available: u64) -> u64 {
    100 - available.min(capacity) * 100 / capacity.max(1)
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
        assert_eq!(to_free(1000, 160), Ok(0));
        assert_eq!(to_free(1000, 150), Ok(50));
        assert_eq!(to_free(0, 0).expect_err("no disk").reason, "InvalidDiskCapacity");
        let machine = Machine { disk: 1 << 30, disk_available: 1 << 20, ..Machine::default() };
        assert_eq!([size(900), size(1536), size(10 << 30)], ["900 B", "1.5 KiB", "10.0 GiB"]);
        assert_eq!(judge(&machine, 5, 5), Ok(()));
        let failure = judge(&machine, 5, 4).expect_err("too little");
        assert!(
            failure.message.contains("(100% of 1.0 GiB used)") && failure.message.contains("(freed 4 bytes)"),
            "{failure:?}"
        );
    }
}
