//! What must exist before anything can run: certificates, keys, kubeconfig.

pub(crate) mod encryption;
pub(crate) mod files;
pub(crate) mod kubeconfig;
pub(crate) mod objects;
pub(crate) mod pki;
mod signing;
