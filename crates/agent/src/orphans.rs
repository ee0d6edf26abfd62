//! Directories of pods that nobody knows of: an earlier run ended while it removed them, or could not, or its checkpoint is gone
//! (`cleanupOrphanedPodDirs` in `pkg/kubelet/kubelet_volumes.go`, `evictPodLogsDirectories` in `kuberuntime/kuberuntime_gc.go`).
//! Looked for at start; what stays is named in the log.

use crate::context::Context;
use std::collections::BTreeSet;
use std::path::Path;

/// Takes down and removes what belongs to no pod with one of these uids.
pub(crate) async fn sweep(context: &Context, known: &BTreeSet<String>) {
    let config = &context.config;
    let of_pods = [&config.data_dir, &config.run_dir].map(|dir| dir.join("pods"));
    let uids: BTreeSet<String> = of_pods.iter().flat_map(|dir| names(dir)).filter(|uid| !known.contains(uid)).collect();
    for uid in uids {
        tracing::info!(uid, "removing directories of a pod that is not known");
        if let Err(error) = context.volumes.tear_down(&uid, None).await {
            tracing::warn!(uid, error = %base::chain(&error), "volumes of a pod that is not known stay");
            continue;
        }
        of_pods.iter().for_each(|dir| remove(&dir.join(&uid)));
    }
    for name in names(&config.log_dir) {
        // `<namespace>_<name>_<uid>`
        let uid = name.rsplit_once('_').map(|(_, uid)| uid);
        if uid.is_some_and(|uid| !known.contains(uid)) {
            remove(&config.log_dir.join(name));
        }
    }
}

/// Removes a pod's directory. One that cannot go is found again by the next start.
pub(crate) fn remove(dir: &Path) {
    if let Err(error) = runtime::remove_tree(dir) {
        tracing::warn!(dir = %dir.display(), %error, "failed to remove a pod's directory");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}
