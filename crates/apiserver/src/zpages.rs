//! `/statusz` and `/flagz`: since when and as what this process runs, and what it was told (`apiserver/pkg/server/{statusz,flagz}`).
//!
//! Text for people, whose separators change at random so that no program reads them; programs ask for a kind of `config.k8s.io`.

use crate::api_server::{ApiServer, Call};
use crate::negotiate::{self, Accepted, Encoding};
use crate::response::{Answer, plain};
use crate::{codec, routes, status};
use api::Status;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// As which this server names itself.
const COMPONENT: &str = "apiserver";
/// The newest version first; the rest is deprecated.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// Media types, in the order in which upstream prefers them.
const MEDIA: [&str; 3] = ["application/json", "application/yaml", "text/plain"];
const DELIMITERS: [&str; 4] = [":", ": ", "=", " "];
/// What clients use all the time is not for debugging; and who reads the page knows where it is.
const NO_DEBUGGING: [&str; 6] = ["apis", "api", "openid", "openapi", ".well-known", "statusz"];

/// `/statusz`
pub(crate) fn status(server: &ApiServer, call: &Call) -> Result<Answer, Status> {
    let started = server.inner.started;
    let seconds = server.clock_now().duration_since(started).as_secs().max(0);
    let version = routes::version();
    let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
    let binary = text("gitVersion").trim_start_matches('v').to_owned();
    let emulated = format!("{}.{}", text("emulationMajor"), text("emulationMinor"));
    let paths = debugging(&routes::paths(server));
    let lines = |d: &str| {
        let uptime = format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let started = started.strftime("%a %b %e %H:%M:%S UTC %Y");
        let paths = paths.iter().cloned().collect::<Vec<_>>().join(" ");
        format!(
            "\nStarted{d} {started}\nUp{d} {uptime}\nGo version{d} {}\nBinary version{d} {binary}\nEmulation version{d} {emulated}\nPaths{d} {paths}\n",
            text("goVersion")
        )
    };
    let fields = || {
        json!({
            "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "uptimeSeconds": seconds,
            "goVersion": text("goVersion"), "binaryVersion": binary, "emulationVersion": emulated, "paths": paths,
        })
    };
    answer(server, call, "Statusz", lines, fields)
}

/// `/flagz`
pub(crate) fn flags(server: &ApiServer, call: &Call, flags: &BTreeMap<String, String>) -> Result<Answer, Status> {
    let lines = |d: &str| flags.iter().map(|(name, value)| format!("{name}{d}{value}\n")).collect();
    answer(server, call, "Flagz", lines, || json!({"flags": flags}))
}

/// The page in the form that the client asked for: `lines` with this separator, or an object with these `fields`.
fn answer(
    server: &ApiServer,
    call: &Call,
    kind: &str,
    lines: impl FnOnce(&str) -> String,
    fields: impl FnOnce() -> Value,
) -> Result<Answer, Status> {
    let name = kind.to_ascii_lowercase();
    let view = view(&negotiate::accepted(&call.head.headers), kind);
    let (version, encoding) = match view.ok_or_else(|| status::not_accepted(&MEDIA.join(", ")))? {
        View::Text => {
            let delimiter = DELIMITERS[server.inner.deps.random.next_u64() as usize % DELIMITERS.len()];
            let head = format!(
                "\n{COMPONENT} {name}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"
            );
            return Ok(Answer::text(head + &lines(delimiter)));
        }
        View::Object { version, encoding } => (version, encoding),
    };
    if version != VERSIONS[0] {
        let warning = format!("This version of the {name} endpoint is deprecated. Please use a newer version.");
        call.warnings.add([warning]);
    }
    let mut object = fields();
    object["kind"] = kind.into();
    object["apiVersion"] = format!("config.k8s.io/{version}").into();
    object["metadata"] = json!({"name": COMPONENT});
    let pretty = negotiate::pretty(&call.head.headers, &call.query);
    let (media, bytes) = codec::from_json(encoding, object.to_string().into(), pretty)?;
    Ok(Answer::Raw(plain(200, media, bytes)))
}

#[derive(Debug, PartialEq, Eq)]
enum View {
    Text,
    Object { version: &'static str, encoding: Encoding },
}

/// The best form that both sides know; objects only for who names their kind (`AllowsMediaTypeTransform`).
fn view(clauses: &[Accepted<'_>], kind: &str) -> Option<View> {
    if clauses.is_empty() {
        return Some(View::Text);
    }
    let one = |clause: &Accepted<'_>, media: &str| {
        let (ty, _) = media.split_once('/')?;
        let matches = clause.media == media || clause.media == "*/*" || clause.media.strip_suffix("/*") == Some(ty);
        let (wanted, group, version) = (clause.param("as"), clause.param("g"), clause.param("v"));
        let is_plain = wanted.is_empty() && group.is_empty() && version.is_empty();
        let version = VERSIONS.into_iter().find(|v| *v == version && wanted == kind && group == "config.k8s.io");
        match (matches, media, version) {
            (false, ..) => None,
            (_, "text/plain", _) => is_plain.then_some(View::Text),
            (_, "application/yaml", Some(version)) => Some(View::Object { version, encoding: Encoding::Yaml }),
            (_, _, Some(version)) => Some(View::Object { version, encoding: Encoding::Json }),
            _ => None,
        }
    };
    clauses.iter().find_map(|clause| MEDIA.iter().find_map(|media| one(clause, media)))
}

/// The first parts of paths (`aggregatePaths`).
fn debugging(paths: &[String]) -> BTreeSet<String> {
    let first = paths.iter().filter_map(|path| path.split('/').nth(1));
    first.filter(|part| !part.is_empty() && !NO_DEBUGGING.contains(part)).map(|part| format!("/{part}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{ACCEPT, HeaderMap};

    #[test]
    fn objects_are_for_who_names_them() {
        let check = |accept: &str| {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().expect("a header"))]);
            view(&negotiate::accepted(&headers), "Statusz")
        };
        let object = |version, encoding| Some(View::Object { version, encoding });
        assert_eq!(check("*/*"), Some(View::Text));
        assert_eq!(check("text/html,text/*;q=0.5"), Some(View::Text));
        assert_eq!(check("application/json"), None);
        assert_eq!(check("application/json;as=Statusz;v=v1;g=config.k8s.io"), None);
        assert_eq!(check("application/json;as=Statusz;v=v1beta1;g=config.k8s.io"), object("v1beta1", Encoding::Json));
        assert_eq!(check("application/yaml;as=Statusz;v=v1alpha1;g=config.k8s.io"), object("v1alpha1", Encoding::Yaml));
        assert_eq!(check("*/*;as=Flagz;v=v1beta1;g=config.k8s.io"), None);
    }
}
