//! Discovery to `kinds.tsv`: one line per GA resource, followed by one line per subresource.
//!
//!     r  group version Kind plural singular N|C verbs shortNames categories
//!     s  name group version Kind verbs                  (group and version empty: as the parent)
//!
//! `*` stands for the eight standard verbs. Order is discovery's, which is also upstream's order of preference.

use super::{is_ga, read_json, text, texts};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

const ALL_VERBS: &str = "create,delete,deletecollection,get,list,patch,update,watch";

/// The whole table.
pub(super) fn table(api: &Path) -> Result<String, String> {
    let discovery = api.join("discovery");
    let mut out = String::from(
        "# Served GA resources of Kubernetes 1.36; made by `cargo xtask codegen`, format in xtask/src/codegen/kinds.rs.\n",
    );
    resources(&mut out, "", "v1", &read_json(&discovery.join("api__v1.json"))?);
    let groups = read_json(&discovery.join("apis.json"))?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        let name = text(group, "name");
        for version in group["versions"].as_array().into_iter().flatten() {
            let version = text(version, "version");
            if is_ga(version) {
                let list = read_json(&discovery.join(format!("apis__{name}__{version}.json")))?;
                resources(&mut out, name, version, &list);
            }
        }
    }
    Ok(out)
}

fn resources(out: &mut String, group: &str, version: &str, list: &Value) {
    let all: Vec<&Value> = list["resources"].as_array().into_iter().flatten().collect();
    for resource in all.iter().filter(|r| !text(r, "name").contains('/')) {
        let plural = text(resource, "name");
        let scope = if resource["namespaced"].as_bool() == Some(true) { "N" } else { "C" };
        let fields = [
            "r",
            group,
            version,
            text(resource, "kind"),
            plural,
            text(resource, "singularName"),
            scope,
            &verbs(resource),
            &texts(resource, "shortNames").join(","),
            &texts(resource, "categories").join(","),
        ];
        line(out, &fields);
        let mut subresources: Vec<(&str, &Value)> =
            all.iter().filter_map(|s| Some((text(s, "name").strip_prefix(plural)?.strip_prefix('/')?, *s))).collect();
        subresources.sort_by_key(|(name, _)| *name);
        for (name, sub) in subresources {
            line(out, &["s", name, text(sub, "group"), text(sub, "version"), text(sub, "kind"), &verbs(sub)]);
        }
    }
}

fn verbs(resource: &Value) -> String {
    let mut verbs = texts(resource, "verbs");
    verbs.sort_unstable();
    let joined = verbs.join(",");
    if joined == ALL_VERBS { "*".to_owned() } else { joined }
}

fn line(out: &mut String, fields: &[&str]) {
    writeln!(out, "{}", fields.join("\t")).expect("a String takes all text");
}
