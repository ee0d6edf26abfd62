//! The environment of device selectors: what the expressions of DeviceClasses and ResourceClaims may name
//! (`k8s.io/dynamic-resource-allocation/cel/compile.go`).

use super::library::semver::Version;
use super::types::{Decl, ObjectType, Type};
use super::{Budget, Env, Key, Map, Object, Program, Value, compile};
use crate::quantity::Quantity;
use api::k8s::api::resource::v1::{Device, DeviceAttribute};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use thiserror::Error;

/// What an expression may cost at most (`CELSelectorExpressionMaxCost`).
const MAX_COST: u64 = 1_000_000;
const MAX_DRIVER_NAME: u64 = 63;
const MAX_ATTRIBUTE_VALUE: u64 = 64;
const MAX_ATTRIBUTES: u64 = 32;
const DEVICE: &str = "kubernetes.DRADevice";

/// Why an expression is no selector of devices.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// It does not compile, or is neither true nor false; in upstream's words.
    #[error("{0}")]
    Invalid(String),
    /// It could cost too much.
    #[error("too complex")]
    TooComplex,
}

/// Checks the expression of a selector.
pub fn check_selector(expression: &str) -> Result<(), SelectorError> {
    let selector = Selector::compile(expression)?;
    if selector.0.estimate(&ENV).max > MAX_COST { Err(SelectorError::TooComplex) } else { Ok(()) }
}

/// An expression that compiled.
#[derive(Debug, Clone)]
pub struct Selector(Program);

impl Selector {
    /// Compiles it. What it could cost does not matter: what was stored may be used, and its evaluations are limited.
    pub fn compile(expression: &str) -> Result<Self, SelectorError> {
        let failed = |error| SelectorError::Invalid(format!("compilation failed: {error}"));
        let program = compile(expression, &ENV).map_err(failed)?;
        let found = program.output_type();
        // An attribute is of a type that is known only at run time.
        if !matches!(found, Type::Bool | Type::Dyn) {
            let found = found.name_with_parameters();
            return Err(SelectorError::Invalid(format!("must evaluate to bool or the unknown type, not {found}")));
        }
        Ok(Selector(program))
    }

    /// Whether it selects a device, as [`value`] shows it (`DeviceMatches`). What that cost is added to `spent`.
    pub fn matches(&self, device: &Value, spent: &mut u64) -> Result<bool, String> {
        let mut budget = Budget::new(MAX_COST);
        let found = self.0.eval(&[("device", device.clone())], &mut budget);
        *spent = spent.saturating_add(MAX_COST - budget.remaining());
        let found = found.map_err(|e| match budget.is_exhausted() {
            true => "operation cancelled: actual cost limit exceeded".to_owned(),
            false => e.to_string(),
        })?;
        let other = || {
            let name = found.type_name();
            let why = format!("type conversion error from '{name}' to 'bool'");
            format!("CEL result of type {name} could not be converted to bool: {why}")
        };
        found.as_bool().ok_or_else(other)
    }
}

/// A device as selectors see it. Attributes and capacities without a domain are of the driver's; a domain that the device
/// has nothing of is empty.
pub fn value(driver: &str, device: &Device) -> Result<Value, String> {
    let mut attributes = Vec::new();
    for (name, attribute) in device.attributes.iter().flatten() {
        attributes.push((name, attribute_value(attribute).map_err(|why| format!("attribute {name}: {why}"))?));
    }
    let mut capacity = Vec::new();
    for (name, quantity) in device.capacity.iter().flatten() {
        let quantity = Quantity::parse(&quantity.value.0).map_err(|why| format!("capacity {name}: {why}"))?;
        capacity.push((name, Value::Quantity(Arc::new(quantity))));
    }
    let fields = [
        ("driver", driver.into()),
        ("allowMultipleAllocations", device.allow_multiple_allocations.unwrap_or(false).into()),
        ("attributes", by_domain(driver, attributes)),
        ("capacity", by_domain(driver, capacity)),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Ok(Value::Object(Arc::new(Object { name: DEVICE.into(), fields })))
}

fn attribute_value(attribute: &DeviceAttribute) -> Result<Value, String> {
    match attribute {
        DeviceAttribute { int: Some(number), .. } => Ok(Value::Int(*number)),
        DeviceAttribute { bool: Some(truth), .. } => Ok((*truth).into()),
        DeviceAttribute { string: Some(text), .. } => Ok(text.as_str().into()),
        DeviceAttribute { version: Some(version), .. } => {
            let version = Version::parse(version).map_err(|why| format!("parse semantic version: {why}"))?;
            Ok(Value::Semver(Arc::new(version)))
        }
        _ => Err("unsupported attribute value".to_owned()),
    }
}

fn by_domain(driver: &str, named: Vec<(&String, Value)>) -> Value {
    let mut domains: BTreeMap<&str, Map> = BTreeMap::new();
    for (name, value) in named {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        domains.entry(domain).or_default().insert(Key::String(id.into()), value);
    }
    let mut all: Map = domains.into_iter().map(|(domain, ids)| (Key::String(domain.into()), ids.into())).collect();
    all.absent = Some(Map::new().into());
    all.into()
}

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let by_domain = |value: Decl| Decl::map_of(Decl::map_of(value).at_most(MAX_ATTRIBUTES)).at_most(MAX_ATTRIBUTES);
    let device = ObjectType::new(
        DEVICE,
        [
            ("driver".to_owned(), Decl::from(Type::String).at_most(MAX_DRIVER_NAME)),
            ("allowMultipleAllocations".to_owned(), Decl::from(Type::Bool).at_most(1)),
            ("attributes".to_owned(), by_domain(Decl::from(Type::Dyn).at_most(MAX_ATTRIBUTE_VALUE))),
            ("capacity".to_owned(), by_domain(Decl::from(Type::Library("kubernetes.Quantity")))),
        ],
    );
    Env::new().with("device", Decl::object(device)).with_bindings()
});

#[cfg(test)]
mod tests {
    use super::{Selector, SelectorError, check_selector, value};
    use api::Codec;
    use api::k8s::api::resource::v1::ResourceSlice;
    use serde_json::json;

    #[test]
    fn selectors_are_true_or_false_and_cheap() {
        for good in [
            r#"device.driver == "gpu.example.com""#,
            r#"device.attributes["gpu.example.com"].family == "a" && device.capacity["gpu.example.com"].memory.isGreaterThan(quantity("1Gi"))"#,
            r#"cel.bind(gpu, device.attributes["gpu.example.com"], gpu.a && gpu.b)"#,
            r#"device.attributes["gpu.example.com"].healthy"#,
        ] {
            assert_eq!(check_selector(good), Ok(()), "{good}");
        }
        let wrong = SelectorError::Invalid("must evaluate to bool or the unknown type, not string".to_owned());
        assert_eq!(check_selector("device.driver"), Err(wrong));
        assert!(matches!(check_selector("device.nothing == 1"), Err(SelectorError::Invalid(_))));
    }

    #[track_caller]
    fn check(expression: &str, expected: Result<bool, &str>) {
        let device = json!({
            "name": "a",
            "attributes": {
                "model": {"string": "x"}, "count": {"int": 3}, "ok": {"bool": true},
                "other.example.com/release": {"version": "1.10.0"},
            },
            "capacity": {"memory": {"value": "2Gi"}},
        });
        let slice = json!({"metadata": {}, "spec": {
            "driver": "d.example.com", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [device],
        }});
        let slice = ResourceSlice::decode(slice.to_string().as_bytes()).expect("a slice");
        let device = value("d.example.com", &slice.spec.devices.expect("devices")[0]).expect("a device");
        let selector = Selector::compile(expression).expect(expression);
        assert_eq!(selector.matches(&device, &mut 0), expected.map_err(str::to_owned), "{expression}");
    }

    #[test]
    fn selectors_look_at_drivers_attributes_and_capacities() {
        check(r#"device.driver == "d.example.com" && !device.allowMultipleAllocations"#, Ok(true));
        check(
            r#"device.attributes["d.example.com"].model == "x" && device.attributes["d.example.com"].count > 2"#,
            Ok(true),
        );
        check(r#"device.attributes["other.example.com"].release.isGreaterThan(semver("1.9.0"))"#, Ok(true));
        check(r#"device.capacity["d.example.com"].memory.isGreaterThan(quantity("2Gi"))"#, Ok(false));
        check(r#"device.attributes["d.example.com"].ok"#, Ok(true));
        check(r#""model" in device.attributes["none.example.com"]"#, Ok(false));
        check(r#""none.example.com" in device.attributes"#, Ok(false));
        check(r#"device.attributes["none.example.com"].model == "x""#, Err("no such key: model"));
        let why =
            "CEL result of type string could not be converted to bool: type conversion error from 'string' to 'bool'";
        check(r#"device.attributes["d.example.com"].model"#, Err(why));
    }
}
