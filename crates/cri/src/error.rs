//! Failures of the engine, the images and the network as gRPC's statuses.
//!
//! Kubelets tell only some codes apart: `NotFound` (it is gone, which is well when it was to go), `DeadlineExceeded` (of a probe) and
//! `Unimplemented`. The rest is `Unknown`, as with containerd, and its text goes into events.

use tonic::Status;

/// Of the engine.
pub(crate) fn engine(error: runtime::EngineError) -> Status {
    use runtime::{EngineError, Reason};
    let text = base::chain(&error);
    match error {
        EngineError::Refused { reason: Reason::NotFound, .. } | EngineError::SupervisorLost { .. } => {
            Status::not_found(text)
        }
        EngineError::Refused { reason: Reason::Unsupported, .. } => Status::unimplemented(text),
        EngineError::Refused { reason: Reason::Invalid, .. } => Status::invalid_argument(text),
        _ => Status::unknown(text),
    }
}

/// Of the image store.
pub(crate) fn image(error: image::ImageError) -> Status {
    let text = base::chain(&error);
    match error {
        e if e.is_not_found() => Status::not_found(text),
        image::ImageError::Reference(_) => Status::invalid_argument(text),
        _ => Status::unknown(text),
    }
}

/// Of anything else.
pub(crate) fn other(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::unknown(base::chain(error))
}

/// Of SELinux, whose options are wrong.
pub(crate) fn label(error: runtime::selinux::Error) -> Status {
    Status::invalid_argument(format!("selinux_options: {error}"))
}

/// What is not built.
pub(crate) fn unsupported(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not supported by dhow"))
}

/// Whether something that was to be removed is gone.
pub(crate) fn gone_is_fine(result: Result<(), runtime::EngineError>) -> Result<(), Status> {
    use runtime::{EngineError, Reason};
    match result {
        Err(EngineError::Refused { reason: Reason::NotFound, .. } | EngineError::SupervisorLost { .. }) => Ok(()),
        other => other.map_err(engine),
    }
}
