//! Whether remote APIServices can be reached (`kube-aggregator/pkg/controllers/status/{remote,local}`): conditions and their
//! reasons. The decision is pure but for the question to the server itself.

use super::{Remote, kind_of, proxy};
use crate::admission::Cluster;
use crate::api_server::ApiServer;
use crate::service_client;
use api::Time;
use api::k8s::api::discovery::v1::EndpointSlice;
use api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition};
use api::prelude::{MetaExt, Service};
use futures_util::future::join_all;
use std::sync::Arc;

const AVAILABLE: &str = "Available";

/// Status, reason, message.
type Verdict = (&'static str, &'static str, String);

/// Whether requests may go there.
pub(super) fn is_available(service: &APIService) -> bool {
    condition(service).is_some_and(|c| c.status == "True")
}

fn condition(service: &APIService) -> Option<&APIServiceCondition> {
    service.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == AVAILABLE)
}

/// Looks at all of them at once; false if one is not available or a write failed.
pub(super) async fn update_all(server: &ApiServer, services: &[APIService]) -> bool {
    let updates = services.iter().map(|service| update(server, service));
    join_all(updates).await.into_iter().all(|well| well)
}

async fn update(server: &ApiServer, service: &APIService) -> bool {
    let spec = service.spec.clone().unwrap_or_default();
    let (group, version) = (spec.group.unwrap_or_default(), spec.version.unwrap_or_default());
    let verdict = match server.inner.aggregation.remote(&group, &version) {
        None => ("True", "Local", "Local APIServices are always available".to_owned()),
        Some(remote) => match judge(server, &remote).await {
            Ok(()) => {
                remote.documents.refresh(server, &remote).await;
                ("True", "Passed", "all checks passed".to_owned())
            }
            Err(verdict) => {
                remote.documents.mark_stale();
                verdict
            }
        },
    };
    let well = verdict.0 == "True";
    if !well && is_available(service) {
        server.inner.metrics.aggregator.lost(service.name(), verdict.1);
    }
    let Some(next) = with_verdict(service, verdict, server.clock_now()) else { return well };
    let Some(kind) = kind_of::<APIService>(server) else { return false };
    match server.update(&kind, "status", Box::new(next)).await {
        Ok(_) => well,
        Err(failure) => {
            tracing::debug!(name = service.name(), error = failure.message, "failed to write an APIService's status");
            false
        }
    }
}

/// The object with this condition; `None` if it has it already (`SetAPIServiceCondition`).
fn with_verdict(service: &APIService, verdict: Verdict, now: jiff::Timestamp) -> Option<APIService> {
    let (status, reason, message) = verdict;
    let old = condition(service);
    let same = |c: &APIServiceCondition| {
        c.status == status && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(&message)
    };
    if old.is_some_and(same) {
        return None;
    }
    let unchanged_since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let next = APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(unchanged_since.unwrap_or(Time(now))),
    };
    let mut object = service.clone();
    let conditions = object.status.get_or_insert_default().conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == AVAILABLE) {
        Some(place) => *place = next,
        None => conditions.push(next),
    }
    Some(object)
}

async fn judge(server: &ApiServer, remote: &Arc<Remote>) -> Result<(), Verdict> {
    let (namespace, name) = (&remote.namespace, &remote.service);
    let unknown = |reason: &'static str, why: String| {
        ("Unknown", reason, format!("service/{name} in {namespace:?} cannot be checked due to: {why}"))
    };
    let service = server.reader().get::<Service>(namespace, name).await;
    let service = service.map_err(|e| unknown("ServiceAccessError", e.to_string()))?;
    let slices = service_client::slices_of(server.reader(), namespace, name).await;
    let slices = slices.map_err(|s| unknown("EndpointsAccessError", s.message))?;
    check(remote, service.as_ref(), &slices)?;
    probe(server, remote).await
}

/// What can be said without asking the server.
fn check(remote: &Remote, service: Option<&Service>, slices: &[EndpointSlice]) -> Result<(), Verdict> {
    let (namespace, name, port) = (&remote.namespace, &remote.service, remote.port);
    let no = |reason: &'static str, message: String| Err(("False", reason, message));
    let Some(service) = service else {
        return no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return Ok(());
    }
    let Some(found) = spec.ports.iter().flatten().find(|p| p.port == port) else {
        return no("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}"));
    };
    if slices.is_empty() {
        return no("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}"));
    }
    let port_name = found.name.clone().unwrap_or_default();
    if service_client::ready_endpoints(slices, &port_name).is_empty() {
        let text = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return no("MissingEndpoints", text);
    }
    Ok(())
}

/// One of up to five endpoints must answer at the path that such a server is required to have.
async fn probe(server: &ApiServer, remote: &Arc<Remote>) -> Result<(), Verdict> {
    const ATTEMPTS: usize = 5;
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let no = |why: String| ("False", "FailedDiscoveryCheck", why);
    let targets = proxy::targets(server, remote, &path).await.map_err(no)?;
    let asks = targets.into_iter().take(ATTEMPTS).map(|target| {
        Box::pin(async move {
            let url = format!("https://{}:{}{}", target.host, target.port, target.path);
            match proxy::get(server, &target, &[]).await {
                Ok(answer) if (200..300).contains(&answer.code) => Ok(()),
                Ok(answer) => {
                    Err(format!("failing or missing response from {url}: bad status from {url}: {}", answer.code))
                }
                Err(why) => Err(format!("failing or missing response from {url}: Get {url:?}: {why}")),
            }
        })
    });
    futures_util::future::select_ok(asks).await.map(drop).map_err(no)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use expect_test::{Expect, expect};

    fn check_verdict(service: Option<&str>, slices: &[&str], expected: Expect) {
        let object = APIService::decode(
            br#"{"metadata":{"name":"v1.x.io"},"spec":{"group":"x.io","version":"v1","groupPriorityMinimum":1,
                "versionPriority":1,"insecureSkipTLSVerify":true,"service":{"namespace":"n","name":"s","port":443}}}"#,
        )
        .expect("an object");
        let remote = Remote::of(&object, object.spec.clone().unwrap_or_default(), None, None);
        let service = service.map(|spec| {
            Service::decode(format!(r#"{{"metadata":{{"name":"s"}},"spec":{spec}}}"#).as_bytes()).expect("a service")
        });
        let slices: Vec<EndpointSlice> = slices
            .iter()
            .map(|rest| EndpointSlice::decode(format!(r#"{{"addressType":"IPv4",{rest}}}"#).as_bytes()).expect("one"))
            .collect();
        let text = match check(&remote, service.as_ref(), &slices) {
            Ok(()) => "ok".to_owned(),
            Err((status, reason, message)) => format!("{status} {reason}: {message}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn reasons_are_upstreams() {
        let service = Some(r#"{"type":"ClusterIP","ports":[{"name":"https","port":443}]}"#);
        let ports = r#""ports":[{"name":"https","port":8443}]"#;
        let slice = |ready: bool, port: &str| {
            format!(r#""endpoints":[{{"addresses":["10.0.0.1"],"conditions":{{"ready":{ready}}}}}],{port}"#)
        };
        check_verdict(None, &[], expect![[r#"False ServiceNotFound: service/s in "n" is not present"#]]);
        check_verdict(
            Some(r#"{"ports":[{"port":80}]}"#),
            &[],
            expect![[r#"False ServicePortError: service/s in "n" is not listening on port 443"#]],
        );
        check_verdict(
            service,
            &[],
            expect![[r#"False EndpointsNotFound: cannot find endpointslices for service/s in "n""#]],
        );
        let missing = expect![[
            r#"False MissingEndpoints: endpointslices for service/s in "n" have no addresses with port name "https""#
        ]];
        check_verdict(service, &[&slice(false, ports)], missing);
        check_verdict(service, &[&slice(true, ports)], expect!["ok"]);
    }

    #[test]
    fn a_verdict_is_written_once_and_keeps_its_time() {
        let now = |s: i64| jiff::Timestamp::from_second(s).expect("a time");
        let no = |why: &str| ("False", "FailedDiscoveryCheck", why.to_owned());
        let first = with_verdict(&APIService::default(), no("a"), now(1)).expect("new");
        assert!(with_verdict(&first, no("a"), now(2)).is_none());
        let second = with_verdict(&first, no("b"), now(3)).expect("another message");
        let time = |s: &APIService| condition(s).and_then(|c| c.last_transition_time.clone()).map(|t| t.0);
        assert_eq!(time(&second), Some(now(1)));
        let third = with_verdict(&second, ("True", "Passed", String::new()), now(4)).expect("another status");
        assert_eq!(time(&third), Some(now(4)));
        assert!(is_available(&third) && !is_available(&second));
    }
}
