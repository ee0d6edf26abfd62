//! [`Fail`]: why there is no number. One wrong answer of a server ends its benchmark without one (PERFORMANCE §4.0, rule 6).

use std::fmt::Display;
use thiserror::Error;

/// Why there is no number.
#[derive(Debug, Error)]
pub(crate) enum Fail {
    /// A file, process or system call.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Something of the project said no.
    #[error("failed to {what}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// In its words.
        why: String,
    },
    /// The server answered, but wrongly.
    #[error("wrong answer to {what}: {why}")]
    Wrong {
        /// The request.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody wanted it to end.
    #[error("interrupted")]
    Interrupted,
}

pub(crate) type Result<T> = std::result::Result<T, Fail>;

/// Names what was tried on a system error.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Fail {
    let what = what.into();
    move |source| Fail::Io { what, source }
}

/// Names what was tried on any error of the project.
pub(crate) fn refused<E: std::error::Error>(what: impl Into<String>) -> impl FnOnce(E) -> Fail {
    let what = what.into();
    move |e| Fail::Refused { what, why: base::chain(&e).to_string() }
}

/// A wrong answer.
pub(crate) fn wrong(what: impl Into<String>, why: impl Display) -> Fail {
    Fail::Wrong { what: what.into(), why: why.to_string() }
}

/// A wrong answer unless `ok`.
pub(crate) fn check(ok: bool, what: &str, why: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(wrong(what, why())) }
}
