//! Upstream's samples of every type of its API (`k8s.io/api/testdata/HEAD`: JSON, YAML and protobuf, each field filled) go through
//! all our encodings and come out as they were.
//!
//! The samples are upstream's and not in this repository. [`FOLDER`] names their folder; without it the places of
//! [`PLACES`] are tried.

use machinery::kinds;
use machinery::protobuf;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FOLDER: &str = "DHOW_API_TESTDATA";
/// Relative ones from the top of the repository.
const PLACES: [&str; 2] = ["../shared/api/1.36/testdata", "/work/shared/api/1.36/testdata"];

/// The folder with the samples. A folder that is named and not there is an error; no folder at all is said aloud.
#[expect(clippy::print_stderr, reason = "a check that is skipped must say so")]
fn folder() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(FOLDER) {
        let named = PathBuf::from(named);
        assert!(named.is_dir(), "{FOLDER} names {}, which is no folder", named.display());
        return Some(named);
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = PLACES.iter().map(|place| top.join(place)).find(|place| place.is_dir());
    if found.is_none() {
        eprintln!("SKIPPED: upstream's samples are in none of {PLACES:?}; name their folder in {FOLDER}");
    }
    found
}

struct Sample {
    name: String,
    object: Value,
    json: Vec<u8>,
    yaml: String,
    protobuf: Vec<u8>,
}

impl Sample {
    fn read(json: &Path) -> Sample {
        let bytes = std::fs::read(json).expect("readable");
        Sample {
            name: json.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            object: serde_json::from_slice(&bytes).expect("JSON"),
            json: bytes,
            yaml: std::fs::read_to_string(json.with_extension("yaml")).expect("every sample is there as YAML"),
            protobuf: std::fs::read(json.with_extension("pb")).expect("every sample is there as protobuf"),
        }
    }

    fn text(&self, key: &str) -> &str {
        self.object[key].as_str().unwrap_or_default()
    }

    /// The served kind that reads such objects.
    fn kind(&self) -> Option<&'static dyn kinds::Kind> {
        let named = |k: &&dyn kinds::Kind| {
            k.info().api_version() == self.text("apiVersion") && k.info().kind == self.text("kind")
        };
        kinds::all().iter().copied().find(named)
    }
}

/// All samples of types that the tables know, but WatchEvent: an envelope in an envelope that no server sends.
fn samples() -> Option<Vec<Sample>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()?)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let samples = files.iter().map(|path| Sample::read(path));
    Some(
        samples
            .filter(|s| protobuf::is_supported(s.text("apiVersion"), s.text("kind")) && s.text("kind") != "WatchEvent")
            .collect(),
    )
}

/// Runs `check` over all samples and reports all that fail.
fn check_all(check: impl Fn(&Sample) -> Result<(), String>) {
    let Some(samples) = samples() else { return };
    assert!(samples.len() > 60, "only {} samples are of known types", samples.len());
    let failed: Vec<String> =
        samples.iter().filter_map(|s| check(s).err().map(|why| format!("{}: {why}", s.name))).collect();
    assert!(failed.is_empty(), "{} of {} samples:\n{}", failed.len(), samples.len(), failed.join("\n"));
}

fn equal(what: &str, ours: &Value, theirs: &Value) -> Result<(), String> {
    let Some((path, ours, theirs)) = difference(String::new(), ours, theirs) else { return Ok(()) };
    Err(format!("{what} differs at {path}\n  ours   {ours}\n  theirs {theirs}"))
}

/// The first place where two values differ; null is what is not there.
fn difference<'a>(path: String, ours: &'a Value, theirs: &'a Value) -> Option<(String, &'a Value, &'a Value)> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let at = |map: &'a serde_json::Map<String, Value>, key: &String| map.get(key).unwrap_or(&Value::Null);
            keys.into_iter().find_map(|key| difference(format!("{path}.{key}"), at(a, key), at(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(format!("{path}[{i}]"), a, b))
        }
        _ => (ours != theirs).then_some((path, ours, theirs)),
    }
}

#[test]
fn every_served_kind_has_a_sample() {
    let Some(samples) = samples() else { return };
    let there: BTreeSet<String> = samples.iter().filter_map(Sample::kind).map(|k| k.info().group_resource()).collect();
    let missing = kinds::all().iter().map(|k| k.info().group_resource()).filter(|name| !there.contains(name));
    // These two are of other modules than `k8s.io/api`.
    assert_eq!(
        missing.collect::<Vec<_>>(),
        ["apiservices.apiregistration.k8s.io", "customresourcedefinitions.apiextensions.k8s.io"]
    );
}

#[test]
fn typed_objects_keep_every_field() {
    check_all(|sample| {
        let Some(kind) = sample.kind() else { return Ok(()) };
        let problems = kind.check(&sample.json).map_err(|e| e.to_string())?.problems;
        if !problems.is_empty() {
            return Err(format!("{problems:?}"));
        }
        let theirs = without_null_times(sample.object.clone());
        let object = kind.decode(theirs.to_string().as_bytes()).map_err(|e| e.source.to_string())?;
        let ours = serde_json::from_slice(&object.encode()).map_err(|e| e.to_string())?;
        equal("the object", &without_kind_of_claims(ours), &theirs)
    });
}

/// Go has times by value in this map and shows the zero one as null; a disruption without its time means nothing.
fn without_null_times(mut object: Value) -> Value {
    if let Some(pods) = object.pointer_mut("/status/disruptedPods").and_then(Value::as_object_mut) {
        pods.retain(|_, time| !time.is_null());
    }
    object
}

/// Our claims in StatefulSets always name their kind, as they do after upstream's defaults
/// (`SetDefaults_StatefulSet` by way of the conversion of apps/v1).
fn without_kind_of_claims(mut object: Value) -> Value {
    let claims = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
    for claim in claims.into_iter().flatten().filter_map(Value::as_object_mut) {
        claim.retain(|key, _| key != "apiVersion" && key != "kind");
    }
    object
}

#[test]
fn yaml_goes_both_ways() {
    check_all(|sample| {
        let read: Value = serde_saphyr::from_str(&sample.yaml).map_err(|e| e.to_string())?;
        equal("what was read", &read, &sample.object)?;
        let written = serde_saphyr::to_string(&sample.object).map_err(|e| e.to_string())?;
        let again: Value = serde_saphyr::from_str(&written).map_err(|e| e.to_string())?;
        equal("what was written", &again, &sample.object)
    });
}

#[test]
fn protobuf_goes_both_ways_byte_for_byte() {
    check_all(|sample| {
        let ours = protobuf::encode(&sample.object).map_err(|e| e.to_string())?;
        if ours != sample.protobuf {
            return Err(first_difference(&ours, &sample.protobuf));
        }
        let read = protobuf::decode(&sample.protobuf, None).map_err(|e| e.to_string())?;
        equal("what was read", &read.value, &sample.object)
    });
}

fn first_difference(ours: &[u8], theirs: &[u8]) -> String {
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    let show = |b: &[u8]| String::from_utf8_lossy(&b[at.saturating_sub(40)..(at + 40).min(b.len())]).into_owned();
    format!("encoded differently at {at}\n  ours   {:?}\n  theirs {:?}", show(ours), show(theirs))
}
