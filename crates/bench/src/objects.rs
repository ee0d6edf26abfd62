//! Pods of the shape of PERFORMANCE §4 (P-std, about 1.3 KB), drawn from a seed so that no server can recognise the load: names,
//! label keys, images and counts differ, and one object in twenty is an outlier (rule 7).

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

/// How many distinct values the label [`SELECT`] has: a selector for one of them hits 1 %.
pub(crate) const GROUPS: usize = 100;
/// The label that list benchmarks select by.
pub(crate) const SELECT: &str = "bench.example.com/group";
/// No scheduler answers to this name, so that pods stay as they were made.
const SCHEDULER: &str = "nobody";

/// Makes objects; the same seed makes the same objects.
pub(crate) struct Objects {
    seed: u64,
    words: Vec<String>,
}

impl Objects {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let words = (0..200).map(|_| word(&mut rng)).collect();
        Objects { seed, words }
    }

    fn rng(&self, index: usize) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn pick(&self, rng: &mut StdRng) -> &str {
        &self.words[rng.random_range(0..self.words.len())]
    }

    /// The name of object `index`.
    pub(crate) fn name(&self, index: usize) -> String {
        let mut rng = self.rng(index);
        format!("{}-{}-{index}", self.pick(&mut rng), self.pick(&mut rng))
    }

    /// Pod `index` in `namespace`.
    pub(crate) fn pod(&self, index: usize, namespace: &str) -> Value {
        let name = self.name(index);
        let mut rng = self.rng(index ^ 0x5555_5555);
        let outlier = rng.random_range(0..20) == 0;
        let kind = rng.random_range(0..4);
        let many = |wanted: u32, n: usize, usual: usize| if outlier && kind == wanted { n } else { usual };
        let usual_env = rng.random_range(2..5);
        let (envs, containers) = (many(0, 20, usual_env), many(1, 8, 1));
        let mut annotations = Map::new();
        for _ in 0..3 {
            let key = format!("{}.io/{}", self.pick(&mut rng), self.pick(&mut rng));
            annotations.insert(key, json!(format!("{:016x}{:016x}", rng.random::<u64>(), rng.random::<u64>())));
        }
        if outlier && kind == 2 {
            annotations.insert("big".into(), json!("x".repeat(60_000)));
        }
        if outlier && kind == 3 {
            annotations.insert("text".into(), json!("Grüße, 世界 \u{1f680} \"\\\u{2028}"));
        }
        let containers: Vec<Value> = (0..containers).map(|c| self.container(&mut rng, c, envs)).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": self.labels(&mut rng, index), "annotations": annotations},
            "spec": {
                "schedulerName": SCHEDULER,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": containers,
                "volumes": [{"name": "cfg", "emptyDir": {}}],
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            },
        })
    }

    /// A pod that takes some 25 KB as it is stored.
    pub(crate) fn fat_pod(&self, index: usize, namespace: &str) -> Value {
        let mut pod = self.pod(index, namespace);
        let mut rng = self.rng(index);
        pod["spec"]["containers"] = (0..8).map(|c| self.container(&mut rng, c, 20)).collect();
        pod
    }

    fn labels(&self, rng: &mut StdRng, index: usize) -> Map<String, Value> {
        let mut labels = Map::new();
        labels.insert(SELECT.into(), json!(format!("g{}", index % GROUPS)));
        for key in ["app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app"] {
            labels.insert(key.into(), json!(format!("{}-{}", self.pick(rng), self.pick(rng))));
        }
        labels.insert(self.pick(rng).to_owned(), json!(self.pick(rng)));
        labels
    }

    fn container(&self, rng: &mut StdRng, number: usize, envs: usize) -> Value {
        let mut env = vec![
            json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
        ];
        env.extend((0..envs.saturating_sub(2)).map(|i| json!({"name": format!("VAR_{i}"), "value": self.pick(rng)})));
        json!({
            "name": format!("main{number}"),
            "image": format!("registry.example.com/{}/{}:1.{}", self.pick(rng), self.pick(rng), rng.random_range(0..30)),
            "ports": [{"containerPort": 8080 + number, "name": "http"}],
            "env": env,
            "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}, "limits": {"cpu": "100m", "memory": "500Mi"}},
            "livenessProbe": {"httpGet": {"path": format!("/{}", self.pick(rng)), "port": 8080 + number}, "periodSeconds": 10},
            "volumeMounts": [{"name": "cfg", "mountPath": "/etc/cfg"}],
        })
    }

    /// A kubelet's status patch for pod `index`.
    pub(crate) fn status_patch(&self, index: usize, round: usize) -> Value {
        let mut rng = self.rng(index.wrapping_mul(31) ^ round);
        let at = format!("2026-01-01T{:02}:{:02}:00Z", rng.random_range(0..24), rng.random_range(0..60));
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": at});
        json!({"status": {
            "phase": "Running",
            "podIP": format!("10.1.{}.{}", rng.random_range(0..255), rng.random_range(1..255)),
            "hostIP": "10.1.1.1", "startTime": at,
            "conditions": [condition("Ready"), condition("PodScheduled")],
            "containerStatuses": [{
                "name": "main0", "image": self.pick(&mut rng), "imageID": self.pick(&mut rng), "ready": true, "restartCount": round,
                "started": true, "containerID": format!("containerd://{:x}", rng.random::<u64>()),
                "state": {"running": {"startedAt": at}}, "lastState": {},
            }],
        }})
    }
}

fn word(rng: &mut StdRng) -> String {
    (0..rng.random_range(4..10)).map(|_| char::from(b'a' + rng.random_range(0..26u8))).collect()
}

/// Whether everything in `part` is in `whole`. Lists agree in order, and admission may have appended to them (tolerations).
pub(crate) fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(w), Value::Object(p)) => p.iter().all(|(k, v)| match w.get(k) {
            Some(there) => contains(there, v),
            // An empty message may be left out.
            None => v.as_object().is_some_and(Map::is_empty),
        }),
        (Value::Array(w), Value::Array(p)) => w.len() >= p.len() && w.iter().zip(p).all(|(w, p)| contains(w, p)),
        _ => whole == part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_objects_and_another_makes_others() {
        let (a, b, c) = (Objects::new(7), Objects::new(7), Objects::new(8));
        assert_eq!(a.pod(3, "n"), b.pod(3, "n"));
        assert_ne!(a.pod(3, "n"), c.pod(3, "n"));
        let sizes: Vec<usize> = (0..400).map(|i| a.pod(i, "n").to_string().len()).collect();
        let usual = sizes.iter().filter(|s| (1100..1800).contains(*s)).count();
        assert!(usual > 340 && usual < 400, "{usual} of 400 are of usual size");
    }

    #[test]
    fn containment_ignores_what_the_server_adds_and_nothing_else() {
        let whole = json!({"a": 1, "b": [{"c": 2, "d": 3}], "e": {}});
        assert!(contains(&whole, &json!({"b": [{"c": 2}], "gone": {}})));
        for part in [json!({"a": 2}), json!({"b": [{}, {}]}), json!({"f": 1}), json!({"b": [{"c": 3}]})] {
            assert!(!contains(&whole, &part), "{part}");
        }
    }
}
