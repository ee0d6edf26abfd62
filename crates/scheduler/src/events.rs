//! [`Events`]: what happens in a cluster that can let a waiting pod fit, as a set (`framework.ClusterEvent`, coarser).

use std::ops::{BitOr, BitOrAssign};

/// A set of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events(u8);

impl Events {
    /// Nothing.
    pub const NONE: Events = Events(0);
    /// A node appeared, or what it offers changed.
    pub const NODE: Events = Events(1);
    /// A pod ended, was deleted, or takes less.
    pub const POD_GONE: Events = Events(1 << 1);
    /// A pod was placed, or others see it differently (labels, being deleted).
    pub const POD_PLACED: Events = Events(1 << 2);
    /// A claim, volume, class or something else about storage changed.
    pub const STORAGE: Events = Events(1 << 3);
    /// A namespace's labels changed.
    pub const NAMESPACE: Events = Events(1 << 4);
    /// A claim of devices appeared, went, or got another status.
    pub const CLAIM: Events = Events(1 << 5);
    /// Devices or a class of them changed, or devices were given back.
    pub const DEVICE: Events = Events(1 << 6);
    /// The pod itself changed, or nobody knows.
    pub const ALL: Events = Events(u8::MAX);

    /// Both.
    pub const fn and(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
    /// Whether they have something in common.
    pub fn touches(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }
    /// Whether there is one at all.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

impl BitOr for Events {
    type Output = Events;
    fn bitor(self, other: Events) -> Events {
        self.and(other)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Events) {
        *self = self.and(other);
    }
}
