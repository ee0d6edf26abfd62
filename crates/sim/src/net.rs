//! [`Wire`]: one process's connection to the API server, with everything that happens to packets: loss before and after the
//! server acted, delay, cut and expired watches, and a server that is gone.
//!
//! A process that crashed hears nothing any more, and its requests in flight are dropped where they were. Every watch is
//! checked on its way: revisions only grow, and a bookmark is behind nothing that comes later.

use crate::world::World;
use apiserver::auth::{Peer, UserInfo};
use async_trait::async_trait;
use bytes::Bytes;
use client::{BoxError, Transport, TransportError, body_from};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests of one user from one process.
pub struct Wire {
    world: Arc<World>,
    user: UserInfo,
    /// Cancelled when the process crashes.
    process: CancellationToken,
    /// No faults on this one (but the server may be down).
    reliable: bool,
}

impl Wire {
    /// A wire with faults.
    pub fn new(world: &Arc<World>, process: &CancellationToken, user: &str, groups: &[&str]) -> Arc<Self> {
        let user = UserInfo::new(user, groups);
        Arc::new(Wire { world: world.clone(), user, process: process.clone(), reliable: false })
    }

    /// A wire without faults, for those who play the users.
    pub fn reliable(world: &Arc<World>) -> Arc<Self> {
        let user = UserInfo::new("admin", &["system:masters"]);
        Arc::new(Wire { world: world.clone(), user, process: CancellationToken::new(), reliable: true })
    }

    fn hit(&self, per_mille: usize) -> bool {
        !self.reliable && self.world.dice.chance(per_mille)
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<client::Body>, TransportError> {
        let world = &self.world;
        world.count_request();
        let faults = world.faults();
        let what = format!("{} {} {}", self.user.name, request.method(), request.uri());
        let owner = created_pod_owner(&request);
        let slow = if self.hit(faults.slow) { world.dice.millis(5, 3000) } else { world.dice.millis(0, 2) };
        world.note(|| format!("{what} after {} ms", slow.as_millis()));
        tokio::time::sleep(slow).await;
        if self.hit(faults.lost_request) {
            world.note(|| format!("{what}: lost"));
            return Err(broken("simulated: the request was lost"));
        }
        let api = world.api.lock().clone();
        let Some(api) = api else { return Err(broken("simulated: connection refused")) };
        if matches!(*request.method(), Method::PUT | Method::PATCH) && self.hit(faults.conflict) {
            world.note(|| format!("{what}: told a conflict"));
            return Ok(conflict());
        }
        let is_watch = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        let request =
            request.map(|bytes| -> apiserver::Body { Full::new(bytes).map_err(|never| match never {}).boxed_unsync() });
        let answer = async {
            let response = api.server.handle(request, Peer::local(self.user.clone())).await;
            if is_watch && response.status().is_success() {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.map_err(TransportError)?.to_bytes();
            Ok(Response::from_parts(head, body_from(bytes)))
        };
        let answer = tokio::select! {
            biased;
            () = api.dead.cancelled() => Err(broken("simulated: the server died")),
            answer = answer => answer,
        };
        world.note(|| match &answer {
            Ok(response) => format!("{what}: {}", response.status().as_u16()),
            Err(error) => format!("{what}: {error}"),
        });
        let unclear = answer.as_ref().map_or(true, |r| r.status().is_server_error());
        let lost = self.hit(faults.lost_answer);
        if let Some(owner) = owner.filter(|_| unclear || lost) {
            world.checker.lock().unclear_create(owner);
        }
        if lost {
            world.note(|| format!("{what}: answer lost"));
            return Err(broken("simulated: the answer was lost"));
        }
        let response = answer?;
        if is_watch && response.status().is_success() {
            Ok(self.follow(response, what, &api.dead))
        } else {
            Ok(response)
        }
    }

    /// A watch's stream, late, sometimes cut, and checked.
    fn follow(
        &self,
        response: Response<client::Body>,
        what: String,
        server: &CancellationToken,
    ) -> Response<client::Body> {
        let cut = self.hit(self.world.faults().cut_watch);
        let stream = Stream {
            world: self.world.clone(),
            reliable: self.reliable,
            process: self.process.clone(),
            server: server.clone(),
            cut: cut.then(|| (Instant::now() + self.world.dice.millis(100, 30_000), self.world.dice.below(3))),
            newest: 0,
            what,
        };
        let (head, body) = response.into_parts();
        let frames = futures_util::stream::unfold(Some((stream, body)), |state| async move {
            let (mut stream, mut body) = state?;
            match stream.next(&mut body).await {
                Some(Ok(bytes)) => Some((Ok(Frame::data(bytes)), Some((stream, body)))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        });
        Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

struct Stream {
    world: Arc<World>,
    reliable: bool,
    process: CancellationToken,
    server: CancellationToken,
    /// When it is cut and how: cleanly, with an error, with an expired revision.
    cut: Option<(Instant, usize)>,
    newest: u64,
    what: String,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: LineObject,
}

#[derive(Deserialize)]
struct LineObject {
    metadata: LineMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineMeta {
    #[serde(default)]
    resource_version: String,
}

impl Stream {
    async fn next(&mut self, body: &mut client::Body) -> Option<Result<Bytes, BoxError>> {
        let (at, how) = self.cut.unwrap_or((Instant::now() + Duration::from_secs(86_400), 0));
        let frame = tokio::select! {
            biased;
            () = self.process.cancelled() => return None,
            () = self.server.cancelled() => return Some(Err("simulated: the server died".into())),
            () = tokio::time::sleep_until(at) => {
                self.world.note(|| format!("{}: cut ({how})", self.what));
                return match how {
                    0 => None,
                    1 => Some(Err("simulated: the connection broke".into())),
                    _ => { self.cut = Some((at + Duration::from_millis(1), 0)); Some(Ok(expired())) }
                };
            }
            frame = body.frame() => frame,
        };
        let bytes = match frame? {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return Some(Err(error)),
        };
        self.check(&bytes);
        if !self.reliable {
            let slow = self.world.dice.chance(self.world.faults().slow);
            let wait = if slow { self.world.dice.millis(10, 5000) } else { self.world.dice.millis(0, 3) };
            tokio::time::sleep(wait).await;
        }
        Some(Ok(bytes))
    }

    fn check(&mut self, bytes: &[u8]) {
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            if line.kind == "ERROR" {
                continue;
            }
            let revision = line.object.metadata.resource_version.parse().unwrap_or(0);
            let repeats = revision == self.newest && line.kind == "BOOKMARK";
            if revision <= self.newest && !repeats {
                let text = format!("watch {}: {} at {revision} after {}", self.what, line.kind, self.newest);
                self.world.violate(text);
            }
            self.newest = revision;
        }
    }
}

/// The UID of the ReplicaSet or Job for which this request creates a pod.
fn created_pod_owner(request: &Request<Bytes>) -> Option<String> {
    if request.method() != Method::POST || !request.uri().path().ends_with("/pods") {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(request.body()).ok()?;
    body["metadata"]["ownerReferences"][0]["uid"].as_str().map(str::to_owned)
}

fn broken(why: &'static str) -> TransportError {
    TransportError(why.into())
}

fn conflict() -> Response<client::Body> {
    let status = api::Status::failure(409, "Conflict", "simulated: the object has been modified");
    let mut response = Response::new(body_from(serde_json::to_vec(&status).unwrap_or_default()));
    *response.status_mut() = StatusCode::CONFLICT;
    response
}

/// A watch event that says that the revision is too old.
fn expired() -> Bytes {
    let status = api::Status::failure(410, "Expired", "simulated: too old resource version");
    format!("{}\n", serde_json::json!({"type": "ERROR", "object": status})).into()
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<client::Body>, TransportError> {
        tokio::select! {
            biased;
            () = self.process.cancelled() => std::future::pending().await,
            answer = self.exchange(request) => answer,
        }
    }
}
