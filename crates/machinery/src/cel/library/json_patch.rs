//! What policies that change objects construct: `JSONPatch{op: …, path: …}` and `jsonpatch.escapeKey`
//! (`apiserver/pkg/cel/mutation/jsonpatch.go`, `…/library/jsonpatch.go`).

use super::{Def, def};
use crate::cel::errors::EvalError;
use crate::cel::types::{Decl, ObjectType, Type};
use crate::cel::value::Value;
use std::sync::{Arc, LazyLock};

pub(super) const ESCAPE_KEY: &str = "jsonpatch.escapeKey";

pub(super) const OVERLOADS: &[Def] =
    &[def(ESCAPE_KEY, "string_jsonpatch_escapeKey_string", "(string) -> string", |a| match a {
        [Value::String(text)] => Ok(text.replace('~', "~0").replace('/', "~1").into()),
        _ => Err(EvalError::no_overload()),
    })];

static OPERATION: LazyLock<Arc<ObjectType>> = LazyLock::new(|| {
    let text = || Decl::from(Type::String);
    Arc::new(ObjectType::new(
        "JSONPatch",
        [
            ("op".to_owned(), text()),
            ("path".to_owned(), text()),
            ("from".to_owned(), text()),
            ("value".to_owned(), Decl::from(Type::Dyn)),
        ],
    ))
});

/// One operation of a JSON patch.
pub(crate) fn operation() -> Arc<ObjectType> {
    OPERATION.clone()
}
