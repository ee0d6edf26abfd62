//! `/openapi/v2` and `/openapi/v3` for what is served.

use crate::api_server::{ApiServer, Call};
use crate::response::Answer;
use crate::status;
use api::Status;

/// Paths below `/openapi`.
pub(crate) fn answer(_server: &ApiServer, _call: &Call, _rest: &str) -> Result<Answer, Status> {
    Err(status::no_such_path())
}
