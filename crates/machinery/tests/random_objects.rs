//! Objects of every served kind with random but well-typed content: nothing panics on them, defaults settle, there is a cell per column, and protobuf
//! says the same as JSON. `PROPTEST_CASES` asks for more than the usual 256 of them.

use machinery::kinds::{self, Kind};
use machinery::protobuf;
use machinery::schema::check::check_json;
use machinery::schema::{Scalar, Schema, Type, TypeId};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Deeper than this only what must be there is made.
const DEPTH: usize = 9;

/// Draws from a seed, so that a failing case is one number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    fn pick(&mut self, from: &[Value]) -> Value {
        from[self.roll(from.len())].clone()
    }

    fn value(&mut self, schema: &Schema, ty: TypeId, depth: usize) -> Value {
        match schema.get(ty) {
            Type::Scalar(scalar) => self.scalar(*scalar),
            Type::Any => self.pick(&[json!({}), json!({"a": 1}), json!({"b": ["x", null, 1.5]})]),
            Type::Map { value, .. } => {
                let keys = ["a", "app.kubernetes.io/name", "cpu", "Bad Key", ""];
                let count = if depth > DEPTH { 0 } else { self.roll(3) };
                Value::Object(
                    (0..count)
                        .map(|_| (keys[self.roll(5)].to_owned(), self.value(schema, *value, depth + 1)))
                        .collect(),
                )
            }
            Type::List { item, .. } => {
                let count = if depth > DEPTH { 0 } else { self.roll(3) };
                Value::Array((0..count).map(|_| self.value(schema, *item, depth + 1)).collect())
            }
            Type::Struct(s) => {
                let mut map = Map::new();
                for field in &s.fields {
                    let is_leaf = matches!(schema.get(field.ty), Type::Scalar(_));
                    if (depth <= DEPTH || is_leaf) && self.roll(3) > 0 {
                        map.insert(field.name.to_string(), self.value(schema, field.ty, depth + 1));
                    }
                }
                Value::Object(map)
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        let texts =
            ["", "a", "web-1", "Not Valid", "a/b", "10.0.0.1", "Always", "é\u{1F600}", "v1", "100%", "*/5 * * * *"];
        match scalar {
            Scalar::String => texts[self.roll(texts.len())].into(),
            Scalar::Bool => (self.roll(2) == 0).into(),
            Scalar::Int32 => self.pick(&[json!(0), json!(1), json!(-1), json!(i32::MAX), json!(i32::MIN)]),
            Scalar::Int64 => self.pick(&[json!(0), json!(3), json!(-1), json!(i64::MAX), json!(i64::MIN)]),
            Scalar::Double => self.pick(&[json!(0.5), json!(-1.0), json!(1e300)]),
            Scalar::Bytes => self.pick(&[json!(""), json!("YQ=="), json!("/////w==")]),
            Scalar::Time => self.pick(&[
                json!("2026-01-01T00:00:00Z"),
                json!("0001-01-02T00:00:00Z"),
                json!("9999-12-30T00:00:00Z"),
            ]),
            Scalar::MicroTime => json!("2026-01-01T00:00:00.000001Z"),
            Scalar::Duration => self.pick(&[json!("0s"), json!("1h0m0s")]),
            Scalar::Quantity => self.pick(&[
                json!("0"),
                json!("1"),
                json!("-1"),
                json!("1500m"),
                json!("1Gi"),
                json!("9223372036854775807"),
                json!("1e-9"),
            ]),
            Scalar::IntOrString => self.pick(&[json!(0), json!(-1), json!("http"), json!("50%")]),
        }
    }
}

fn random_object(kind: &dyn Kind, seed: u64) -> Value {
    let schema = kind.schema().expect("built-in kinds have one");
    let mut object = Dice(seed | 1).value(schema.schema, schema.ty, 0);
    object["apiVersion"] = kind.info().api_version().into();
    object["kind"] = kind.info().kind.as_ref().into();
    // Claims in a StatefulSet that say to be of another kind are refused; upstream does not look.
    let claims = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
    for claim in claims.into_iter().flatten().filter_map(Value::as_object_mut) {
        claim.retain(|key, _| key != "apiVersion" && key != "kind");
    }
    object
}

fn as_go_shows_it(kind: &dyn Kind, object: &Value) -> Value {
    let schema = kind.schema().expect("built-in kinds have one");
    check_json(schema.schema, schema.ty, object.to_string().as_bytes()).expect("a well-typed object").value
}

/// What the API server does to a new object, and to one that changed.
fn live_through(kind: &dyn Kind, body: &Value) -> Result<(), TestCaseError> {
    let fail = |why: String| TestCaseError::fail(format!("{}: {why}\n{body}", kind.info().group_resource()));
    let verdict = kind.check(body.to_string().as_bytes()).map_err(|e| fail(e.to_string()))?;
    let shown = as_go_shows_it(kind, body);
    prop_assert!(verdict.problems.is_empty(), "{:?}", verdict.problems);
    prop_assert!(verdict.adjusted || shown == *body, "{} became {}", body, shown);
    let mut object = kind.decode(shown.to_string().as_bytes()).map_err(|e| fail(e.source.to_string()))?;
    kind.default(&mut *object);
    let once = object.encode();
    kind.default(&mut *object);
    if object.encode() != once {
        return Err(fail("defaults do not settle".to_owned()));
    }
    let old = object.clone();
    kind.prepare_create(&mut *object);
    kind.validate_create(&*object);
    kind.warnings(&*object, Some(&*old));
    for subresource in [None, Some("status"), Some("ephemeralcontainers"), Some("resize")] {
        let mut new = old.clone();
        kind.prepare_update(&mut *new, &*object, subresource);
        kind.validate_update(&*new, &*object, subresource);
    }
    prop_assert_eq!(kind.cells(&*old, jiff::Timestamp::UNIX_EPOCH).len(), kind.columns().len());
    kind.selectable_fields(&*old);
    Ok(())
}

proptest! {
    #[test]
    fn any_object_lives_through_the_rules_of_its_kind(seed: u64, which in 0..kinds::all().len()) {
        let kind = kinds::all()[which];
        live_through(kind, &random_object(kind, seed))?;
    }

    #[test]
    fn protobuf_says_what_json_says(seed: u64, which in 0..kinds::all().len()) {
        let kind = kinds::all()[which];
        let object = random_object(kind, seed);
        // Without what Go does not show, as the server stores it.
        let object = as_go_shows_it(kind, &object);
        let bytes = protobuf::encode(&object).expect("a well-typed object");
        let read = protobuf::decode(&bytes, None).expect("what we wrote").value;
        let again = protobuf::encode(&read).expect("what we read");
        prop_assert!(again == bytes, "{object}\n{read}");
    }

    #[test]
    fn no_bytes_panic_as_protobuf(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), seed: u64, which in 0..kinds::all().len()) {
        let kind = kinds::all()[which];
        let (api_version, name) = (kind.info().api_version(), kind.info().kind.clone());
        let mut whole = protobuf::encode(&random_object(kind, seed)).expect("a well-typed object");
        for (i, byte) in bytes.iter().enumerate() {
            let at = (i * 7919 + seed as usize % 104_729) % whole.len();
            whole[at] ^= byte & 0x11;
        }
        bytes.splice(0..0, *protobuf::MAGIC);
        for input in [&bytes, &whole] {
            if let Ok(decoded) = protobuf::decode(input, Some((&api_version, &name))) {
                prop_assert!(decoded.value.is_object());
            }
        }
    }
}
