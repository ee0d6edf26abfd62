//! Printing an error with its causes.

/// "what was tried: why: deeper why", for logs and for messages that a person reads.
pub fn chain(err: &dyn std::error::Error) -> String {
    let mut out = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // `#[error(transparent)]` and `{0}` repeat the cause's text; saying it twice helps nobody.
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        source = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("failed to open the store")]
    struct Outer(#[source] Inner);
    #[derive(Debug, Error)]
    #[error("disk is full")]
    struct Inner;

    #[test]
    fn chain_joins_causes() {
        assert_eq!(super::chain(&Outer(Inner)), "failed to open the store: disk is full");
    }
}
