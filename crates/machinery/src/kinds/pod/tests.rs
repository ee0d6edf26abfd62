//! Pods as users write them, and what comes back.

use super::validate;
use crate::kinds::testing::{check_create, check_defaults, check_update, created, flat};
use api::Codec;
use api::k8s::api::core::v1::Pod;
use expect_test::expect;

const MINIMAL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: c, image: 'nginx:1'}]}";

#[test]
fn a_minimal_pod_gets_upstreams_defaults() {
    check_defaults(
        MINIMAL,
        expect![[r#"
        spec.containers[0].imagePullPolicy: "IfNotPresent"
        spec.containers[0].resources: {}
        spec.containers[0].terminationMessagePath: "/dev/termination-log"
        spec.containers[0].terminationMessagePolicy: "File"
        spec.dnsPolicy: "ClusterFirst"
        spec.enableServiceLinks: true
        spec.restartPolicy: "Always"
        spec.schedulerName: "default-scheduler"
        spec.securityContext: {}
        spec.terminationGracePeriodSeconds: 30"#]],
    );
}

#[test]
fn probes_ports_volumes_and_requests_are_filled_in() {
    check_defaults(
        "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  serviceAccount: robot
  hostNetwork: true
  terminationGracePeriodSeconds: -5
  containers:
  - name: c
    image: registry:5000/nginx:1.25
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: '0.5', memory: 1024Mi}, requests: {cpu: 100.4u}}
    livenessProbe: {httpGet: {port: 80}}
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  volumes:
  - {name: a}
  - {name: b, secret: {secretName: s}}
  - {name: d, projected: {sources: [{serviceAccountToken: {path: token}}]}}
  - {name: e, hostPath: {path: /x}}",
        expect![[r#"
      spec.containers[0].env[0].valueFrom.fieldRef.apiVersion: "v1"
      spec.containers[0].imagePullPolicy: "IfNotPresent"
      spec.containers[0].livenessProbe.failureThreshold: 3
      spec.containers[0].livenessProbe.httpGet.path: "/"
      spec.containers[0].livenessProbe.httpGet.scheme: "HTTP"
      spec.containers[0].livenessProbe.periodSeconds: 10
      spec.containers[0].livenessProbe.successThreshold: 1
      spec.containers[0].livenessProbe.timeoutSeconds: 1
      spec.containers[0].ports[0].hostPort: 80
      spec.containers[0].ports[0].protocol: "TCP"
      spec.containers[0].resources.requests.cpu: "1m"
      spec.containers[0].resources.requests.memory: "1Gi"
      spec.containers[0].terminationMessagePath: "/dev/termination-log"
      spec.containers[0].terminationMessagePolicy: "File"
      spec.dnsPolicy: "ClusterFirst"
      spec.enableServiceLinks: true
      spec.restartPolicy: "Always"
      spec.schedulerName: "default-scheduler"
      spec.securityContext: {}
      spec.serviceAccountName: "robot"
      spec.terminationGracePeriodSeconds: 1
      spec.volumes[0].emptyDir: {}
      spec.volumes[1].secret.defaultMode: 420
      spec.volumes[2].projected.defaultMode: 420
      spec.volumes[2].projected.sources[0].serviceAccountToken.expirationSeconds: 3600
      spec.volumes[3].hostPath.type: """#]],
    );
}

#[test]
fn a_new_pod_reports_all_mistakes_at_once() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: Web_1}
spec:
  restartPolicy: Sometimes
  containers:
  - name: c
    image: ''
    ports: [{containerPort: 80, name: web}, {containerPort: 70000, name: web, protocol: ICMP}]
    env: [{name: 'A=B', value: x}, {name: C, valueFrom: {fieldRef: {fieldPath: spec.nope}}}]
    volumeMounts: [{name: missing, mountPath: /x}, {name: v, mountPath: /x, subPath: ../up}]
    resources: {requests: {cpu: '2', nope: 1}, limits: {cpu: '1'}}
    livenessProbe: {periodSeconds: -1}
  - name: c
    image: ' nginx'
  volumes: [{name: v, emptyDir: {}, configMap: {name: m}}]
  tolerations: [{operator: Equal}]
  nodeSelector: {'a b': c}",
        expect![[r#"
      metadata.name: Invalid value: "Web_1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
      spec.volumes[0].configMap: Forbidden: may not specify more than 1 volume type
      spec.containers[0].image: Required value
      spec.containers[0].ports[1].name: Duplicate value: "web"
      spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
      spec.containers[0].ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
      spec.containers[0].env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='
      spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nope": error converting fieldPath: field label not supported: spec.nope
      spec.containers[0].volumeMounts[0].name: Not found: "missing"
      spec.containers[0].volumeMounts[1].name: Not found: "v"
      spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/x": must be unique
      spec.containers[0].volumeMounts.subPath: Invalid value: "../up": must not contain '..'
      spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
      spec.containers[0].resources.requests[nope]: Invalid value: "nope": must be a standard resource type or fully qualified
      spec.containers[0].resources.requests[nope]: Invalid value: "nope": must be a standard resource for containers
      spec.containers[0].livenessProbe: Required value: must specify a handler type
      spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
      spec.containers[1].name: Duplicate value: "c"
      spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
      spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
      spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
      spec.containers[1].image: Invalid value: " nginx": must not have leading or trailing whitespace"#]],
    );
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {}",
        expect!["spec.containers: Required value"],
    );
}

#[test]
fn only_a_few_fields_of_a_pod_may_change() {
    check_update(MINIMAL, &MINIMAL.replace("nginx:1", "nginx:2"), None, expect!["generation 2"]);
    check_update(
        MINIMAL,
        &MINIMAL.replace("image:", "tty: true, image:"),
        None,
        expect![[r#"
        spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
        - spec.containers[0].tty: null
        + spec.containers[0].tty: true"#]],
    );
    check_update(
        MINIMAL,
        &MINIMAL.replace("spec: {", "spec: {tolerations: [{operator: Exists}], "),
        None,
        expect!["generation 2"],
    );
    check_update(
        MINIMAL,
        &MINIMAL.replace("}]}", "}, {name: d, image: x}]}"),
        None,
        expect!["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check_update(MINIMAL, &MINIMAL.replace("spec: {", "spec: {hostname: x, "), Some("status"), expect!["generation 1"]);
}

#[test]
fn containers_that_ended_stay_ended_unless_they_may_restart() {
    let refused = |spec: &str, list: &str, code: i32| {
        let pod = |state: &str| {
            let text = format!(r#"{{"spec":{spec},"status":{{"{list}":[{{"name":"a","state":{state}}}]}}}}"#);
            Pod::decode(text.as_bytes()).expect("a pod")
        };
        let ended = format!(r#"{{"terminated":{{"exitCode":{code}}}}}"#);
        let errors = validate::validate_status_update(&pod(r#"{"running":{}}"#), &pod(&ended));
        errors.iter().map(ToString::to_string).collect::<String>()
    };
    let app = r#"{"restartPolicy":"OnFailure","containers":[{"name":"a"}]}"#;
    assert_eq!(refused(app, "containerStatuses", 1), "");
    let stays =
        |list: &str| format!("status.{list}[0].state: Forbidden: may not be transitioned to non-terminated state");
    assert_eq!(refused(app, "containerStatuses", 0), stays("containerStatuses"));
    let init = r#"{"restartPolicy":"Never","initContainers":[{"name":"a"}],"containers":[{"name":"b"}]}"#;
    assert_eq!(refused(init, "initContainerStatuses", 1), stays("initContainerStatuses"));
    let sidecar = init.replace(r#"{"name":"a"}"#, r#"{"name":"a","restartPolicy":"Always"}"#);
    assert_eq!(refused(&sidecar, "initContainerStatuses", 1), "");
    assert_eq!(refused(app, "ephemeralContainerStatuses", 1), stays("ephemeralContainerStatuses"));
    // A rule of any container counts for all.
    let rule = r#"{"name":"b","restartPolicy":"Never","restartPolicyRules":[{"action":"RestartAllContainers"}]}"#;
    assert_eq!(refused(&init.replace(r#"{"name":"b"}"#, rule), "initContainerStatuses", 0), "");
    let of_sidecar = format!(r#"{{"restartPolicy":"Never","initContainers":[{rule}],"containers":[{{"name":"a"}}]}}"#);
    assert_eq!(refused(&of_sidecar, "containerStatuses", 137), "");
}

#[test]
fn containers_stay_within_the_resources_of_their_pod() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 2, memory: 2Gi}}
  containers:
  - {name: a, image: i, resources: {requests: {cpu: 700m, memory: 1Mi}, limits: {cpu: 3}}}
  - {name: b, image: i, resources: {requests: {cpu: 700m}}}",
        expect![[r#"
            spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 1400m
            spec.resources.containers[0][cpu].limits: Invalid value: "3": must be less than or equal to pod limits of 2"#]],
    );
}

#[test]
fn volumes_keys_and_claims_of_a_pod_are_sound() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers: [{name: c, image: i, resources: {claims: [{name: rc, request: Foo}, {name: nope}]}}]
  resources: {claims: [{name: rc}, {name: none}]}
  resourceClaims: [{name: rc}, {name: both, resourceClaimName: x, resourceClaimTemplateName: ''}, {resourceClaimName: x}]
  volumes: [{name: V, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: z, labelSelector: {matchLabels: {k: v}, matchExpressions: [{key: k, operator: Exists}]}, matchLabelKeys: [k, m], mismatchLabelKeys: [m]}",
        expect![[r#"
            spec.volumes[0].name: Invalid value: "V": PVC name "a-V": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.volumes[0].name: Invalid value: "V": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.resourceClaims[0]: Invalid value: {"Name":"rc","ResourceClaimName":null,"ResourceClaimTemplateName":null}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`
            spec.resourceClaims[1]: Invalid value: {"Name":"both","ResourceClaimName":"x","ResourceClaimTemplateName":""}: at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified
            spec.resourceClaims[1].resourceClaimTemplateName: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.resourceClaims[2].name: Required value
            spec.containers[0].resources.claims[0].request: Invalid value: "Foo": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[0].resources.claims[1]: Not found: "nope": must be one of the names in pod.spec.resourceClaims: both, rc
            spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level
            spec.resources.claims[1]: Not found: "none": must be one of the names in pod.spec.resourceClaims: both, rc
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0][0]: Invalid value: "k": exists in both matchLabelKeys and labelSelector
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[1]: Invalid value: "m": exists in both matchLabelKeys and mismatchLabelKeys"#]],
    );
}

/// What Go shows of a struct that nobody set comes last in ours; that is no change.
#[test]
fn a_pod_may_be_sent_again_without_what_is_shown_of_it() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: a, resourceVersion: '1', uid: '1'}
spec:
  containers: [{name: c, image: i}]
  volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]";
    let shown = pod.replace("volumeClaimTemplate: {", "volumeClaimTemplate: {metadata: {}, ");
    check_update(&shown, pod, None, expect!["generation 1"]);
}

#[test]
fn images_whose_names_are_none_are_pulled_if_they_are_not_there() {
    let policy = |image: &str| {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: c, image: '{image}'}}]}}}}"
        );
        flat(&serde_json::from_slice(&created(&pod).1.encode()).expect("JSON")).contains("imagePullPolicy: \"Always\"")
    };
    assert!(policy(&"x".repeat(237)) && !policy(&"x".repeat(238)) && policy("nginx") && !policy("nginx:1"));
    assert!(policy(&"a".repeat(63)) && !policy(&"a".repeat(64)) && policy(&format!("x/{}", "a".repeat(64))));
}

/// Upstream's internal struct, of which all is shown.
#[test]
fn security_contexts_that_contradict_themselves_are_shown_whole() {
    check_create(
        "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: bare
    image: i
    securityContext: {allowPrivilegeEscalation: false, privileged: true}
  - name: full
    image: i
    securityContext:
      allowPrivilegeEscalation: false
      capabilities: {add: [CAP_SYS_ADMIN]}
      seLinuxOptions: {level: '<'}
      windowsOptions: {gmsaCredentialSpecName: g, runAsUserName: u}
      runAsUser: 1
      runAsGroup: 2
      runAsNonRoot: true
      readOnlyRootFilesystem: false
      procMount: Default
      seccompProfile: {type: Localhost, localhostProfile: l}
      appArmorProfile: {type: RuntimeDefault}",
        expect![[r#"
            spec.containers[0].securityContext: Invalid value: {"Capabilities":null,"Privileged":true,"SELinuxOptions":null,"WindowsOptions":null,"RunAsUser":null,"RunAsGroup":null,"RunAsNonRoot":null,"ReadOnlyRootFilesystem":null,"AllowPrivilegeEscalation":false,"ProcMount":null,"SeccompProfile":null,"AppArmorProfile":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.containers[1].securityContext: Invalid value: {"Capabilities":{"Add":["CAP_SYS_ADMIN"],"Drop":null},"Privileged":null,"SELinuxOptions":{"User":"","Role":"","Type":"","Level":"\u003c"},"WindowsOptions":{"GMSACredentialSpecName":"g","GMSACredentialSpec":null,"RunAsUserName":"u","HostProcess":null},"RunAsUser":1,"RunAsGroup":2,"RunAsNonRoot":true,"ReadOnlyRootFilesystem":false,"AllowPrivilegeEscalation":false,"ProcMount":"Default","SeccompProfile":{"Type":"Localhost","LocalhostProfile":"l"},"AppArmorProfile":{"Type":"RuntimeDefault","LocalhostProfile":null}}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"#]],
    );
}

#[test]
fn prefixes_of_names_are_names_too() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, generateName: AB-, uid: '1', resourceVersion: '1'}, spec: {containers: [{name: c, image: i}]}}";
    let named = pod.replace("generateName: AB-, ", "");
    check_create(
        pod,
        expect![[
            r#"metadata.generateName: Invalid value: "AB-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
    check_update(
        &named,
        pod,
        None,
        expect![[
            r#"metadata.generateName: Invalid value: "AB-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
    let controller = "{apiVersion: v1, kind: ReplicationController, metadata: {name: a, generateName: AB-}, spec: {selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}";
    check_create(controller, expect![""]);
    let service = "{apiVersion: v1, kind: Service, metadata: {name: a, uid: '1', resourceVersion: '1'}, spec: {clusterIP: None, ports: [{port: 1}]}}";
    check_update(service, &service.replace("{name: a", "{generateName: AB-, name: a"), None, expect!["generation 0"]);
}
