//! Labels and annotations of default roles (`rbac/v1` constants).

/// Marks objects of the bootstrap policy.
pub(super) const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";
/// `"true"`: missing rules and subjects are put back at start.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
