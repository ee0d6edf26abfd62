//! Objects that are valid and yet not quite right, and what is said about them.

use crate::kinds::testing::check_warnings;
use expect_test::expect;

#[test]
fn a_plain_pod_is_not_warned_of() {
    check_warnings(
        "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: nginx}]}}",
        None,
        expect![""],
    );
}

#[test]
fn labels_annotations_and_volumes_that_went_out_of_use_are_named() {
    check_warnings(
        "
apiVersion: v1
kind: Pod
metadata:
  name: web.1
  annotations:
    scheduler.alpha.kubernetes.io/critical-pod: ''
    seccomp.security.alpha.kubernetes.io/pod: runtime/default
    container.seccomp.security.alpha.kubernetes.io/c: runtime/default
    container.apparmor.security.beta.kubernetes.io/c: unconfined
spec:
  nodeSelector: {beta.kubernetes.io/os: linux}
  affinity:
    nodeAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 1, preference: {matchExpressions: [{key: node-role.kubernetes.io/master, operator: In, values: [-a]}]}}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname}}
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: failure-domain.beta.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
  terminationGracePeriodSeconds: -1
  containers: [{name: c, image: nginx}]
  volumes:
  - {name: v, gitRepo: {repository: r}}",
        None,
        expect![[r#"
            metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead
            metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]
            spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: node-role.kubernetes.io/master is use "node-role.kubernetes.io/control-plane" instead
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values[0]: -a is invalid, a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead
            spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod
            metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead
            spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+
            metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead
            metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the "seccompProfile" field instead
            spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod"#]],
    );
}

#[test]
fn repeated_names_and_odd_amounts_and_addresses_are_named() {
    check_warnings(
        "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  hostAliases: [{ip: '1::'}, {ip: '1::'}, {ip: '1:0::'}]
  imagePullSecrets: [{name: a}, {name: a}, {name: ''}]
  initContainers:
  - name: i
    image: nginx
    ports: [{name: web, containerPort: 80}, {containerPort: 81, hostIP: 10.0.0.1}]
  containers:
  - name: c
    image: nginx
    ports: [{name: web, containerPort: 80}, {containerPort: 80, hostPort: 8080}, {containerPort: 80, hostPort: 8080, hostIP: 10.0.0.1}]
    env: [{name: A, value: x}, {name: A, value: 'y$(A)'}, {name: A, value: $(A)}, {name: A, value: z}]
    resources: {limits: {memory: 100m, cpu: 100m}, requests: {memory: 100m}}",
        None,
        expect![[r#"
            spec.hostAliases[1].ip: duplicate ip "1::"
            spec.imagePullSecrets[1].name: duplicate name "a"
            spec.imagePullSecrets[2].name: invalid empty name ""
            spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer
            spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer
            spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply
            spec.containers[0].env[3]: hides previous definition of "A", which may be dropped when using apply
            spec.initContainers[0].ports[1]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:81 Protocol:TCP HostIP:10.0.0.1}
            spec.containers[0].ports[0]: duplicate port definition with spec.initContainers[0].ports[0]
            spec.containers[0].ports[1]: overlapping port definition with spec.initContainers[0].ports[0]
            spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]
            spec.containers[0].ports[2]: overlapping port definition with spec.initContainers[0].ports[0]
            spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]
            spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.containers[0].ports[1]
            spec.containers[0].ports[0]: duplicate port name "web" with spec.initContainers[0].ports[0], services and probes that select ports by name will use spec.initContainers[0].ports[0]
            spec.hostAliases[2].ip: IPv6 address "1:0::" should be in RFC 5952 canonical format ("1::")"#]],
    );
}

#[test]
fn files_of_a_volume_that_overlap_are_named() {
    check_warnings(
        "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  serviceAccountName: default
  containers: [{name: c, image: nginx}]
  volumes:
  - name: map
    configMap: {name: m, items: [{key: a, path: a-b}, {key: a, path: a/b}, {key: b, path: a}, {key: c, path: a/b/c/}, {key: d, path: ab}]}
  - name: all
    projected:
      sources:
      - {secret: {name: s, items: [{key: a, path: token}]}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
      - {serviceAccountToken: {path: token}}",
        None,
        expect![[r#"
            volume "map" (ConfigMap "m"): overlapping paths: "a" with "a/b"
            volume "map" (ConfigMap "m"): overlapping paths: "a/b/c" with "a/b"
            volume "map" (ConfigMap "m"): overlapping paths: "a/b/c" with "a"
            volume "all" (Projected): overlapping paths: "token" (ServiceAccountToken) with "token" (Secret "s")"#]],
    );
}

const WORKLOAD: &str = "{apiVersion: apps/v1, kind: KIND, metadata: {name: a.b}, spec: {replicas: 1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {app.kubernetes.io/created-by: me}, containers: [{name: c, image: nginx}]}}}}";

#[test]
fn a_template_is_warned_of_when_it_is_new_and_when_the_spec_changes() {
    let old = WORKLOAD.replace("KIND", "Deployment");
    check_warnings(
        &old,
        None,
        expect![[r#"
        metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]
        spec.template.spec.nodeSelector[app.kubernetes.io/created-by]: deprecated since v1.9"#]],
    );
    check_warnings(&old.replace("name: a.b", "name: a.b, labels: {c: d}"), Some(&old), expect![""]);
    check_warnings(
        &old.replace("replicas: 1", "replicas: 2"),
        Some(&old),
        expect!["spec.template.spec.nodeSelector[app.kubernetes.io/created-by]: deprecated since v1.9"],
    );
}

#[test]
fn a_daemon_set_is_warned_of_when_its_template_changes() {
    let old = WORKLOAD.replace("KIND", "DaemonSet").replace("replicas: 1, ", "");
    check_warnings(&old.replace("spec: {sel", "spec: {minReadySeconds: 1, sel"), Some(&old), expect![""]);
    check_warnings(
        &old.replace("nginx", "nginx:1"),
        Some(&old),
        expect!["spec.template.spec.nodeSelector[app.kubernetes.io/created-by]: deprecated since v1.9"],
    );
}

#[test]
fn a_replication_controller_is_warned_of_the_template_it_had() {
    let old = WORKLOAD
        .replace("KIND", "ReplicationController")
        .replace("apps/v1", "v1")
        .replace("{matchLabels: {a: b}}", "{a: b}");
    let new = old.replace("nodeSelector: {app.kubernetes.io/created-by: me}, ", "");
    check_warnings(
        &new,
        Some(&old),
        expect!["spec.template.spec.nodeSelector[app.kubernetes.io/created-by]: deprecated since v1.9"],
    );
}

#[test]
fn the_template_of_a_cron_job_stands_deep() {
    check_warnings(
        "
apiVersion: batch/v1
kind: CronJob
metadata: {name: a}
spec:
  schedule: '* * * * *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, imagePullSecrets: [{}], containers: [{name: c, image: nginx}]}}}}",
        None,
        expect![[r#"spec.jobTemplate.spec.template.spec.imagePullSecrets[0].name: invalid empty name """#]],
    );
}

#[test]
fn ports_that_all_clash_give_no_more_warnings_than_an_answer_shows() {
    let ports = "{containerPort: 80},".repeat(1000);
    let yaml = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: c, image: i, ports: [{ports}]}}]}}}}"
    );
    let warnings = crate::kinds::testing::warnings(&yaml, None);
    assert!((super::MOST..2 * super::MOST).contains(&warnings.len()), "{}", warnings.len());
}

#[test]
fn a_template_keeps_a_negative_grace_period_and_is_warned_of_it() {
    let pod_template = "{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {metadata: {labels: {a: b}},
        spec: {terminationGracePeriodSeconds: -1, containers: [{name: c, image: i}]}}}";
    check_warnings(
        pod_template,
        None,
        expect![
            "template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ],
    );
}
