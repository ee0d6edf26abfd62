//! What can go wrong with a request, as the caller needs to tell apart.

use crate::TransportError;
use api::{DecodeError, Status};
use thiserror::Error;

/// A failed request.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The server refused; the Status says why.
    #[error("{0}")]
    Status(#[source] Box<Status>),
    /// No answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The answer is not what was asked for.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The answer's frame (list, watch line) is malformed.
    #[error("failed to read the answer: {0}")]
    Malformed(String),
}

impl ClientError {
    fn reason_is(&self, reason: &str) -> bool {
        matches!(self, ClientError::Status(s) if s.reason == reason)
    }
    /// The HTTP status code, if the server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            ClientError::Status(s) => Some(s.code),
            _ => None,
        }
    }
    /// The server is not there, as far as anybody can tell.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Transport(_))
    }
    /// 404: there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.reason_is("NotFound")
    }
    /// 409: somebody else wrote first.
    pub fn is_conflict(&self) -> bool {
        self.reason_is("Conflict")
    }
    /// 409: the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }
    /// 410: the revision is too old; list again.
    pub fn is_gone(&self) -> bool {
        self.reason_is("Expired") || self.reason_is("Gone") || self.code() == Some(410)
    }
    /// 422: the object is invalid; trying again is useless.
    pub fn is_invalid(&self) -> bool {
        self.reason_is("Invalid")
    }
    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.reason_is("Forbidden")
    }
    /// The namespace is being deleted, nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, ClientError::Status(s) if s.details.as_ref()
            .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
    }
}
