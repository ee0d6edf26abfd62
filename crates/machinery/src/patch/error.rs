//! [`PatchError`]: what a patch that cannot be applied is answered with.

use api::Status;
use api::status::StatusDetails;
use thiserror::Error;

/// Why a patch was not applied; each variant is one HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// 400: the patch itself is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// 413: more than upstream's limits.
    #[error("{0}")]
    TooLarge(String),
    /// 422: well formed, but it does not fit the object. Upstream does not tell the client why.
    #[error("{0}")]
    Unprocessable(String),
    /// The same answer: a `test` of the patch says that it is not for this object.
    #[error("{0}")]
    TestFailed(String),
    /// 500 in upstream, too: the patch contradicts the schema in a way it has no answer for.
    #[error("{0}")]
    Contradiction(String),
}

impl PatchError {
    /// The answer.
    pub fn to_status(&self) -> Status {
        match self {
            PatchError::BadRequest(text) => Status::failure(400, "BadRequest", text),
            PatchError::TooLarge(text) => {
                Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {text}"))
            }
            // errors.NewGenericServerResponse replaces the text by this one.
            PatchError::Unprocessable(_) | PatchError::TestFailed(_) => {
                Status::failure(422, "Invalid", "the server rejected our request due to an error in our request")
                    .with_details(StatusDetails::default())
            }
            PatchError::Contradiction(text) => Status::failure(500, "", text),
        }
    }
}
