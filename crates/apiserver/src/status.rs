//! Every failure as an [`api::Status`], in upstream's words (`apimachinery/pkg/api/errors/errors.go`). The one file that maps
//! errors of the layers below to HTTP.

use api::Status;
use api::status::{StatusCause, StatusDetails};
use machinery::field::{Errors, aggregate, quote};
use machinery::kinds::KindInfo;
use store::StoreError;

/// `plural.group`, or the bare plural for core.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn about(group: &str, kind: &str, name: &str) -> StatusDetails {
    StatusDetails { name: name.into(), group: group.into(), kind: kind.into(), ..StatusDetails::default() }
}

/// 404 of an object.
pub fn not_found(info: &KindInfo, name: &str) -> Status {
    not_found_in(&info.group, &info.plural, name)
}

/// 404 of an object of a resource that is given by name.
pub fn not_found_in(group: &str, resource: &str, name: &str) -> Status {
    Status::failure(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource)))
        .with_details(about(group, resource, name))
}

/// 404 of a path, or of a resource that is not served.
pub fn no_such_path() -> Status {
    Status::failure(404, "NotFound", "the server could not find the requested resource")
        .with_details(StatusDetails::default())
}

/// 409 of a create.
pub fn already_exists(info: &KindInfo, name: &str) -> Status {
    Status::failure(409, "AlreadyExists", format!("{} {name:?} already exists", info.group_resource()))
        .with_details(about(&info.group, &info.plural, name))
}

/// 409 of a create whose generated names were all taken.
pub fn generate_name_conflict(info: &KindInfo, name: &str) -> Status {
    let text = format!(
        "{} {name:?} already exists, the server was not able to generate a unique name for the object",
        info.group_resource()
    );
    let mut details = about(&info.group, &info.plural, name);
    details.retry_after_seconds = 1;
    Status::failure(409, "AlreadyExists", text).with_details(details)
}

/// 409 of an update, with the reason.
pub fn conflict(info: &KindInfo, name: &str, why: &str) -> Status {
    let text = format!("Operation cannot be fulfilled on {} {name:?}: {why}", info.group_resource());
    Status::failure(409, "Conflict", text).with_details(about(&info.group, &info.plural, name))
}

/// 409: somebody else wrote first (`registry.OptimisticLockErrorMsg`).
pub fn stale(info: &KindInfo, name: &str) -> Status {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    conflict(info, name, why)
}

/// 409 of server-side apply.
pub fn apply_conflict(causes: Vec<StatusCause>, message: &str) -> Status {
    Status::failure(409, "Conflict", message).with_details(StatusDetails { causes, ..StatusDetails::default() })
}

/// 422 with all field errors.
pub fn invalid(group: &str, kind: &str, name: &str, errors: &Errors) -> Status {
    let qualified = qualified(group, kind);
    let text = if errors.is_empty() {
        format!("{qualified} {} is invalid", quote(name))
    } else {
        format!("{qualified} {} is invalid: {}", quote(name), aggregate(errors))
    };
    let mut details = about(group, kind, name);
    details.causes = errors.iter().map(machinery::field::FieldError::to_cause).collect();
    Status::failure(422, "Invalid", text).with_details(details)
}

/// 401.
pub fn unauthorized() -> Status {
    Status::failure(401, "Unauthorized", "Unauthorized")
}

/// 403.
pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let resource_text = qualified(group, resource);
    let text = match (resource_text.is_empty(), name.is_empty()) {
        (true, _) => format!("forbidden: {why}"),
        (_, true) => format!("{resource_text} is forbidden: {why}"),
        _ => format!("{resource_text} {name:?} is forbidden: {why}"),
    };
    Status::failure(403, "Forbidden", text).with_details(about(group, resource, name))
}

/// 400.
pub fn bad_request(message: impl Into<String>) -> Status {
    Status::failure(400, "BadRequest", message)
}

/// 405 of a resource that lacks the verb.
pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Status {
    let text = format!("{action} is not supported on resources of kind {:?}", qualified(group, resource));
    Status::failure(405, "MethodNotAllowed", text).with_details(about(group, resource, ""))
}

/// 405 of a route without that method.
pub fn method_not_allowed() -> Status {
    Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        .with_details(StatusDetails::default())
}

/// 406.
pub fn not_accepted(accepted: &str) -> Status {
    not_acceptable(format!("only the following media types are accepted: {accepted}"))
}

/// 406: what was asked for has no such form.
pub fn not_acceptable(why: String) -> Status {
    Status::failure(406, "NotAcceptable", why)
}

/// 400: an object says that it is in another namespace than the request.
pub fn other_namespace() -> Status {
    bad_request("the namespace of the provided object does not match the namespace sent on the request")
}

/// What a node refused with this code and text, of a pod's `log` (`GenericHttpResponseChecker` in `apiserver/pkg/registry/generic/rest`).
pub fn refused_by_node(code: u16, name: &str, text: &str) -> Status {
    let (reason, message) = match code {
        400 => return bad_request(text),
        500 => return internal(text),
        _ => generic_response(code, text),
    };
    // There is no verb before the resource.
    Status::failure(code, reason, format!("{message} ( pods/log {name})")).with_details(about("", "pods/log", name))
}

/// Reason and message of an answer that is no Status, by its code and text (`NewGenericServerResponse`).
pub(crate) fn generic_response(code: u16, text: &str) -> (&'static str, String) {
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials"),
        403 => ("Forbidden", text),
        404 => ("NotFound", "the server could not find the requested resource"),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
        406 if text.is_empty() || text == "unknown" => {
            ("NotAcceptable", "the server was unable to respond with a content type that the client supports")
        }
        406 => ("NotAcceptable", text),
        409 => ("Conflict", "the server reported a conflict"),
        415 => ("UnsupportedMediaType", text),
        422 => ("Invalid", "the server rejected our request due to an error in our request"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        500.. => {
            let message = format!("an error on the server ({text:?}) has prevented the request from succeeding");
            return ("InternalError", message);
        }
        _ => {
            let message =
                format!("the server responded with the status code {code} but did not return more information");
            return ("", message);
        }
    };
    (reason, message.to_owned())
}

/// What go-restful refuses by itself (`serviceErrorHandler` in `apiserver/pkg/server/handler.go`).
pub fn restful(code: u16, reason: &'static str, text: &str) -> Status {
    Status::failure(code, reason, format!("{code}: {text}")).with_details(StatusDetails::default())
}

/// 410: the revision is gone.
pub fn expired(message: impl Into<String>) -> Status {
    Status::failure(410, "Expired", message)
}

/// 413.
pub fn too_large(limit: usize) -> Status {
    Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
}

/// 415.
pub fn unsupported_media_type(accepted: &str) -> Status {
    let text = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::failure(415, "UnsupportedMediaType", text)
}

/// 429.
pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
    Status::failure(429, "TooManyRequests", message)
        .with_details(StatusDetails { retry_after_seconds, ..StatusDetails::default() })
}

/// 500.
pub fn internal(why: impl std::fmt::Display) -> Status {
    let cause = StatusCause { message: why.to_string(), ..StatusCause::default() };
    Status::failure(500, "InternalError", format!("Internal error occurred: {why}"))
        .with_details(StatusDetails { causes: vec![cause], ..StatusDetails::default() })
}

/// 501-like answer for what this server does not do: upstream's "unsupported" is a bad request in most places; the text names it.
pub fn unsupported(what: &str) -> Status {
    Status::failure(501, "NotImplemented", format!("unsupported: {what}"))
}

/// 503.
pub fn unavailable(why: impl Into<String>) -> Status {
    Status::failure(503, "ServiceUnavailable", why)
}

/// 504.
pub fn timeout(message: impl std::fmt::Display, retry_after_seconds: i32) -> Status {
    Status::failure(504, "Timeout", format!("Timeout: {message}"))
        .with_details(StatusDetails { retry_after_seconds, ..StatusDetails::default() })
}

/// 504: the revision has not happened yet (`apiserver/pkg/storage/errors.go`, `NewTooLargeResourceVersionError`).
pub fn too_large_resource_version(asked: u64, current: u64) -> Status {
    let mut status = timeout(format!("Too large resource version: {asked}, current: {current}"), 1);
    let cause = StatusCause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        ..StatusCause::default()
    };
    if let Some(details) = &mut status.details {
        details.causes.push(cause);
    }
    status
}

/// A success without an object: what a finished delete answers.
pub fn success(info: &KindInfo, name: &str, uid: &str) -> Status {
    let mut details = about(&info.group, &info.plural, name);
    details.uid = uid.into();
    Status {
        kind: "Status".into(),
        api_version: "v1".into(),
        status: "Success".into(),
        details: Some(details),
        ..Status::default()
    }
}

/// A store failure that is no ordinary answer of the operation at hand.
pub fn from_store(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => expired("The resourceVersion for the provided watch is too old."),
        StoreError::Future { asked, current } => too_large_resource_version(asked.0, current.0),
        StoreError::Closed => unavailable("the store is closed"),
        // Conflicts are answered where the operation is known; one that gets here is ours.
        error @ (StoreError::Conflict { .. } | StoreError::Backend(_) | StoreError::Invalid(_)) => internal(error),
    }
}
