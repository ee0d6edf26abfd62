//! The environment of device selectors: what the expressions of DeviceClasses and ResourceClaims may name
//! (`k8s.io/dynamic-resource-allocation/cel/compile.go`).

use super::types::{Decl, ObjectType, Type};
use super::{Env, compile};

/// What an expression may cost at most (`CELSelectorExpressionMaxCost`).
const MAX_COST: u64 = 1_000_000;
const MAX_DRIVER_NAME: u64 = 63;
const MAX_ATTRIBUTE_VALUE: u64 = 64;
const MAX_ATTRIBUTES: u64 = 32;

/// Why an expression is no selector of devices.
#[derive(Debug, PartialEq, Eq)]
pub enum SelectorError {
    /// It does not compile, or is neither true nor false; in upstream's words.
    Invalid(String),
    /// It could cost too much.
    TooComplex,
}

/// Checks the expression of a selector.
pub fn check_selector(expression: &str) -> Result<(), SelectorError> {
    let env = env();
    let program =
        compile(expression, &env).map_err(|error| SelectorError::Invalid(format!("compilation failed: {error}")))?;
    let found = program.output_type();
    // An attribute is of a type that is known only at run time.
    if !matches!(found, Type::Bool | Type::Dyn) {
        let found = found.name_with_parameters();
        return Err(SelectorError::Invalid(format!("must evaluate to bool or the unknown type, not {found}")));
    }
    if program.estimate(&env).max > MAX_COST { Err(SelectorError::TooComplex) } else { Ok(()) }
}

fn env() -> Env {
    let by_domain = |value: Decl| Decl::map_of(Decl::map_of(value).at_most(MAX_ATTRIBUTES)).at_most(MAX_ATTRIBUTES);
    let device = ObjectType::new(
        "kubernetes.DRADevice",
        [
            ("driver".to_owned(), Decl::from(Type::String).at_most(MAX_DRIVER_NAME)),
            ("allowMultipleAllocations".to_owned(), Decl::from(Type::Bool).at_most(1)),
            ("attributes".to_owned(), by_domain(Decl::from(Type::Dyn).at_most(MAX_ATTRIBUTE_VALUE))),
            ("capacity".to_owned(), by_domain(Decl::from(Type::Library("kubernetes.Quantity")))),
        ],
    );
    Env::new().with("device", Decl::object(device)).with_bindings()
}

#[cfg(test)]
mod tests {
    use super::{SelectorError, check_selector};

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
}
