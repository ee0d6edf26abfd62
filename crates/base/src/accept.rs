//! [`next`]: connections of a listener, one after another, and not more at once than there are slots.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Out of descriptors, mostly: wait for some connection to end rather than spin.
const PAUSE: Duration = Duration::from_millis(100);

/// What `accept` has taken, and its slot, to be dropped when the connection ends. While there is none, clients wait in the kernel.
pub async fn next<T, F>(slots: &Arc<Semaphore>, accept: impl Fn() -> F) -> (T, OwnedSemaphorePermit)
where
    F: Future<Output = io::Result<T>>,
{
    let slot = slots.clone().acquire_owned().await.expect("nobody closes it");
    loop {
        match accept().await {
            Ok(accepted) => return (accepted, slot),
            Err(error) => tracing::warn!(%error, "failed to accept a connection"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_and_who_comes_too_many_waits() {
        let slots = Arc::new(Semaphore::new(1));
        let tries = Cell::new(0);
        let accept = || {
            tries.set(tries.get() + 1);
            std::future::ready(if tries.get() == 1 { Err(io::Error::other("no descriptors")) } else { Ok(tries.get()) })
        };
        let (second, slot) = next(&slots, accept).await;
        assert_eq!(second, 2);
        assert!(tokio::time::timeout(Duration::from_secs(1), next(&slots, accept)).await.is_err());
        assert_eq!(tries.get(), 2, "nobody is taken");
        drop(slot);
        assert_eq!(next(&slots, accept).await.0, 3);
    }
}
