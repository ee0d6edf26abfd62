//! [`ApiServer`]: what it is made of, and the one function through which every request goes.
//!
//! A panic in one request is that request's 500 and nobody else's.

use crate::admission::{self, Admission, Cluster, Operation};
use crate::aggregate::{self, Aggregation};
use crate::audit::{self, Audit, Record};
use crate::auth::{
    ANONYMOUS, AUTHENTICATED, Attributes, Authenticator, Authorizer, Decision, LegacyUses, MASTERS, Peer, PeerIdentity,
    Rules, TokenIssuer, UserInfo, account_of, forbidden, used_today,
};
use crate::flow::{self, Class, Flow, Seat};
use crate::health::{self, Hooks, StartHook};
use crate::kinds_table::KindTable;
use crate::metrics::{self, AdmissionMetrics, Authenticated, Labels, Metrics};
use crate::negotiate::Output;
use crate::options::{FieldValidation, WriteOptions};
use crate::patch::PatchChange;
use crate::reader::{KindRef, Reader, Stored};
use crate::remarks::Remarks;
use crate::request_info::{Query, RequestInfo};
use crate::response::Answer;
use crate::services::{Allocator, ServiceNetwork};
use crate::trace::{self, Traces};
use crate::webhook_client::WebhookClient;
use crate::write::{Write, Written};
use crate::{Body, node_metrics, pipeline, response, routes, status};
use api::prelude::Secret;
use api::{AnyObject, Status};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use base::{Clock, Random};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use machinery::kinds::KindInfo;
use machinery::schema::parse_go_duration;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::{Entry, Revision, Store, StoreError, Txn};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What an API server needs from outside.
pub struct Deps {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// Who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// Whether they may.
    pub authorizer: Arc<dyn Authorizer>,
    /// Admission plugins in order; [`admission::default_plugins`].
    pub admission: Vec<Box<dyn Admission>>,
    /// Makes service-account tokens; without one, `serviceaccounts/token` is unsupported.
    pub token_issuer: Option<Arc<dyn TokenIssuer>>,
    /// Addresses and ports of Services.
    pub services: ServiceNetwork,
    /// TLS towards node agents (with a client certificate); without one, log, exec and the like are unsupported.
    pub node_client: Option<Arc<rustls::ClientConfig>>,
    /// Notes requests; without one, nothing is noted.
    pub audit: Option<Arc<Audit>>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// UIDs and name suffixes.
    pub random: Arc<dyn Random>,
}

/// The API server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) reader: Reader,
    pub(crate) deps: Deps,
    pub(crate) kinds: ArcSwap<KindTable>,
    pub(crate) aggregation: Aggregation,
    pub(crate) flow: Arc<Flow>,
    pub(crate) allocator: Allocator,
    pub(crate) webhooks: WebhookClient,
    pub(crate) metrics: Metrics,
    pub(crate) hooks: Hooks,
    traces: OnceLock<Arc<Traces>>,
    pub(crate) started: jiff::Timestamp,
    /// What the process was told, by name.
    pub(crate) flags: OnceLock<BTreeMap<String, String>>,
    pub(crate) shutdown: CancellationToken,
}

/// One request on its way: who, what, and what to warn of.
pub(crate) struct Call {
    pub(crate) head: Parts,
    pub(crate) query: Query,
    pub(crate) info: RequestInfo,
    pub(crate) user: UserInfo,
    pub(crate) warnings: Remarks,
    /// As which the audit log and the client know it; `None` for one from this process.
    pub(crate) audit_id: Option<Arc<str>>,
    /// Its flow and the seat it runs on.
    class: Option<Class>,
    seat: Option<Seat>,
    /// What is noted of it. Not in the call alone, so that it outlives a panic.
    record: RecordSlot,
}

/// How long a request waited for others, beside its answer.
#[derive(Clone, Copy)]
struct Waited(Duration);

type RecordSlot = Arc<Mutex<Option<Box<Record>>>>;

impl Call {
    pub(crate) fn user_agent(&self) -> &str {
        self.head.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl ApiServer {
    /// A server over `deps`, serving all built-in kinds. Reads the stored Services to know which addresses are taken.
    pub async fn new(deps: Deps) -> Result<Self, Status> {
        let reader = Reader::new(deps.store.clone());
        let allocator = Allocator::repair(deps.services.clone(), deps.random.clone(), &reader).await?;
        let inner = Inner {
            webhooks: WebhookClient::new(reader.clone()),
            reader,
            kinds: ArcSwap::from_pointee(KindTable::built_in()),
            aggregation: Aggregation::default(),
            flow: Arc::default(),
            allocator,
            metrics: Metrics::new(),
            hooks: Hooks::default(),
            traces: OnceLock::new(),
            started: deps.clock.now(),
            flags: OnceLock::new(),
            shutdown: CancellationToken::new(),
            deps,
        };
        inner.metrics.admission.know(inner.deps.admission.iter().map(|plugin| plugin.name()));
        if let Some(audit) = &inner.deps.audit {
            inner.metrics.register(Box::new(audit.metrics.events.clone()));
            inner.metrics.register(Box::new(audit.metrics.errors.clone()));
            inner.metrics.register(Box::new(audit.metrics.levels.clone()));
        }
        let server = ApiServer { inner: Arc::new(inner) };
        let started = server.begin_starts(&health::OF_SERVER);
        server.load_definitions().await?;
        started.iter().for_each(StartHook::done);
        Ok(server)
    }

    /// Reads of the newest state.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// Ends all watches and makes `/readyz` say so. Requests in flight are answered.
    pub fn begin_shutdown(&self) {
        self.inner.shutdown.cancel();
    }

    /// Writes down, as labels of their Secrets, which legacy tokens are used; until `shutdown`.
    pub async fn track_legacy_tokens(self, uses: LegacyUses, shutdown: CancellationToken) {
        loop {
            let (namespace, name) = tokio::select! {
                () = shutdown.cancelled() => return,
                next = uses.next() => next,
            };
            let found = self.reader().get::<Secret>(&namespace, &name).await;
            let marked = found.ok().flatten().and_then(|secret| used_today(secret, self.clock_now()));
            let (Some(marked), Some(kind)) = (marked, self.find_kind("", "v1", "secrets")) else { continue };
            if let Err(failure) = Cluster::update(&self, &kind, "", Box::new(marked)).await {
                tracing::debug!(%namespace, %name, error = %failure.message, "failed to note the use of a token");
            }
        }
    }

    /// Answers one request, in-process or from the network. Watches and logs stream.
    pub async fn handle(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query());
        let info = RequestInfo::parse(&head.method, head.uri.path(), &query);
        let (user, warnings) = (UserInfo::default(), Remarks::default());
        let record = RecordSlot::default();
        let audit_id = peer.address.map(|_| audit::id_of(&head.headers, &*self.inner.deps.random));
        let call = Call {
            head,
            query,
            info,
            user,
            warnings,
            audit_id: audit_id.clone(),
            class: None,
            seat: None,
            record: record.clone(),
        };
        let labels = self.labels(&call);
        let _in_flight = self.inner.metrics.requests.in_flight(&labels);
        let mut answer: BoxFuture<'_, Response<Body>> = Box::pin(self.answer_in_time(call, body, peer));
        if let Some(traces) = self.inner.traces.get() {
            answer = Box::pin(trace::follow(traces, answer));
        }
        let answer = AssertUnwindSafe(answer).catch_unwind().await;
        let response = match answer {
            Ok(response) => response,
            Err(panic) => {
                let text = panic_text(&*panic);
                tracing::error!(panic = %text, "a request panicked");
                let failure = status::internal("this request caused apiserver to panic. Look in the logs for details");
                let noted = record.lock().take();
                if let Some(record) = noted {
                    record.panicked(&audit::status_of(500, Some(&failure)), self.clock_now()).await;
                }
                response::failure(&failure)
            }
        };
        let mut response = response;
        let waited = response.extensions_mut().remove::<Waited>().map_or(Duration::ZERO, |Waited(time)| time);
        response::complete(response.headers_mut(), audit_id.as_deref());
        self.inner.metrics.requests.observe(&labels, response, started.elapsed(), waited)
    }

    /// Within the time that the URL allows (`apiserver/pkg/endpoints/filters/request_deadline.go`), if that is less than the
    /// server's own.
    async fn answer_in_time(&self, call: Call, body: Body, peer: Peer) -> Response<Body> {
        let streams = call.info.verb == "watch" || flow::is_long_running(&call);
        let limit = match call.query.get("timeout").filter(|text| !text.is_empty() && !streams) {
            Some(text) => match parse_go_duration(text) {
                Some(nanos) => u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos),
                None => {
                    let why = format!("time: invalid duration {text:?}");
                    let failure = status::bad_request(format!("invalid timeout specified in the request URL - {why}"));
                    return response::failure(&failure);
                }
            },
            None => None,
        };
        let answer = self.answer(call, body, peer);
        match limit {
            Some(limit) => tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| response::too_late()),
            None => answer.await,
        }
    }

    async fn answer(&self, mut call: Call, body: Body, peer: Peer) -> Response<Body> {
        let user = self.authenticate(&call.head, &peer).await;
        let span = user.as_ref().ok().and_then(|user| trace::begin(&call, user, &peer));
        let result = self.answer_inner(user, &mut call, body, &peer).await;
        if matches!(&result, Err(failure) if failure.code == 401) {
            self.begin_record(&call, None, &peer).await;
        }
        let failure = self.note_answer(&call, &result);
        let (warnings, waited) = (call.warnings.take(), call.warnings.waiting());
        let mut response = match result {
            Ok(answer) => response::write(self, &call, answer, &warnings),
            Err(failure) => response::with_warnings(response::failure(&failure), &warnings),
        };
        if !waited.is_zero() {
            response.extensions_mut().insert(Waited(waited));
        }
        if let Some(class) = &call.class {
            class.mark(response.headers_mut());
        }
        let response = match call.seat.take() {
            Some(seat) if call.info.verb == "list" => response.map(|body| flow::hold_until_written(body, seat)),
            _ => response,
        };
        let response = self.end_record(&call, failure.as_ref(), response).await;
        match span {
            Some(span) => trace::answered(span, response),
            None => response,
        }
    }

    /// Begins to note a request, if the policy wants it.
    async fn begin_record(&self, call: &Call, impersonator: Option<&UserInfo>, peer: &Peer) {
        let Some(audit) = &self.inner.deps.audit else { return };
        let (received, random) = (self.clock_now(), &*self.inner.deps.random);
        let origin = audit::Origin { impersonator, peer, received, random };
        let Some(record) = Record::begin(audit, call, origin) else { return };
        record.received().await;
        *call.record.lock() = Some(record);
    }

    /// Notes the body of a request, if the policy wants it; hands it on.
    async fn note_body(&self, call: &Call, body: Body) -> Result<Body, Status> {
        if !call.record.lock().as_ref().is_some_and(|r| r.wants_request()) {
            return Ok(body);
        }
        let bytes = pipeline::read(body).await?;
        if let Some(record) = &mut *call.record.lock() {
            record.note_request(&bytes);
        }
        Ok(response::body_from(bytes))
    }

    /// Notes what is answered; returns the failure, if it is one that is noted.
    fn note_answer(&self, call: &Call, result: &Result<Answer, Status>) -> Option<Status> {
        let mut slot = call.record.lock();
        let record = slot.as_mut()?;
        record.note_answer(result, &call.warnings);
        result.as_ref().err().cloned()
    }

    /// Notes the end of a request, or the beginning of a stream.
    async fn end_record(&self, call: &Call, failure: Option<&Status>, response: Response<Body>) -> Response<Body> {
        let Some(record) = call.record.lock().take() else { return response };
        let (head, mut body) = response.into_parts();
        let code = head.status.as_u16();
        let streams = call.info.verb == "watch" || STREAMS.contains(&call.info.subresource.as_str());
        if streams && failure.is_none() {
            body = record.started(code, self.inner.deps.clock.clone(), body).await;
        } else {
            record.complete(&audit::status_of(code, failure), self.clock_now()).await;
        }
        Response::from_parts(head, body)
    }

    /// Takes a seat of the request's priority level.
    async fn take_seat(&self, call: &mut Call) -> Result<(), Status> {
        let Some((class, flow)) = self.inner.flow.classify(call) else { return Ok(()) };
        let begun = Instant::now();
        let cost = self.inner.flow.cost(self, call, &class).await;
        let result = self.inner.flow.seat(&class, flow, cost, call.info.verb == "watch").await;
        let waited = begun.elapsed();
        class.numbers().seated(result.as_ref().err().copied(), waited);
        call.warnings.waited(waited);
        call.class = Some(class);
        call.seat = Some(result.map_err(|_| flow::refusal())?);
        Ok(())
    }

    /// The steps every request takes once it is known who asks, in order.
    async fn answer_inner(
        &self,
        user: Result<UserInfo, Status>,
        call: &mut Call,
        body: Body,
        peer: &Peer,
    ) -> Result<Answer, Status> {
        call.user = user?;
        let impersonated = self.impersonated(call).await?;
        let impersonator = impersonated.map(|user| std::mem::replace(&mut call.user, user));
        self.begin_record(call, impersonator.as_ref(), peer).await;
        let body = self.note_body(call, body).await?;
        self.take_seat(call).await?;
        let attributes = call.info.attributes(&call.user, &call.query);
        let begun = Instant::now();
        let decision = self.decide(&attributes).await;
        self.inner.metrics.access.authorized(&decision, begun.elapsed());
        if call.record.lock().is_some() {
            let text = if decision.is_allowed() { "allow" } else { "forbid" };
            call.warnings.annotate(AUTHORIZATION, "decision", text);
            call.warnings.annotate(AUTHORIZATION, "reason", decision.reason());
        }
        if !decision.is_allowed() {
            return Err(forbidden(&attributes, decision.reason()));
        }
        if let Some(remote) = self.inner.aggregation.remote_of(&call.info) {
            return Ok(Box::pin(aggregate::forward(self, call, &remote, body)).await);
        }
        if node_metrics::is_about(&call.info) {
            return Box::pin(node_metrics::answer(self, call)).await;
        }
        if !call.info.is_resource {
            return Box::pin(routes::non_resource(self, call, body)).await;
        }
        pipeline::dispatch(self, call, body).await
    }

    async fn authenticate(&self, head: &Parts, peer: &Peer) -> Result<UserInfo, Status> {
        let found = match &peer.identity {
            PeerIdentity::Local(user) => Some(user.clone()),
            _ => self.authenticate_from_outside(head, peer).await?,
        };
        let Some(mut user) = found else {
            return match self.inner.deps.authenticator.allows_anonymous(head.uri.path()) {
                true => Ok(UserInfo::anonymous()),
                false => Err(status::unauthorized()),
            };
        };
        if user.name != ANONYMOUS && !user.is_in(AUTHENTICATED) {
            user.groups.push(AUTHENTICATED.into());
        }
        Ok(user)
    }

    async fn authenticate_from_outside(&self, head: &Parts, peer: &Peer) -> Result<Option<UserInfo>, Status> {
        let begun = Instant::now();
        let found = self.inner.deps.authenticator.authenticate(head, peer).await;
        let result = match &found {
            Ok(Some(user)) => Authenticated::User(&user.name),
            Ok(None) => Authenticated::Nobody,
            Err(_) => Authenticated::Error,
        };
        self.inner.metrics.access.authenticated(result, begun.elapsed());
        found.map_err(|error| {
            tracing::debug!(%error, "unable to authenticate the request");
            status::unauthorized()
        })
    }

    /// The user that the `Impersonate-*` headers name, if the asking one may (`filters/impersonation.go`).
    async fn impersonated(&self, call: &Call) -> Result<Option<UserInfo>, Status> {
        let headers = &call.head.headers;
        let texts = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let (users, groups, uids) = (texts("impersonate-user"), texts("impersonate-group"), texts("impersonate-uid"));
        let Some(name) = users.into_iter().next().filter(|n| !n.is_empty()) else {
            return match impersonation_without_name(headers, &groups, &uids) {
                None => Ok(None),
                Some(why) => Err(status::bad_request(why)),
            };
        };
        let (resource, namespace, short) = match account_of(&name) {
            Some((namespace, account)) => ("serviceaccounts", namespace.to_owned(), account.to_owned()),
            None => ("users", String::new(), name.clone()),
        };
        self.may_impersonate(call, "", resource, "", &namespace, &short).await?;
        for group in &groups {
            self.may_impersonate(call, "", "groups", "", "", group).await?;
        }
        for uid in &uids {
            self.may_impersonate(call, "authentication.k8s.io", "uids", "", "", uid).await?;
        }
        let mut user =
            UserInfo { name, groups, uid: uids.into_iter().next().unwrap_or_default(), ..UserInfo::default() };
        for (header, value) in headers {
            if let (Some(key), Ok(value)) = (header.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
                let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                self.may_impersonate(call, "authentication.k8s.io", "userextras", &key, "", value).await?;
                user.extra.entry(key).or_default().push(value.to_owned());
            }
        }
        if resource == "serviceaccounts" && user.groups.is_empty() {
            user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
        }
        let anonymous = user.name == ANONYMOUS;
        if !anonymous && !user.is_in(AUTHENTICATED) {
            user.groups.push(AUTHENTICATED.into());
        } else if anonymous && !user.is_in(crate::auth::UNAUTHENTICATED) {
            user.groups.push(crate::auth::UNAUTHENTICATED.into());
        }
        Ok(Some(user))
    }

    async fn may_impersonate(
        &self,
        call: &Call,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        let attributes = Attributes {
            user: &call.user,
            verb: "impersonate",
            group,
            version: "",
            resource,
            subresource,
            namespace,
            name,
            path: "",
            is_resource_request: true,
            field_selector: "",
            label_selector: "",
        };
        self.authorize(&attributes).await
    }

    /// `Ok` if the authorizer allows.
    pub(crate) async fn authorize(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.decide(attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    /// The authorizer's answer; masters may everything (`authorizerfactory`, `SystemPrivilegedGroup`).
    pub(crate) async fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(MASTERS) {
            return Decision::ALLOW;
        }
        self.inner.deps.authorizer.authorize(attributes).await
    }

    /// What a call is counted under.
    fn labels(&self, call: &Call) -> Labels {
        let info = &call.info;
        let kind = info.is_resource.then(|| self.find_kind(&info.group, &info.version, &info.resource)).flatten();
        metrics::labels(call, kind)
    }

    /// Traces requests from now on. The first call decides.
    pub fn set_traces(&self, traces: Traces) {
        if self.inner.traces.set(Arc::new(traces)).is_err() {
            tracing::error!("requests are traced already");
        }
    }

    /// What the process was told, for `/flagz`. The first call decides.
    pub fn set_flags(&self, flags: BTreeMap<String, String>) {
        if self.inner.flags.set(flags).is_err() {
            tracing::error!("the flags are known already");
        }
    }

    /// Shows more under `/metrics`: of other parts of this process.
    pub fn register_metrics(&self, collector: Box<dyn prometheus::core::Collector>) {
        self.inner.metrics.register(collector);
    }

    pub(crate) fn find_kind(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        self.inner.kinds.load().find(group, version, plural).cloned()
    }

    /// Commits a write of an object of this kind; counted.
    pub(crate) async fn commit(
        &self,
        info: &KindInfo,
        txn: Txn,
    ) -> Result<(Revision, Vec<Option<Arc<Entry>>>), StoreError> {
        let counted = self.inner.metrics.commits.begin(info, &txn);
        let result = self.inner.deps.store.commit(txn).await;
        counted.end(&result);
        result
    }

    pub(crate) fn clock_now(&self) -> jiff::Timestamp {
        self.inner.deps.clock.now()
    }

    /// Runs all mutating plugins.
    pub(crate) async fn admit(&self, request: &mut admission::Request<'_>) -> Result<(), Status> {
        admission::mutate(&self.inner.deps.admission, request).await
    }

    /// Runs all validating plugins.
    pub(crate) async fn admit_final(&self, request: &admission::Request<'_>) -> Result<(), Status> {
        admission::validate(&self.inner.deps.admission, request).await
    }

    /// A write by the server itself.
    async fn own_write(
        &self,
        kind: &KindRef,
        subresource: &str,
        object: Box<dyn AnyObject>,
        operation: Operation,
    ) -> Result<Stored, Status> {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (namespace, name) = (text(&object.meta().namespace), text(&object.meta().name));
        let own = Own::new("kube-apiserver");
        let write = own.write(kind, subresource, &namespace, &name);
        let written = match operation {
            Operation::Create => self.create_object(&write, object).await?,
            _ => {
                self.modify_object(&write, &crate::write::Replace::new(crate::codec::Read { object, sent: None }))
                    .await?
            }
        };
        stored_by(written)
    }

    /// Applies a part of an object of the cluster that `manager`, a part of this server, holds whatever others say.
    pub(crate) async fn apply_own(
        &self,
        kind: &KindRef,
        subresource: &str,
        manager: &str,
        config: serde_json::Value,
    ) -> Result<Stored, Status> {
        let own = Own::new(manager);
        let name = config["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let write = own.write(kind, subresource, "", &name);
        let change = PatchChange::apply(&write, config, write.manager_at(self));
        stored_by(self.modify_object(&write, &change).await?)
    }
}

/// What a write by the server itself needs.
struct Own<'a> {
    manager: &'a str,
    user: UserInfo,
    options: WriteOptions,
    warnings: Remarks,
}

impl<'a> Own<'a> {
    fn new(manager: &'a str) -> Self {
        let options = WriteOptions {
            dry_run: false,
            field_manager: manager.to_owned(),
            field_validation: FieldValidation::Ignore,
            force: None,
            json: serde_json::Value::Null,
        };
        Own { manager, user: UserInfo::new("system:apiserver", &[MASTERS]), options, warnings: Remarks::default() }
    }

    fn write<'w>(&'w self, kind: &'w KindRef, subresource: &'w str, namespace: &'w str, name: &'w str) -> Write<'w> {
        let (user, options, warnings) = (&self.user, &self.options, &self.warnings);
        Write { kind, subresource, namespace, name, user, options, manager: self.manager, warnings }
    }
}

fn stored_by(written: Written) -> Result<Stored, Status> {
    match written {
        Written::Stored { stored, .. } | Written::Removed { stored } => Ok(stored),
        Written::DryRun { .. } => Err(status::internal("the write stored nothing")),
    }
}

#[async_trait]
impl Cluster for ApiServer {
    fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    async fn create(&self, kind: &KindRef, namespace: &str, mut object: Box<dyn AnyObject>) -> Result<Stored, Status> {
        if !namespace.is_empty() {
            object.meta_mut().namespace = Some(namespace.to_owned());
        }
        self.own_write(kind, "", object, Operation::Create).await
    }

    async fn update(&self, kind: &KindRef, subresource: &str, object: Box<dyn AnyObject>) -> Result<Stored, Status> {
        self.own_write(kind, subresource, object, Operation::Update).await
    }

    fn now(&self) -> jiff::Timestamp {
        self.clock_now()
    }

    async fn allowed(&self, attributes: &Attributes<'_>) -> bool {
        self.decide(attributes).await.is_allowed()
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        self.inner.deps.authorizer.rules_for(user, namespace).await
    }

    fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        self.inner.kinds.load().find_by_kind(group, version, kind).cloned()
    }

    fn metrics(&self) -> &AdmissionMetrics {
        &self.inner.metrics.admission
    }

    fn webhooks(&self) -> &WebhookClient {
        &self.inner.webhooks
    }

    fn equivalents(&self, kind: &KindRef) -> Vec<KindRef> {
        let own = kind.info();
        let is_other = |k: &&KindRef| {
            let info = k.info();
            info.storage == own.storage && (info.group != own.group || info.version != own.version)
        };
        self.inner.kinds.load().all().iter().filter(is_other).cloned().collect()
    }

    fn kind_named(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        let is_it = |k: &&KindRef| {
            let info = k.info();
            info.group == group && info.version == version && info.kind == kind
        };
        self.inner.kinds.load().all().iter().find(is_it).cloned()
    }

    async fn convert(&self, object: Value, from: &KindRef, to: &KindRef) -> Result<Value, Status> {
        match to {
            KindRef::Custom(custom) => crate::custom::view::converted(self, custom, object).await,
            KindRef::BuiltIn(_) => crate::convert::between(object, &**from, &**to).map_err(status::internal),
        }
    }
}

/// Why nobody is impersonated although headers want that (`endpoints/filters/impersonation/impersonation.go`); upstream's text shows
/// the user in Go's notation.
fn impersonation_without_name(headers: &http::HeaderMap, groups: &[String], uids: &[String]) -> Option<String> {
    let mut extra = BTreeMap::<&str, Vec<&str>>::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            extra.entry(key).or_default().push(value);
        }
    }
    if groups.is_empty() && uids.is_empty() && extra.is_empty() {
        return None;
    }
    let list = |items: &[&str]| {
        format!("[]string{{{}}}", items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", "))
    };
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let groups = if groups.is_empty() { "[]string(nil)".to_owned() } else { list(&groups) };
    let extra: Vec<String> = extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
    let extra = if extra.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", extra.join(", ")) };
    let uid = uids.first().map_or("", String::as_str);
    Some(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{groups}, Extra:map[string][]string{extra}}} without impersonating a user name"
    ))
}

/// What annotations of authorization begin with.
const AUTHORIZATION: &str = "authorization.k8s.io/";

/// Subresources whose answers last.
const STREAMS: [&str; 5] = ["attach", "exec", "portforward", "proxy", "log"];

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}

/// The plain answer of the form the client asked for, without a table or partial view.
pub(crate) fn plain_output(output: Output) -> Output {
    Output { form: crate::negotiate::Form::Full, ..output }
}
