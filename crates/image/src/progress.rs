//! What a pull or push tells while it runs.

use crate::Digest;
use std::sync::Arc;

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The registry knows the image.
    Resolved {
        /// What was asked for.
        reference: String,
        /// What it is.
        digest: Digest,
    },
    /// A layer (or the configuration, when pushing) has come further.
    Layer {
        /// Its blob.
        digest: Digest,
        /// Where it is.
        state: State,
    },
}

/// Where a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The other side, or this one, has it already.
    Exists,
    /// It comes.
    Downloading {
        /// Bytes that are here.
        done: u64,
        /// All.
        total: u64,
    },
    /// It is here and verified.
    Downloaded,
    /// It is being unpacked.
    Unpacking,
    /// It can be used.
    Ready,
    /// It goes.
    Uploading {
        /// All bytes.
        total: u64,
    },
    /// It has gone.
    Uploaded,
}

/// Whoever listens, if anybody.
#[derive(Clone, Default)]
pub(crate) struct Reporter(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl Reporter {
    pub(crate) fn new(listener: Option<Arc<dyn Fn(Progress) + Send + Sync>>) -> Self {
        Reporter(listener)
    }

    pub(crate) fn report(&self, news: Progress) {
        if let Some(listener) = &self.0 {
            listener(news);
        }
    }

    pub(crate) fn layer(&self, digest: &Digest, state: State) {
        self.report(Progress::Layer { digest: digest.clone(), state });
    }
}
