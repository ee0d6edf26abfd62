//! When the node has too little left: the hard eviction thresholds (`pkg/kubelet/eviction`, `apis/config/v1beta1/defaults_linux.go`).
//!
//! Pure. The thresholds make the node's pressure conditions and are kept out of what pods may be promised.

use crate::node::Machine;
use machinery::quantity::Quantity;
use std::str::FromStr;
use thiserror::Error;

/// Below this it is too little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// An amount: bytes, or files.
    Amount(u64),
    /// A share of what there is, 0 to 1.
    Share(f64),
}

impl Threshold {
    /// As an amount, of a resource that has `capacity` in all.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a size"
    )]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Threshold::Amount(amount) => amount,
            Threshold::Share(share) => (capacity as f64 * share) as u64,
        }
    }
}

/// The kubelet's `evictionHard`. A signal that is not named is not watched, as there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Thresholds {
    /// `memory.available`
    pub memory: Option<Threshold>,
    /// `nodefs.available`; `imagefs.available` means the same file system here.
    pub disk: Option<Threshold>,
    /// `nodefs.inodesFree`
    pub inodes: Option<Threshold>,
    /// `pid.available`
    pub pids: Option<Threshold>,
}

/// Upstream's defaults for Linux.
pub const DEFAULT: Thresholds = Thresholds {
    memory: Some(Threshold::Amount(100 << 20)),
    disk: Some(Threshold::Share(0.10)),
    inodes: Some(Threshold::Share(0.05)),
    pids: None,
};

/// What is wrong with a text of thresholds.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ThresholdError {
    /// Not `signal<value`.
    #[error("{0:?} is not of the form SIGNAL<VALUE, like memory.available<100Mi")]
    Form(String),
    /// A signal that is not watched.
    #[error(
        "unsupported eviction signal {0:?}: memory.available, nodefs.available, nodefs.inodesFree and pid.available are watched"
    )]
    Signal(String),
    /// Neither a quantity nor a share.
    #[error("{0:?} is neither a quantity like 100Mi nor a share like 10%")]
    Value(String),
}

impl FromStr for Threshold {
    type Err = ThresholdError;
    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let bad = || ThresholdError::Value(text.to_owned());
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| bad())?;
            return if (0.0..=100.0).contains(&percent) { Ok(Threshold::Share(percent / 100.0)) } else { Err(bad()) };
        }
        let quantity = Quantity::parse(text).map_err(|_| bad())?;
        u64::try_from(quantity.value()).map(Threshold::Amount).map_err(|_| bad())
    }
}

impl Thresholds {
    /// As the kubelet's `evictionHard` shows them.
    pub fn shown(&self) -> std::collections::BTreeMap<&'static str, String> {
        let all = [
            ("memory.available", self.memory),
            ("nodefs.available", self.disk),
            ("nodefs.inodesFree", self.inodes),
            ("pid.available", self.pids),
        ];
        let shown = |threshold: Threshold| match threshold {
            Threshold::Amount(amount) => amount.to_string(),
            Threshold::Share(share) => format!("{}%", share * 100.0),
        };
        all.into_iter().filter_map(|(signal, threshold)| Some((signal, shown(threshold?)))).collect()
    }
}

impl FromStr for Thresholds {
    type Err = ThresholdError;
    /// `memory.available<100Mi,nodefs.available<10%`, as the kubelet's `--eviction-hard`.
    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let mut out = Thresholds::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (signal, value) = part.split_once('<').ok_or_else(|| ThresholdError::Form(part.to_owned()))?;
            let threshold = Some(value.trim().parse()?);
            match signal.trim() {
                "memory.available" => out.memory = threshold,
                "nodefs.available" => out.disk = threshold,
                "nodefs.inodesFree" => out.inodes = threshold,
                "pid.available" => out.pids = threshold,
                other => return Err(ThresholdError::Signal(other.to_owned())),
            }
        }
        Ok(out)
    }
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Space or files of the disk.
    pub disk: bool,
    /// Tasks.
    pub pids: bool,
}

impl Pressure {
    /// What either says.
    #[must_use]
    pub fn or(self, other: Pressure) -> Pressure {
        Pressure { memory: self.memory || other.memory, disk: self.disk || other.disk, pids: self.pids || other.pids }
    }

    /// The node's conditions.
    pub fn conditions(self) -> Vec<&'static str> {
        let all = [("MemoryPressure", self.memory), ("DiskPressure", self.disk), ("PIDPressure", self.pids)];
        all.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }
}

/// Compares the machine with the thresholds.
pub fn pressure(thresholds: &Thresholds, machine: &Machine) -> Pressure {
    let below = |threshold: Option<Threshold>, available: u64, capacity: u64| {
        threshold.is_some_and(|t| capacity > 0 && available < t.of(capacity))
    };
    Pressure {
        memory: below(thresholds.memory, machine.memory_available, machine.memory),
        disk: below(thresholds.disk, machine.disk_available, machine.disk)
            || below(thresholds.inodes, machine.inodes_free, machine.inodes),
        pids: below(thresholds.pids, machine.tasks.0.saturating_sub(machine.tasks.1), machine.tasks.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let read: Thresholds =
            "memory.available<100Mi, nodefs.available<10%,nodefs.inodesFree<5%".parse().expect("valid");
        assert_eq!(read, DEFAULT);
        let some: Thresholds = "nodefs.available<1Gi".parse().expect("valid");
        assert_eq!((some.disk, some.memory), (Some(Threshold::Amount(1 << 30)), None));
        let error = |text: &str| text.parse::<Thresholds>().expect_err("is wrong").to_string();
        assert!(error("memory").contains("SIGNAL<VALUE"));
        assert!(error("imagefs.available<1").contains("unsupported eviction signal \"imagefs.available\""));
        assert!(error("memory.available<lots").contains("\"lots\" is neither"));
        assert!(error("memory.available<101%").contains("\"101%\" is neither"));
    }

    #[test]
    fn pressure_begins_below_the_threshold() {
        let machine = |disk_available, memory_available| Machine {
            disk: 100,
            disk_available,
            memory: 1 << 30,
            memory_available,
            ..Machine::default()
        };
        let of = |m: &Machine| pressure(&DEFAULT, m);
        assert_eq!(of(&machine(10, 100 << 20)), Pressure::default());
        assert_eq!(of(&machine(9, 99 << 20)), Pressure { memory: true, disk: true, pids: false });
        assert_eq!(pressure(&Thresholds::default(), &machine(0, 0)), Pressure::default());
    }
}
