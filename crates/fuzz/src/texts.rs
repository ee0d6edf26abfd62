//! Small languages: selectors, CEL, schedules, patterns, quantities, names of images, the file of registries.

use image::{Reference, Registries};
use machinery::cel::policy::{self, Sees};
use machinery::cel::{Budget, Value, compile};
use machinery::quantity::Quantity;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::{cron, go_regex, time_zone};
use std::fmt::{Debug, Display};

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What was understood, said again, is understood as the same.
fn says_itself<T: Display, E: Debug>(text: &str, parse: impl Fn(&str) -> Result<T, E>) {
    let Ok(first) = parse(text) else { return };
    let said = first.to_string();
    let again = parse(&said).unwrap_or_else(|error| panic!("{text:?} became {said:?}: {error:?}"));
    assert_eq!(again.to_string(), said, "from {text:?}");
}

pub(crate) fn selector_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        "a=b,c!=d,!e,f",
        "app in (web,db),tier notin (a),n>1,m<2",
        "example.com/a==b",
        "metadata.name=x,spec.nodeName!=y",
        "a in (,),b=",
        r"status.phase=Run\,ning\=\\",
    ])
}

pub(crate) fn selectors(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    says_itself(text, LabelSelector::parse);
    says_itself(text, FieldSelector::parse);
    if let Ok(selector) = LabelSelector::parse(text) {
        // Somebody with no labels either matches or does not.
        selector.matches_by(|_| None);
        selector.matches_by(|_| Some("1"));
    }
}

pub(crate) fn cel_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        "object.spec.replicas <= 5 && has(object.metadata.labels.a)",
        "object.items.all(x, x.name.startsWith('a') || x.n in [1, 2, 3])",
        "[1, 2].map(x, x * 2).filter(y, y > 2).exists_one(z, z == 4)",
        "cel.bind(a, {'b': 1u}, a.b + 2u) == 3u ? 'x' : \"y\"",
        "duration('1h').getSeconds() > timestamp('2026-01-01T00:00:00Z').getFullYear()",
        "quantity('1Gi').isGreaterThan(quantity('1Mi')) && ip('10.0.0.1').isLoopback()",
        "'%s %d'.format(['a', 1]).split(' ').join('-').matches('^a-[0-9]+$')",
        "object.?a.orValue({}).size() == 0 && optional.none().hasValue()",
        "JSONPatch{op: 'add', path: '/a', value: dyn(1)} == [JSONPatch{op: 'test'}][0]",
        "semver('1.2.3').major() + url('http://a/b?c=d').getQuery().size()",
        "b'\\x00\\377' + r'\\n' == '''a''' || 1.5e3 / 0.0 > -0x1F % 7",
        "sets.contains([1], [2]) || format.dns1123Label().validate('A').hasValue()",
    ])
}

/// Text either does not compile, or ends within its budget.
pub(crate) fn cel(input: &[u8]) {
    const MOST: u64 = 50_000;
    let Ok(text) = std::str::from_utf8(input) else { return };
    let sees = Sees { patch_types: true, ..Sees::default() };
    let env = policy::env(sees);
    let Ok(program) = compile(text, &env) else { return };
    program.estimate(&env);
    let object = serde_json::json!({
        "metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"replicas": 3},
        "items": [{"name": "ab", "n": 1}, {"name": "c", "n": 2.5}], "a": null,
    });
    let object = Value::from_json(&object);
    let nothing = Value::from_json(&serde_json::json!({}));
    let mut budget = Budget::new(MOST);
    let variables =
        [("object", object.clone()), ("oldObject", object), ("namespaceObject", nothing.clone()), ("request", nothing)];
    let result = program.eval(&variables, &mut budget);
    assert!(budget.remaining() <= MOST);
    assert!(!(budget.is_exhausted() && result.is_ok()), "{text}");
}

pub(crate) fn schedule_seeds() -> Vec<Vec<u8>> {
    seeds(&["*/5 0-12/3 1,15 JAN-mar MON", "0 0 31 2 *", "@every 1h30m", "@weekly", "30 2 ? * sun", "59 23 31 12 7"])
}

/// Times come later and later, also where clocks are put on and back.
pub(crate) fn schedules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(schedule) = cron::Schedule::parse(text) else { return };
    for zone in ["UTC", "Europe/Berlin", "Australia/Lord_Howe"] {
        let zone = time_zone::find(zone).expect("it is in the program");
        let mut time = "2026-03-28T12:34:56Z".parse().expect("a time");
        for _ in 0..3 {
            let Some(next) = schedule.next(time, &zone) else { break };
            assert!(next > time, "{text:?}: {next} after {time}");
            time = next;
        }
    }
}

pub(crate) fn pattern_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        r"(?i)(?P<name>\d+)\.(?:a|b){2,3}?",
        r"\pL\x{10FFFF}\Qa.b\E[[:^alpha:]\W]*",
        r"(?s-m:.)\A\z\b",
    ])
}

/// What compiles finds what it finds in bounded memory and time.
pub(crate) fn patterns(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(pattern) = go_regex::compile(text, 1 << 20) {
        pattern.is_match(text);
        pattern.is_match("");
    }
}

pub(crate) fn quantity_seeds() -> Vec<Vec<u8>> {
    seeds(&["1", "-1.5Gi", "100m", "1e3", "12E-2", "0.1n", "9223372036854775808", "1.25Ki", "+5u"])
}

pub(crate) fn quantities(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    says_itself(text, Quantity::parse);
}

pub(crate) fn reference_seeds() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let mut all = seeds(&["busybox", "a/b:1.0", "[::1]:5000/x", "registry.local:5000/a/b/c:v1", "docker.io/library/x"]);
    all.push(format!("localhost/x:1@{digest}").into_bytes());
    all.push(digest.into_bytes());
    all
}

pub(crate) fn references(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    says_itself(text, str::parse::<Reference>);
    says_itself(text, str::parse::<image::Digest>);
    if let Ok(reference) = text.parse::<Reference>() {
        let short = reference.familiar();
        assert_eq!(short.parse(), Ok(reference), "{text:?} is {short:?} for short");
    }
}

pub(crate) fn registries_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        "docker.io:\n  mirrors: [{ url: \"https://mirror.local\", ca: /etc/m.pem }, { url: \"http://10.0.0.5:5000\" }]\n",
        "registry.local:5000: { insecure: true, credentials: { username: me, password: secret } }\n\"*\": {}\n",
        "a: &a {insecure: true}\nb: *a\n",
    ])
}

/// What was read, written and read again is the same.
pub(crate) fn registries(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(read) = serde_saphyr::from_str::<Registries>(text) else { return };
    let written = serde_json::to_vec(&read).expect("registries are JSON");
    assert_eq!(serde_json::from_slice::<Registries>(&written).expect("what was written"), read);
}
