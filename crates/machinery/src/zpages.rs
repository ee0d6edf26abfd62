//! `/statusz` and `/flagz`: since when and as what a process runs, and what it was told (`apiserver/pkg/server/{statusz,flagz}`).
//!
//! Text for people, whose separators change at random so that no program reads them; programs ask for a kind of `config.k8s.io`.

use crate::accept::Accepted;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The newest version first; the rest is deprecated.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// Media types, in the order in which upstream prefers them.
pub const MEDIA: [&str; 3] = ["application/json", "application/yaml", "text/plain"];
const DELIMITERS: [&str; 4] = [":", ": ", "=", " "];
/// What clients use all the time is not for debugging; and who reads the page knows where it is.
const NO_DEBUGGING: [&str; 6] = ["apis", "api", "openid", "openapi", ".well-known", "statusz"];

/// What the pages say of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As which it names itself: `apiserver`, `kubelet`.
    pub component: &'static str,
    /// Since when it runs.
    pub started: Timestamp,
    /// `1.36.2`
    pub binary_version: String,
    /// `1.36`
    pub emulation_version: String,
    /// Of Go.
    pub go_version: String,
}

/// A page, not yet in any form.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    component: &'static str,
    kind: &'static str,
    /// What a line begins with, and what it says.
    lines: Vec<(String, String)>,
    fields: Value,
}

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// For people.
    Text,
    /// An object of this version of `config.k8s.io`.
    Object {
        /// `v1beta1` …
        version: &'static str,
        /// YAML, and not JSON.
        yaml: bool,
    },
}

/// `/statusz`. Of these paths the first parts are told (`aggregatePaths`).
pub fn status<'a>(process: &Process, paths: impl Iterator<Item = &'a str>, now: Timestamp) -> Page {
    let Process { component, started, binary_version, emulation_version, go_version } = process;
    let seconds = now.duration_since(*started).as_secs().max(0);
    let first = paths.filter_map(|path| path.split('/').nth(1));
    let paths: BTreeSet<String> =
        first.filter(|part| !part.is_empty() && !NO_DEBUGGING.contains(part)).map(|part| format!("/{part}")).collect();
    let uptime = format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let lines = [
        ("\nStarted", started.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
        ("Up", uptime),
        ("Go version", go_version.clone()),
        ("Binary version", binary_version.clone()),
        ("Emulation version", emulation_version.clone()),
        ("Paths", paths.iter().map(String::as_str).collect::<Vec<_>>().join(" ")),
    ];
    Page {
        component,
        kind: "Statusz",
        lines: lines.map(|(name, value)| (name.to_owned(), format!(" {value}"))).into(),
        fields: json!({
            "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "uptimeSeconds": seconds,
            "goVersion": go_version, "binaryVersion": binary_version, "emulationVersion": emulation_version, "paths": paths,
        }),
    }
}

/// `/flagz`
pub fn flags(component: &'static str, flags: &BTreeMap<String, String>) -> Page {
    let lines = flags.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Page { component, kind: "Flagz", lines, fields: json!({"flags": flags}) }
}

impl Page {
    /// The best form that both sides know; objects only for who names their kind (`AllowsMediaTypeTransform`).
    pub fn view(&self, clauses: &[Accepted<'_>]) -> Option<View> {
        if clauses.is_empty() {
            return Some(View::Text);
        }
        clauses.iter().find_map(|clause| MEDIA.iter().find_map(|media| self.view_of(clause, media)))
    }

    fn view_of(&self, clause: &Accepted<'_>, media: &str) -> Option<View> {
        let (ty, _) = media.split_once('/')?;
        if clause.media != media && clause.media != "*/*" && clause.media.strip_suffix("/*") != Some(ty) {
            return None;
        }
        let (wanted, group, version) = (clause.param("as"), clause.param("g"), clause.param("v"));
        if media == "text/plain" {
            return (wanted.is_empty() && group.is_empty() && version.is_empty()).then_some(View::Text);
        }
        let version =
            VERSIONS.into_iter().find(|v| *v == version && wanted == self.kind && group == "config.k8s.io")?;
        Some(View::Object { version, yaml: media == "application/yaml" })
    }

    /// For people; `drawn` is any number, and chooses the separator.
    pub fn text(&self, drawn: u64) -> String {
        let name = self.kind.to_ascii_lowercase();
        let mut out = format!(
            "\n{} {name}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n",
            self.component
        );
        let delimiter = DELIMITERS[(drawn % DELIMITERS.len() as u64) as usize];
        self.lines.iter().for_each(|(name, value)| out += &format!("{name}{delimiter}{value}\n"));
        out
    }

    /// For programs.
    pub fn object(&self, version: &str) -> Value {
        let mut object = self.fields.clone();
        object["kind"] = self.kind.into();
        object["apiVersion"] = format!("config.k8s.io/{version}").into();
        object["metadata"] = json!({"name": self.component});
        object
    }

    /// What who asks for this version is to be warned of.
    pub fn warning(&self, version: &str) -> Option<String> {
        let name = self.kind.to_ascii_lowercase();
        (version != VERSIONS[0])
            .then(|| format!("This version of the {name} endpoint is deprecated. Please use a newer version."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::clauses;

    #[test]
    fn objects_are_for_who_names_them() {
        let process = Process {
            component: "c",
            started: Timestamp::UNIX_EPOCH,
            binary_version: "1".into(),
            emulation_version: "1".into(),
            go_version: "none".into(),
        };
        let page = status(&process, std::iter::empty(), Timestamp::UNIX_EPOCH);
        let check = |accept: &str| page.view(&clauses([accept].into_iter()));
        let object = |version, yaml| Some(View::Object { version, yaml });
        assert_eq!(check("*/*"), Some(View::Text));
        assert_eq!(check("text/html,text/*;q=0.5"), Some(View::Text));
        assert_eq!(check("application/json"), None);
        assert_eq!(check("application/json;as=Statusz;v=v1;g=config.k8s.io"), None);
        assert_eq!(check("application/json;as=Statusz;v=v1beta1;g=config.k8s.io"), object("v1beta1", false));
        assert_eq!(check("application/yaml;as=Statusz;v=v1alpha1;g=config.k8s.io"), object("v1alpha1", true));
        assert_eq!(check("*/*;as=Flagz;v=v1beta1;g=config.k8s.io"), None);
    }
}
