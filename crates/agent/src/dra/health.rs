//! [`Healths`]: what drivers say of how their devices are (`pkg/kubelet/cm/dra/healthinfo.go`). Pure. Differs: it is not kept on disk,
//! because drivers tell it again when the agent starts.

use jiff::{SignedDuration, Timestamp};
use node_api::dra_health::{DeviceHealth, HealthStatus};
use std::collections::BTreeMap;

/// What a driver says is believed so long, if it does not say for how long (`DefaultHealthTimeout`).
const BELIEVED: SignedDuration = SignedDuration::from_secs(30);
/// `ResourceHealthMessageMaxLength`
const MESSAGE_MAX_BYTES: usize = 1024;

const UNKNOWN: &str = "Unknown";

/// Pool and name of a device.
type Key = (String, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    health: &'static str,
    message: Option<String>,
    at: Timestamp,
    believed: SignedDuration,
}

impl Said {
    fn ends(&self) -> Timestamp {
        self.at.saturating_add(self.believed).unwrap_or(Timestamp::MAX)
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Healths {
    /// By driver.
    said: BTreeMap<String, BTreeMap<Key, Said>>,
    /// Nothing that is said stops to be believed before this.
    next: Option<Timestamp>,
}

impl Healths {
    /// How a device is, and what its driver says about it.
    pub fn of(&self, driver: &str, pool: &str, device: &str, now: Timestamp) -> (&'static str, Option<String>) {
        let said = self.said.get(driver).and_then(|d| d.get(&(pool.to_owned(), device.to_owned())));
        let said = said.filter(|s| now <= s.ends());
        said.map_or((UNKNOWN, None), |s| (s.health, s.message.clone()))
    }

    /// A driver has told of devices. Those of which it says something new.
    pub fn hear(&mut self, driver: &str, devices: Vec<DeviceHealth>, now: Timestamp) -> Vec<Key> {
        let known = self.said.entry(driver.to_owned()).or_default();
        let mut changed = Vec::new();
        for device in devices {
            let said = said(&device, now);
            let which = device.device.unwrap_or_default();
            let key = (which.pool_name, which.device_name);
            let same = |before: &Said| Said { at: said.at, ..before.clone() } == said;
            if !known.get(&key).is_some_and(same) {
                changed.push(key.clone());
            }
            let ends = said.ends();
            self.next = Some(self.next.map_or(ends, |next| next.min(ends)));
            known.insert(key, said);
        }
        changed
    }

    /// A driver says nothing any more. Whether what it has said was still believed.
    pub fn forget(&mut self, driver: &str) -> bool {
        self.said.remove(driver).is_some_and(|devices| !devices.is_empty())
    }

    /// Takes out what is not believed any more: devices by driver.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(String, Key)> {
        let mut out = Vec::new();
        if self.next.is_none_or(|next| now <= next) {
            return out;
        }
        for (driver, devices) in &mut self.said {
            let old: Vec<Key> = devices.iter().filter(|(_, s)| s.ends() < now).map(|(key, _)| key.clone()).collect();
            old.iter().for_each(|key| drop(devices.remove(key)));
            out.extend(old.into_iter().map(|key| (driver.clone(), key)));
        }
        self.next = self.said.values().flat_map(|devices| devices.values().map(Said::ends)).min();
        out
    }

    /// When to call [`Self::expire`] at the latest.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.next
    }
}

fn said(device: &DeviceHealth, now: Timestamp) -> Said {
    let health = match device.health() {
        HealthStatus::Healthy => "Healthy",
        HealthStatus::Unhealthy => "Unhealthy",
        HealthStatus::Unknown => UNKNOWN,
    };
    let seconds = device.health_check_timeout_seconds;
    let believed = if seconds > 0 { SignedDuration::from_secs(seconds) } else { BELIEVED };
    Said { health, message: Some(shortened(&device.message)).filter(|m| !m.is_empty()), at: now, believed }
}

fn shortened(message: &str) -> String {
    const END: &str = "...";
    if message.len() <= MESSAGE_MAX_BYTES {
        return message.to_owned();
    }
    format!("{}{END}", &message[..message.floor_char_boundary(MESSAGE_MAX_BYTES - END.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::dra_health::DeviceIdentifier;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    fn device(health: HealthStatus, message: &str, timeout: i64) -> DeviceHealth {
        DeviceHealth {
            device: Some(DeviceIdentifier { pool_name: "p".into(), device_name: "g".into() }),
            health: health.into(),
            health_check_timeout_seconds: timeout,
            message: message.into(),
            ..DeviceHealth::default()
        }
    }

    #[test]
    fn what_a_driver_says_is_believed_for_a_while() {
        let mut healths = Healths::default();
        let key = ("p".to_owned(), "g".to_owned());
        assert_eq!(healths.of("d", "p", "g", at(0)), ("Unknown", None));
        assert_eq!(healths.hear("d", vec![device(HealthStatus::Healthy, "", 0)], at(0)), vec![key.clone()]);
        assert_eq!(healths.hear("d", vec![device(HealthStatus::Healthy, "", -1)], at(5)), []);
        assert_eq!(healths.of("d", "p", "g", at(35)), ("Healthy", None));
        assert_eq!(healths.of("d", "p", "g", at(36)), ("Unknown", None));
        assert_eq!(healths.hear("d", vec![device(HealthStatus::Unhealthy, "hot", 60)], at(10)), vec![key.clone()]);
        assert_eq!(healths.of("d", "p", "g", at(70)), ("Unhealthy", Some("hot".into())));
        assert_eq!(healths.next_expiry(), Some(at(30)), "it was said to be well until then");
        assert_eq!(healths.expire(at(31)), []);
        assert_eq!(healths.next_expiry(), Some(at(70)));
        assert_eq!(healths.expire(at(70)), []);
        assert_eq!(healths.expire(at(71)), [("d".to_owned(), key)]);
        let long = device(HealthStatus::Unhealthy, &"ä".repeat(600), 0);
        healths.hear("d", vec![long], at(80));
        let message = healths.of("d", "p", "g", at(80)).1.expect("it is said");
        assert_eq!((message.len(), message.ends_with("ä...")), (1023, true));
        assert!(healths.forget("d"));
        assert_eq!(healths.of("d", "p", "g", at(80)), ("Unknown", None));
        assert!(!healths.forget("d"));
    }
}
