//! The audit log: an `audit.k8s.io/v1` Event per stage of a request, as the policy wants it
//! (`apiserver/pkg/endpoints/filters/audit.go`, `apiserver/pkg/audit/request.go`).
//!
//! Events go as JSON lines into a bounded channel; whoever holds its other end writes them. A request waits when the channel
//! is full, so that none is lost and memory is bounded. Differs from upstream: bodies are noted only if they are JSON; those of
//! streams are not.

mod policy;

pub use policy::{Level, Policy, Stage};

use crate::Body;
use crate::api_server::Call;
use crate::auth::{Peer, UserInfo};
use crate::remarks::{Annotations, Remarks};
use crate::response::Answer;
use api::Status;
use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::Timestamp;
use policy::Verdict;
use prometheus::{IntCounter, IntCounterVec, Opts};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that may wait for the writer.
const QUEUE: usize = 4096;

/// Notes requests.
pub struct Audit {
    policy: Policy,
    lines: mpsc::Sender<Vec<u8>>,
    pub(crate) metrics: AuditMetrics,
}

impl Audit {
    /// With the lines to write: each is one event and ends with a line feed.
    pub fn new(policy: Policy) -> (Arc<Audit>, mpsc::Receiver<Vec<u8>>) {
        let (lines, receiver) = mpsc::channel(QUEUE);
        (Arc::new(Audit { policy, lines, metrics: AuditMetrics::default() }), receiver)
    }

    async fn send(&self, line: Option<Vec<u8>>) {
        if let Some(line) = line {
            self.metrics.events.inc();
            // Nobody writes any more: we are going down.
            drop(self.lines.send(line).await);
        }
    }
}

/// What is counted (`apiserver/pkg/audit/metrics.go`).
pub(crate) struct AuditMetrics {
    pub(crate) events: IntCounter,
    pub(crate) errors: IntCounterVec,
    pub(crate) levels: IntCounterVec,
}

impl Default for AuditMetrics {
    fn default() -> Self {
        let vec = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name, help), &[label]).expect("the name is well-formed")
        };
        AuditMetrics {
            events: IntCounter::new(
                "apiserver_audit_event_total",
                "[ALPHA] Counter of audit events generated and sent to the audit backend.",
            )
            .expect("the name is well-formed"),
            errors: vec(
                "apiserver_audit_error_total",
                "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
                "plugin",
            ),
            levels: vec(
                "apiserver_audit_level_total",
                "[ALPHA] Counter of policy levels for audit events (1 per request).",
                "level",
            ),
        }
    }
}

/// As which a request is known: the client's own choice, as far as it is sane, or a new one (`filters/with_auditid.go`).
pub(crate) fn id_of(headers: &http::HeaderMap, random: &dyn base::Random) -> Arc<str> {
    let asked = headers.get("audit-id").and_then(|v| v.to_str().ok()).filter(|id| !id.is_empty());
    asked.map_or_else(|| random.uuid().into(), |id| id.chars().take(64).collect::<String>().into())
}

/// What is noted of one request.
pub(crate) struct Record {
    audit: Arc<Audit>,
    verdict: Verdict,
    id: Arc<str>,
    received: Timestamp,
    verb: String,
    uri: String,
    user: User,
    impersonated: Option<User>,
    source_ips: Vec<String>,
    user_agent: String,
    object: Option<ObjectRef>,
    request: Option<Value>,
    response: Option<Value>,
    annotations: Annotations,
}

#[derive(Serialize, Clone, Default)]
struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        let UserInfo { name, uid, groups, extra } = user.clone();
        User { username: name, uid, groups, extra }
    }
}

#[derive(Serialize, Clone, Default)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: &'a User,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<&'a User>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[_]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<&'a ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'a Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    annotations: &'a Annotations,
}

/// Who really asked, if the user of the call is impersonated; and when.
pub(crate) struct Origin<'a> {
    pub(crate) impersonator: Option<&'a UserInfo>,
    pub(crate) peer: &'a Peer,
    pub(crate) received: Timestamp,
    /// For the event's `auditID`.
    pub(crate) random: &'a dyn base::Random,
}

impl Record {
    /// `None`: the policy does not want to know.
    pub(crate) fn begin(audit: &Arc<Audit>, call: &Call, origin: Origin<'_>) -> Option<Box<Record>> {
        let asking = origin.impersonator.unwrap_or(&call.user);
        let attributes = call.info.attributes(asking, &call.query);
        let verdict = audit.policy.verdict(&attributes);
        audit.metrics.levels.with_label_values(&[verdict.level.as_str()]).inc();
        if verdict.level == Level::None {
            return None;
        }
        let info = &call.info;
        let object = info.is_resource.then(|| ObjectRef {
            resource: info.resource.to_string(),
            namespace: info.namespace.to_string(),
            name: info.name.to_string(),
            api_group: info.group.to_string(),
            api_version: info.version.to_string(),
            subresource: info.subresource.to_string(),
        });
        Some(Box::new(Record {
            audit: audit.clone(),
            verdict,
            id: call.audit_id.clone().unwrap_or_else(|| origin.random.uuid().into()),
            received: origin.received,
            verb: info.verb.to_string(),
            uri: call.head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            user: asking.into(),
            impersonated: origin.impersonator.map(|_| (&call.user).into()),
            source_ips: origin.peer.address.iter().map(|a| a.ip().to_string()).collect(),
            user_agent: call.user_agent().chars().take(1024).collect(),
            object,
            request: None,
            response: None,
            annotations: Annotations::default(),
        }))
    }

    /// Whether the request's body is wanted.
    pub(crate) fn wants_request(&self) -> bool {
        self.verdict.level >= Level::Request
            && matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    pub(crate) fn note_request(&mut self, body: &Bytes) {
        self.request = self.object_of(body);
    }

    /// Notes what is answered, as far as the policy wants it.
    pub(crate) fn note_answer(&mut self, answer: &Result<Answer, Status>, remarks: &Remarks) {
        self.annotations = remarks.take_annotations(self.verdict.level >= Level::Request);
        if self.verdict.level < Level::RequestResponse {
            return;
        }
        self.response = match answer {
            Ok(Answer::Object { bytes, .. } | Answer::Plain { bytes, .. }) => self.object_of(bytes),
            Ok(Answer::Raw(_)) => None,
            Err(status) => self.object_of(&status.encode().into()),
        };
    }

    fn object_of(&self, bytes: &Bytes) -> Option<Value> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        if self.verdict.omit_managed_fields
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("managedFields");
        }
        Some(value)
    }

    fn line(&self, stage: Stage, status: Option<&Value>, now: Timestamp) -> Option<Vec<u8>> {
        if self.verdict.omit_stages.contains(&stage) {
            return None;
        }
        let micros = |t: Timestamp| t.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.verdict.level.as_str(),
            audit_id: &self.id,
            stage,
            request_uri: &self.uri,
            verb: &self.verb,
            user: &self.user,
            impersonated_user: self.impersonated.as_ref(),
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: self.object.as_ref(),
            response_status: status,
            request_object: self.request.as_ref(),
            response_object: self.response.as_ref(),
            request_received_timestamp: micros(self.received),
            stage_timestamp: micros(now),
            annotations: &self.annotations,
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some(line)
    }

    /// Before anything is done.
    pub(crate) async fn received(&self) {
        self.audit.send(self.line(Stage::RequestReceived, None, self.received)).await;
    }

    /// The answer is there.
    pub(crate) async fn complete(&self, status: &Value, now: Timestamp) {
        self.audit.send(self.line(Stage::ResponseComplete, Some(status), now)).await;
    }

    /// We failed.
    pub(crate) async fn panicked(&self, status: &Value, now: Timestamp) {
        self.audit.send(self.line(Stage::Panic, Some(status), now)).await;
    }

    /// The answer is a stream: it has begun, and the end of the body is its end.
    pub(crate) async fn started(self: Box<Self>, code: u16, clock: Arc<dyn base::Clock>, body: Body) -> Body {
        self.audit.send(self.line(Stage::ResponseStarted, Some(&status_of(code, None)), clock.now())).await;
        let end = End { record: self, code, clock };
        body.map_frame(move |frame| {
            // Dropped with the body, whoever drops it.
            let _end = &end;
            frame
        })
        .boxed_unsync()
    }
}

struct End {
    record: Box<Record>,
    code: u16,
    clock: Arc<dyn base::Clock>,
}

impl Drop for End {
    fn drop(&mut self) {
        let status = status_of(self.code, None);
        if let Some(line) = self.record.line(Stage::ResponseComplete, Some(&status), self.clock.now()) {
            self.record.audit.metrics.events.inc();
            if let Err(error) = self.record.audit.lines.try_send(line) {
                self.record.audit.metrics.errors.with_label_values(&["log"]).inc();
                tracing::debug!(%error, "the end of a stream is not in the audit log");
            }
        }
    }
}

/// `responseStatus`
pub(crate) fn status_of(code: u16, failure: Option<&Status>) -> Value {
    let mut value = match failure.map(|f| serde_json::from_slice::<Value>(&f.encode())) {
        Some(Ok(value)) => value,
        _ => serde_json::json!({"metadata": {}}),
    };
    if let Some(fields) = value.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
        fields.insert("code".into(), code.into());
    }
    value
}
