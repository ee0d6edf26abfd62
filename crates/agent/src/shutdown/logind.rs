//! What we want of systemd-logind, over D-Bus (`nodeshutdown/systemd/inhibit_linux.go`; org.freedesktop.login1(5)).

use futures_util::StreamExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use zbus::zvariant::{OwnedFd, OwnedValue};
use zbus::{Connection, MatchRule, MessageStream};

/// Read by logind beside its own files; gone with the boot.
pub const OVERRIDE: &str = "/run/systemd/logind.conf.d/99-dhow.conf";

const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// logind reads its files again in its own time; looked for this often, …
const LOOKS: u32 = 5;
/// … first after this, then after twice as long, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// logind did not do what it should.
#[derive(Debug, Error)]
pub enum LogindError {
    /// D-Bus, or an answer that is none.
    #[error("failed to {what}")]
    Call {
        /// In the infinitive.
        what: &'static str,
        /// Why.
        #[source]
        source: zbus::Error,
    },
    /// Its configuration.
    #[error("failed to write {}", path.display())]
    Override {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Some other file says less.
    #[error("logind grants {granted:?} before a shutdown, though {} says {wanted:?}", path.display())]
    Granted {
        /// What it grants.
        granted: Duration,
        /// What we need.
        wanted: Duration,
        /// Our file.
        path: PathBuf,
    },
}

fn failed(what: &'static str) -> impl Fn(zbus::Error) -> LogindError {
    move |source| LogindError::Call { what, source }
}

/// logind of this machine.
pub struct Logind {
    bus: Connection,
    file: PathBuf,
}

/// Holds shutdowns up until it is dropped.
pub struct Lock {
    _file: OwnedFd,
}

/// Shutdowns that begin (`true`) or are called off.
pub struct Shutdowns(MessageStream);

impl Shutdowns {
    /// The next one; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let message = self.0.next().await?.ok()?;
            match message.body().deserialize::<bool>() {
                Ok(begins) => return Some(begins),
                Err(error) => tracing::error!(%error, "logind sends a PrepareForShutdown that says nothing"),
            }
        }
    }
}

impl Logind {
    /// Over the system's bus.
    pub async fn connect() -> Result<Self, LogindError> {
        let bus = Connection::system().await.map_err(failed("reach the system's D-Bus"))?;
        Ok(Logind::over(bus, Path::new(OVERRIDE)))
    }

    /// Over this bus; `file` is for [`Self::grant`].
    pub(crate) fn over(bus: Connection, file: &Path) -> Self {
        Logind { bus, file: file.to_owned() }
    }

    /// Makes logind wait so long for us at a shutdown, if it would wait for less.
    pub async fn grant(&self, wanted: Duration) -> Result<(), LogindError> {
        let mut granted = self.granted().await?;
        if granted >= wanted {
            return Ok(());
        }
        self.write(wanted).map_err(|source| LogindError::Override { path: self.file.clone(), source })?;
        self.reload().await?;
        let mut pause = FIRST_LOOK;
        for _ in 0..LOOKS {
            granted = self.granted().await?;
            if granted >= wanted {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(LogindError::Granted { granted, wanted, path: self.file.clone() })
    }

    fn write(&self, wanted: Duration) -> std::io::Result<()> {
        std::fs::create_dir_all(self.file.parent().unwrap_or(Path::new("/")))?;
        std::fs::write(&self.file, format!("# dhow\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs()))
    }

    async fn granted(&self) -> Result<Duration, LogindError> {
        let failed = failed("read InhibitDelayMaxUSec of logind");
        let interface = Some("org.freedesktop.DBus.Properties");
        let body = (MANAGER, "InhibitDelayMaxUSec");
        let answer = self.bus.call_method(Some(SERVICE), OBJECT, interface, "Get", &body).await.map_err(&failed)?;
        let value: OwnedValue = answer.body().deserialize().map_err(&failed)?;
        let micros = u64::try_from(value).map_err(|e| failed(e.into()))?;
        Ok(Duration::from_micros(micros))
    }

    /// logind reads its configuration again on SIGHUP.
    async fn reload(&self) -> Result<(), LogindError> {
        const SIGHUP: i32 = 1;
        let (service, object) = (Some("org.freedesktop.systemd1"), "/org/freedesktop/systemd1");
        let body = ("systemd-logind.service", "all", SIGHUP);
        let interface = Some("org.freedesktop.systemd1.Manager");
        let called = self.bus.call_method(service, object, interface, "KillUnit", &body).await;
        called.map(drop).map_err(failed("make logind read its configuration"))
    }

    /// Holds shutdowns up.
    pub async fn inhibit(&self) -> Result<Lock, LogindError> {
        let failed = failed("hold shutdowns up");
        let body = ("shutdown", "dhow", "dhow needs time to end pods", "delay");
        let answer =
            self.bus.call_method(Some(SERVICE), OBJECT, Some(MANAGER), "Inhibit", &body).await.map_err(&failed)?;
        Ok(Lock { _file: answer.body().deserialize().map_err(&failed)? })
    }

    /// Listens.
    pub async fn shutdowns(&self) -> Result<Shutdowns, LogindError> {
        let failed = failed("listen to logind");
        let rule = MatchRule::builder().msg_type(zbus::message::Type::Signal);
        let rule = rule.interface(MANAGER).and_then(|r| r.member("PrepareForShutdown")).and_then(|r| r.path(OBJECT));
        let rule = rule.map_err(&failed)?.build();
        Ok(Shutdowns(MessageStream::for_match_rule(rule, &self.bus, None).await.map_err(&failed)?))
    }
}
