//! `/statusz` and `/flagz` ([`machinery::zpages`]) of this server.

use crate::api_server::{ApiServer, Call};
use crate::negotiate::{self, Encoding};
use crate::response::{Answer, plain};
use crate::{codec, routes, status};
use api::Status;
use machinery::zpages::{self, MEDIA, Page, Process, View};
use std::collections::BTreeMap;

/// As which this server names itself.
const COMPONENT: &str = "apiserver";

/// `/statusz`
pub(crate) fn status(server: &ApiServer, call: &Call) -> Result<Answer, Status> {
    let version = routes::version();
    let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
    let process = Process {
        component: COMPONENT,
        started: server.inner.started,
        binary_version: text("gitVersion").trim_start_matches('v').to_owned(),
        emulation_version: format!("{}.{}", text("emulationMajor"), text("emulationMinor")),
        go_version: text("goVersion"),
    };
    let paths = routes::paths(server);
    answer(server, call, &zpages::status(&process, paths.iter().map(String::as_str), server.clock_now()))
}

/// `/flagz`
pub(crate) fn flags(server: &ApiServer, call: &Call, flags: &BTreeMap<String, String>) -> Result<Answer, Status> {
    answer(server, call, &zpages::flags(COMPONENT, flags))
}

/// The page in the form that the client asked for.
fn answer(server: &ApiServer, call: &Call, page: &Page) -> Result<Answer, Status> {
    let view = page.view(&negotiate::accepted(&call.head.headers));
    let (version, yaml) = match view.ok_or_else(|| status::not_accepted(&MEDIA.join(", ")))? {
        View::Text => return Ok(Answer::text(page.text(server.inner.deps.random.next_u64()))),
        View::Object { version, yaml } => (version, yaml),
    };
    call.warnings.add(page.warning(version));
    let encoding = if yaml { Encoding::Yaml } else { Encoding::Json };
    let pretty = negotiate::pretty(&call.head.headers, &call.query);
    let (media, bytes) = codec::from_json(encoding, page.object(version).to_string().into(), pretty)?;
    Ok(Answer::Raw(plain(200, media, bytes)))
}
