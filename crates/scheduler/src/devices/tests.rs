//! The search for devices, as text; the cases are those of upstream's `structured/internal/allocatortesting`.

use super::*;
use crate::snapshot::NodeInfo;
use api::Codec;
use api::k8s::api::resource::v1::ResourceClaimStatus;
use api::prelude::Node;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

/// Lines of a word, a name and YAML, all of driver `d`:
///
/// * `class NAME {selectors: …, config: …}`
/// * `slice NAME POOL {devices: …}`: a slice of the only node `n`, unless it says otherwise; one of `slices`, of `generation`
/// * `held CLAIM {…}`: results of an allocation
/// * `claim NAME {requests: …, constraints: …, config: …}`: what is asked for, of class `any` unless it says otherwise
///
/// The answer has a line for each claim: `request=pool/device` with what else is in the result, where, and configurations.
#[track_caller]
fn check(script: &str, expected: Expect) {
    expected.assert_eq(&answer(script, &mut Effort::default()));
}

fn answer(script: &str, effort: &mut Effort) -> String {
    let mut devices = Devices::default();
    devices.apply_class("any", Some(decode(json!({"metadata": {"name": "any"}, "spec": {}}))));
    let (mut wanted, mut answer) = (Vec::new(), String::new());
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (word, rest) = line.split_once(' ').expect("a word");
        let (name, rest) = rest.split_once(' ').expect("a name");
        let meta = json!({"name": name, "namespace": "ns", "uid": name});
        match word {
            "class" => drop(devices.apply_class(name, Some(decode(json!({"metadata": meta, "spec": yaml(rest)}))))),
            "slice" => {
                let (pool, rest) = rest.split_once(' ').expect("a pool");
                let slice = json!({"metadata": meta, "spec": slice(pool, yaml(rest))});
                devices.apply_slice(name, Some(decode(slice)));
            }
            "held" => {
                let mut result = json!({"request": "r", "driver": "d"});
                fill(&mut result, yaml(rest));
                let status = json!({"allocation": {"devices": {"results": [result]}}});
                devices.apply_claim("ns", name, Some(decode(json!({"metadata": meta, "spec": {}, "status": status}))));
            }
            "claim" => {
                let claim = decode(json!({"metadata": meta, "spec": {"devices": claim(yaml(rest))}}));
                match Wanted::read(&claim, &devices) {
                    Ok(read) => wanted.push(read),
                    Err(why) => answer = why,
                }
            }
            other => panic!("what is {other}?"),
        }
    }
    let labels = json!({"zone": "z"});
    let node: Arc<Node> = decode(json!({"metadata": {"name": "n", "labels": labels}}));
    let node = NodeInfo { node: Some(node), ..NodeInfo::default() };
    if answer.is_empty() {
        answer = match allocate(&devices, &wanted.iter().collect::<Vec<_>>(), &node, effort) {
            Ok(found) => wanted.iter().zip(&found).map(|(w, found)| show(&w.claim, found)).collect(),
            Err(failure) => format!("{failure:?}"),
        };
    }
    answer
}

fn decode<K: Codec>(value: Value) -> Arc<K> {
    Arc::new(K::decode(value.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e} in {value}")))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e} in {text}"))
}

/// What is there stays.
fn fill(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().expect("a map") {
        into[key] = value.clone();
    }
}

fn slice(pool: &str, given: Value) -> Value {
    let number = |key: &str| given[key].as_i64().unwrap_or(1);
    let pool = json!({"name": pool, "generation": number("generation"), "resourceSliceCount": number("slices")});
    let mut slice = json!({"driver": "d", "pool": pool});
    let places = ["nodeName", "allNodes", "nodeSelector", "perDeviceNodeSelection"];
    if places.iter().all(|place| given.get(place).is_none()) {
        slice["nodeName"] = "n".into();
    }
    fill(&mut slice, given);
    slice
}

fn claim(mut given: Value) -> Value {
    for request in given["requests"].as_array_mut().expect("requests") {
        let has_parts = request.get("firstAvailable").is_some();
        let parts = if has_parts {
            request["firstAvailable"].as_array_mut().expect("parts").iter_mut().collect()
        } else {
            if request.get("exactly").is_none() {
                request["exactly"] = json!({});
            }
            vec![&mut request["exactly"]]
        };
        for part in parts {
            if part.get("deviceClassName").is_none() {
                part["deviceClassName"] = "any".into();
            }
        }
    }
    given
}

fn show(claim: &ResourceClaim, found: &AllocationResult) -> String {
    let found: Value = serde_json::to_value(found).expect("we encode JSON");
    let mut line = claim.name().to_owned();
    for result in found["devices"]["results"].as_array().expect("results") {
        let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
        line.push_str(&format!(" {}={}/{}", text("request"), text("pool"), text("device")));
        for key in ["adminAccess", "consumedCapacity", "bindingConditions"] {
            if let Some(value) = result.get(key) {
                line.push_str(&format!(" {key}:{value}"));
            }
        }
    }
    let local =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    match found.get("nodeSelector") {
        Some(nodes) if *nodes == local => line.push_str("; here"),
        Some(nodes) => line.push_str(&format!("; {}", nodes["nodeSelectorTerms"])),
        None => {}
    }
    for config in found["devices"]["config"].as_array().into_iter().flatten() {
        line.push_str(&format!("\n  {} {} {}", config["source"], config["requests"], config["opaque"]["driver"]));
    }
    line + "\n"
}

const AB: &str = "slice s p {devices: [{name: a}, {name: b}]}";

#[test]
fn the_first_free_devices_are_taken() {
    check(&format!("{AB}\nclaim c {{requests: [{{name: r}}]}}"), expect![["c r=p/a; here\n"]]);
    check(
        &format!("{AB}\nheld x {{pool: p, device: a}}\nclaim c {{requests: [{{name: r}}]}}"),
        expect![["c r=p/b; here\n"]],
    );
    check(&format!("{AB}\nclaim c {{requests: [{{name: r, exactly: {{count: 3}}}}]}}"), expect!["NotEnough"]);
    check(
        &format!("{AB}\nclaim c {{requests: [{{name: r}}]}}\nclaim d {{requests: [{{name: r}}]}}"),
        expect![["c r=p/a; here\nd r=p/b; here\n"]],
    );
    check("claim c {requests: [{name: r}]}", expect!["NotEnough"]);
}

#[test]
fn a_choice_is_undone_if_it_leads_nowhere() {
    let slice =
        "slice s p {devices: [{name: big, attributes: {size: {int: 2}}}, {name: small, attributes: {size: {int: 1}}}]}";
    let big = "selectors: [{cel: {expression: 'device.attributes[\"d\"].size > 1'}}]";
    check(
        &format!("{slice}\nclaim c {{requests: [{{name: some}}, {{name: big, exactly: {{{big}}}}}]}}"),
        expect![["c some=p/small big=p/big; here\n"]],
    );
    check(
        &format!(
            "class big {{{big}}}\n{slice}\nclaim c {{requests: [{{name: r}}]}}\nclaim d {{requests: [{{name: r, exactly: {{deviceClassName: big}}}}]}}"
        ),
        expect![["c r=p/small; here\nd r=p/big; here\n"]],
    );
}

#[test]
fn wrong_selectors_and_classes_are_told_of() {
    let claim = |expression: &str| {
        format!(
            "{AB}\nclaim c {{requests: [{{name: r, exactly: {{selectors: [{{cel: {{expression: '{expression}'}}}}]}}}}]}}"
        )
    };
    check(
        &claim(r#"device.attributes["d"].x"#),
        expect![[r#"Broken("claim ns/c: selector #0: CEL runtime error: no such key: x")"#]],
    );
    check(&claim("false"), expect!["NotEnough"]);
    check(
        "claim c {requests: [{name: r, exactly: {deviceClassName: none}}]}",
        expect!["request r: device class none does not exist"],
    );
    check(
        &format!("{AB}\nclaim c {{requests: [{{name: r, exactly: {{count: 33}}}}]}}"),
        expect![[r#"Broken("claim ns/c: number of requested devices 33 exceeds the claim limit of 32")"#]],
    );
}

#[test]
fn all_means_each_device_that_matches() {
    let all = "claim c {requests: [{name: r, exactly: {allocationMode: All}}]}";
    check(&format!("{AB}\n{all}"), expect![["c r=p/a r=p/b; here\n"]]);
    check(&format!("{AB}\nheld x {{pool: p, device: a}}\n{all}"), expect!["NotEnough"]);
    check(&format!("slice s p {{devices: []}}\n{all}"), expect!["NotEnough"]);
    check(
        &format!("slice s p {{slices: 2, devices: [{{name: a}}]}}\n{all}"),
        expect![[
            r#"Broken("claim ns/c, request r: asks for all devices, but resource pool d/p is currently being updated")"#
        ]],
    );
}

#[test]
fn administrators_share_devices_in_use() {
    let admin = "claim c {requests: [{name: r, exactly: {allocationMode: All, adminAccess: true}}]}";
    check(
        &format!("{AB}\nheld x {{pool: p, device: a}}\n{admin}"),
        expect![["c r=p/a adminAccess:true r=p/b adminAccess:true; here\n"]],
    );
    check(
        &format!("{AB}\nheld x {{pool: p, device: a, adminAccess: true}}\nclaim c {{requests: [{{name: r}}]}}"),
        expect![["c r=p/a; here\n"]],
    );
}

#[test]
fn pools_count_as_they_are_now_and_as_the_node_reaches_them() {
    let want = "claim c {requests: [{name: r}]}";
    check(
        &format!(
            "slice old p {{devices: [{{name: a}}]}}\nslice new p {{generation: 2, devices: [{{name: b}}]}}\n{want}"
        ),
        expect![["c r=p/b; here\n"]],
    );
    // The newer slice is another node's, and the old ones are not all there any more.
    check(
        &format!(
            "slice old p {{slices: 2, devices: [{{name: a}}]}}\nslice new p {{generation: 2, nodeName: m, devices: [{{name: b}}]}}\n{want}"
        ),
        expect!["NotEnough"],
    );
    check(&format!("slice s p {{slices: 2, devices: [{{name: a}}]}}\n{want}"), expect!["NotEnough"]);
    check(
        &format!(
            "slice s p {{slices: 2, devices: [{{name: a}}]}}\nslice t p {{slices: 2, nodeName: m, devices: [{{name: a}}]}}\n{want}"
        ),
        expect![["c r=p/a; here\n"]],
    );
    check(
        &format!(
            "slice s p {{slices: 2, devices: [{{name: a}}]}}\nslice t p {{slices: 2, devices: [{{name: a}}]}}\n{want}"
        ),
        expect!["InvalidPools"],
    );
    check(&format!("slice s p {{allNodes: true, devices: [{{name: a}}]}}\n{want}"), expect![["c r=p/a\n"]]);
    let zone = |zone: &str| {
        format!("{{nodeSelectorTerms: [{{matchExpressions: [{{key: zone, operator: In, values: [{zone}]}}]}}]}}")
    };
    check(
        &format!("slice s p {{nodeSelector: {}, devices: [{{name: a}}]}}\n{want}", zone("z")),
        expect![[r#"
            c r=p/a; [{"matchExpressions":[{"key":"zone","operator":"In","values":["z"]}]}]
        "#]],
    );
    check(
        &format!("slice s p {{nodeSelector: {}, devices: [{{name: a}}]}}\n{want}", zone("other")),
        expect!["NotEnough"],
    );
    check(
        &format!(
            "slice s p {{perDeviceNodeSelection: true, devices: [{{name: a, nodeName: m}}, {{name: b, allNodes: true}}]}}\n{want}"
        ),
        expect![["c r=p/b\n"]],
    );
}

#[test]
fn alternatives_are_tried_in_order() {
    let list = "{name: r, firstAvailable: [{name: three, count: 3}, {name: one}]}";
    check(&format!("{AB}\nclaim c {{requests: [{list}]}}"), expect![["c r/one=p/a; here\n"]]);
    let both = "{name: r, firstAvailable: [{name: two, count: 2}, {name: one}]}";
    check(
        &format!("{AB}\nclaim c {{requests: [{both}, {{name: other}}]}}"),
        expect![["c r/one=p/a other=p/b; here\n"]],
    );
    // Of 40 devices, a claim may have 32: the larger parts are too many together.
    let names: Vec<String> = (10..50).map(|i| format!("{{name: d{i}}}")).collect();
    let half = "firstAvailable: [{name: all, count: 32}, {name: one}]";
    check(
        &format!(
            "slice s p {{devices: [{}]}}\nclaim c {{requests: [{{name: a, {half}}}, {{name: b, {half}}}]}}",
            names.join(", ")
        ),
        expect![["c a/one=p/d10 b/one=p/d11; here\n"]],
    );
}

#[test]
fn constraints_bind_devices_together() {
    let slice = "slice s p {devices: [{name: a, attributes: {numa: {int: 0}}}, {name: b, attributes: {numa: {int: 1}}}, {name: c, attributes: {numa: {int: 1}}}, {name: e}]}";
    let two = |constraint: &str| {
        format!("{slice}\nclaim c {{requests: [{{name: r, exactly: {{count: 2}}}}], constraints: [{{{constraint}}}]}}")
    };
    check(&two("matchAttribute: d/numa"), expect![["c r=p/b r=p/c; here\n"]]);
    check(&two("distinctAttribute: d/numa"), expect![["c r=p/a r=p/b; here\n"]]);
    check(&two("matchAttribute: d/none"), expect!["NotEnough"]);
    check(&two("requests: [other], matchAttribute: d/none"), expect![["c r=p/a r=p/b; here\n"]]);
    check(
        &format!(
            "{slice}\nclaim c {{requests: [{{name: r, exactly: {{allocationMode: All}}}}], constraints: [{{matchAttribute: d/numa}}]}}"
        ),
        expect![[
            r#"Broken("claim ns/c, request r: cannot add device d/p/b because a claim constraint would not be satisfied")"#
        ]],
    );
    // A constraint of an alternative concerns no other.
    let list = "requests: [{name: r, firstAvailable: [{name: x, count: 2}, {name: z, count: 2}]}], constraints: [{requests: [r/x], matchAttribute: d/none}]";
    check(&format!("{slice}\nclaim c {{{list}}}"), expect![["c r/z=p/a r/z=p/b; here\n"]]);
}

#[test]
fn taints_have_to_be_tolerated() {
    let slice = "slice s p {devices: [{name: a, taints: [{key: k, value: v, effect: NoSchedule}]}, {name: b, taints: [{key: k, effect: None}]}]}";
    let want = |tolerations: &str| {
        format!("{slice}\nclaim c {{requests: [{{name: r, exactly: {{tolerations: [{tolerations}]}}}}]}}")
    };
    check(&want(""), expect![["c r=p/b; here\n"]]);
    check(&want("{key: k, operator: Exists}"), expect![["c r=p/a; here\n"]]);
    check(&want("{key: k, operator: Equal, value: w}"), expect![["c r=p/b; here\n"]]);
    check(&want("{operator: Exists, effect: NoExecute}"), expect![["c r=p/b; here\n"]]);
}

#[test]
fn parts_of_a_device_share_its_counters() {
    let counters = "slice counters p {slices: 2, sharedCounters: [{name: gpu, counters: {memory: {value: 4Gi}}}]}";
    let part = |name: &str, memory: &str| {
        format!("{{name: {name}, consumesCounters: [{{counterSet: gpu, counters: {{memory: {{value: {memory}}}}}}}]}}")
    };
    let slice = format!(
        "{counters}\nslice s p {{slices: 2, devices: [{}, {}, {}]}}",
        part("whole", "4Gi"),
        part("half", "2Gi"),
        part("other", "2Gi")
    );
    let two = "claim c {requests: [{name: r, exactly: {count: 2}}]}";
    check(&format!("{slice}\n{two}"), expect![["c r=p/half r=p/other; here\n"]]);
    let one = "claim c {requests: [{name: r}]}";
    check(&format!("{slice}\nheld x {{pool: p, device: half}}\n{one}"), expect![["c r=p/other; here\n"]]);
    check(&format!("{slice}\nheld x {{pool: p, device: whole}}\n{one}"), expect!["NotEnough"]);
    check(&format!("slice s p {{devices: [{}]}}\n{one}", part("lost", "1Gi")), expect!["InvalidPools"]);
}

#[test]
fn several_claims_consume_the_capacity_of_one_device() {
    let device = |policy: &str| {
        format!(
            "slice s p {{devices: [{{name: a, allowMultipleAllocations: true, capacity: {{memory: {{value: 4Gi{policy}}}}}}}]}}"
        )
    };
    let want = |memory: &str| {
        format!("claim c {{requests: [{{name: r, exactly: {{capacity: {{requests: {{memory: {memory}}}}}}}}}]}}")
    };
    let any = "claim c {requests: [{name: r}]}";
    check(
        &format!("{}\n{}", device(""), want("1Gi")),
        expect![[r#"
        c r=p/a consumedCapacity:{"memory":"1Gi"}; here
    "#]],
    );
    check(
        &format!("{}\n{any}", device("")),
        expect![[r#"
        c r=p/a consumedCapacity:{"memory":"4Gi"}; here
    "#]],
    );
    let held = "held x {pool: p, device: a, shareID: s, consumedCapacity: {memory: 3Gi}}";
    check(&format!("{}\n{held}\n{}", device(""), want("2Gi")), expect!["NotEnough"]);
    check(
        &format!("{}\n{held}\n{}", device(""), want("1Gi")),
        expect![[r#"
        c r=p/a consumedCapacity:{"memory":"1Gi"}; here
    "#]],
    );
    let range = ", requestPolicy: {default: 1Gi, validRange: {min: 1Gi, max: 3Gi, step: 1Gi}}";
    check(
        &format!("{}\n{}", device(range), want("1500Mi")),
        expect![[r#"
        c r=p/a consumedCapacity:{"memory":"2Gi"}; here
    "#]],
    );
    check(&format!("{}\n{}", device(range), want("4Gi")), expect!["NotEnough"]);
    check(
        &format!("{}\n{any}", device(range)),
        expect![[r#"
        c r=p/a consumedCapacity:{"memory":"1Gi"}; here
    "#]],
    );
    let values = ", requestPolicy: {default: 1Gi, validValues: [1Gi, 4Gi]}";
    check(
        &format!("{}\n{}", device(values), want("2Gi")),
        expect![[r#"
        c r=p/a consumedCapacity:{"memory":"4Gi"}; here
    "#]],
    );
    check(&format!("{AB}\n{}", want("1Gi")), expect!["NotEnough"]);
}

#[test]
fn configurations_come_from_classes_and_the_claim() {
    let class = "class gpu {config: [{opaque: {driver: c, parameters: {}}}]}";
    let requests = "[{name: a, exactly: {deviceClassName: gpu}}, {name: b, firstAvailable: [{name: x, count: 9}, {name: z, deviceClassName: gpu}]}]";
    let config = "[{opaque: {driver: all, parameters: {}}}, {requests: [b/x], opaque: {driver: x, parameters: {}}}, {requests: [b/z], opaque: {driver: z, parameters: {}}}]";
    check(
        &format!("{class}\n{AB}\nclaim c {{requests: {requests}, config: {config}}}"),
        expect![[r#"
            c a=p/a b/z=p/b; here
              "FromClass" ["a","b/z"] "c"
              "FromClaim" null "all"
              "FromClaim" ["b/z"] "z"
        "#]],
    );
}

#[test]
fn devices_that_are_ready_later_come_last() {
    let later = "slice a a {devices: [{name: later, bindsToNode: true, bindingConditions: [ok], bindingFailureConditions: [bad]}]}";
    let want = "claim c {requests: [{name: r}]}";
    check(&format!("{later}\nslice b b {{devices: [{{name: now}}]}}\n{want}"), expect![["c r=b/now; here\n"]]);
    check(
        &format!("{later}\n{want}"),
        expect![[r#"
        c r=a/later bindingConditions:["ok"]; here
    "#]],
    );
}

#[test]
fn a_hopeless_search_ends() {
    check(&hopeless(), expect!["TooLong"]);
}

/// Every choice of 15 devices would have to be tried.
fn hopeless() -> String {
    let names: Vec<String> = (10..41).map(|i| format!("{{name: d{i}, attributes: {{x: {{int: {i}}}}}}}")).collect();
    let none = "selectors: [{cel: {expression: 'device.attributes[\"d\"].x > 99'}}]";
    format!(
        "slice s p {{devices: [{}]}}\nclaim c {{requests: [{{name: r, exactly: {{count: 15}}}}, {{name: s, exactly: {{{none}}}}}]}}",
        names.join(", ")
    )
}

/// What is in use after each of `seen CLAIM=DEVICE…` (the cache shows claims), `gone CLAIM…`, `assume CLAIM=DEVICE…` and
/// `unassume CLAIM=DEVICE…`. `CLAIM=` has no device, `CLAIM=DEVICE:AMOUNT` a share of one.
fn in_use_after(script: &str) -> String {
    let mut devices = Devices::default();
    for line in script.split("; ") {
        let mut words = line.split(' ');
        let word = words.next().expect("a word");
        let claims: Vec<(&str, &str)> = words.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let steps = claims.iter().map(|&(name, device)| step(name, device)).collect();
        match word {
            "seen" => claims.iter().for_each(|&(name, device)| {
                let mut claim = step(name, "").claim.as_ref().clone();
                let allocation = step(name, device).allocation;
                claim.status = Some(ResourceClaimStatus { allocation, ..ResourceClaimStatus::default() });
                devices.apply_claim("ns", name, Some(Arc::new(claim)));
            }),
            "gone" => claims.iter().for_each(|(name, _)| {
                devices.apply_claim("ns", name, None);
            }),
            "assume" => devices.assume(&ClaimPlan(steps)),
            "unassume" => drop(devices.unassume(&ClaimPlan(steps))),
            other => panic!("what is {other}?"),
        }
    }
    let dedicated = devices.in_use.dedicated.keys().map(|id| id.device.clone());
    let consumed = |shared: &Shared| shared.consumed["m"].to_string();
    let shared = devices.in_use.shared.iter().map(|(id, shared)| format!("{}:{}", id.device, consumed(shared)));
    dedicated.chain(shared).collect::<Vec<_>>().join(" ")
}

/// What a claim gets.
fn step(name: &str, device: &str) -> ClaimStep {
    let mut result = json!({"request": "r", "driver": "d", "pool": "p", "device": device});
    if let Some((device, amount)) = device.split_once(':') {
        fill(&mut result, json!({"device": device, "shareID": "s", "consumedCapacity": {"m": amount}}));
    }
    let allocation = (!device.is_empty()).then(|| json!({"devices": {"results": [result]}}));
    ClaimStep {
        claim: decode(json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {}})),
        allocation: allocation.map(|a| serde_json::from_value(a).expect("an allocation")),
        makes: None,
    }
}

#[test]
fn a_device_is_in_use_as_long_as_a_claim_has_it_or_is_about_to() {
    for (script, expected) in [
        // The same claim twice: the later counts, and nothing stays.
        ("assume c=a c=b", "b"),
        ("assume c=a c=b; unassume c=a c=b", ""),
        ("assume c=a c=a; unassume c=a c=a", ""),
        ("assume c=a d=b", "a b"),
        ("assume c=a; unassume c=a", ""),
        ("assume c=a; unassume c=a; unassume c=a", ""),
        // The cache shows it before the task has ended, or later.
        ("assume c=a; seen c=a", "a"),
        ("assume c=a; seen c=a; unassume c=a", "a"),
        ("assume c=a; seen c=a; unassume c=a; seen c=", ""),
        ("assume c=a; seen c=a; gone c", "a"),
        ("assume c=a; seen c=a; gone c; unassume c=a", ""),
        // Somebody else gave it another.
        ("assume c=a; seen c=b", "a b"),
        ("assume c=a; seen c=b; unassume c=a", "b"),
        ("seen c=a; seen c=b", "b"),
        ("seen c=a; seen c=a; seen c=", ""),
        ("seen c=a d=a; gone c", "a"),
        // What is both seen and assumed is counted twice for a moment: too little is given rather than too much.
        ("assume c=a:1Gi; seen c=a:1Gi", "a:2Gi"),
        ("assume c=a:1Gi; seen c=a:1Gi; unassume c=a:1Gi", "a:1Gi"),
        ("assume c=a:1Gi c=a:2Gi; unassume c=a:1Gi c=a:2Gi", ""),
        ("seen c=a:1Gi d=a:2Gi; assume e=a:1Gi", "a:4Gi"),
        ("seen c=a:1Gi d=a:2Gi; gone c", "a:2Gi"),
    ] {
        assert_eq!(in_use_after(script), expected, "{script}");
    }
}

#[test]
fn a_search_is_no_deeper_than_a_small_stack() {
    let search = || {
        let claims = |spec: &str| (0..5000).map(|i| format!("claim c{i} {spec}\n")).collect::<String>();
        let shared = "slice s p {devices: [{name: a, allowMultipleAllocations: true, capacity: {m: {value: 1Ti, requestPolicy: {default: 1}}}}]}";
        let none: String = (0..5000).map(|i| format!("c{i}\n")).collect();
        // Each takes a little of the same device.
        check(&format!("{shared}\n{}", claims("{requests: [{name: r}]}")), expect!["TooLong"]);
        let last = "claim last {requests: [{name: r}]}";
        let expected = none + "last r=p/a; here\n";
        let script = format!("{AB}\n{}{last}", claims("{requests: []}"));
        assert_eq!(answer(&script, &mut Effort::default()), expected);
    };
    let small = std::thread::Builder::new().stack_size(1024 * 1024).spawn(search);
    small.expect("a thread").join().expect("a search that ends");
}

#[test]
fn all_searches_of_a_decision_end_together() {
    let (easy, mut effort) = (format!("{AB}\nclaim c {{requests: [{{name: r}}]}}"), Effort::default());
    assert_eq!(answer(&easy, &mut effort), "c r=p/a; here\n");
    assert_eq!(answer(&hopeless(), &mut effort), "TooLong");
    assert_eq!(answer(&easy, &mut effort), "TooLong");
}
