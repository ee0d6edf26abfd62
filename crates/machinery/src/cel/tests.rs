//! Expressions in, values, costs and complaints out.

use super::*;
use expect_test::{Expect, expect};
use serde_json::json;

fn shown(value: &Value) -> String {
    match value {
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(inner)) => format!("some({})", shown(inner)),
        Value::Type(name) => format!("type {name}"),
        Value::Uint(number) => format!("{number}u"),
        Value::Double(number) => format!("{number:?}"),
        Value::Object(object) => format!("{} {}", object.name, value.to_json().unwrap_or_default()),
        other => other.to_json().map_or_else(|| format!("{other:?}"), |json| json.to_string()),
    }
}

fn object() -> Value {
    Value::from_json(&json!({
        "metadata": {"name": "web", "labels": {"app.kubernetes.io/name": "a", "x": "y"}},
        "spec": {"replicas": 3, "ratio": 1.5, "ports": [80, 443], "list": [{"n": "a", "v": 1}, {"n": "b", "v": 2}], "nothing": null},
    }))
}

/// One expression per line, with its value.
fn check(expressions: &str, expected: Expect) {
    let env = Env::new().with("object", Type::Dyn).with_patch_types();
    let mut out = String::new();
    for line in expressions.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let result = match compile(line, &env) {
            Err(error) => error.issues.iter().map(|i| i.message.clone()).collect::<Vec<_>>().join("; "),
            Ok(program) => match program.eval(&[("object", object())], &mut Budget::new(REQUEST_BUDGET)) {
                Ok(value) => shown(&value),
                Err(error) => format!("error: {error}"),
            },
        };
        out.push_str(&format!("{line} → {result}\n"));
    }
    expected.assert_eq(&out);
}

#[test]
fn operators() {
    check(
        "
        1 + 2 * 3 - -4
        7 / 2 + 7 % 4
        9223372036854775807 + 1
        -9223372036854775808
        1 / 0
        1 == 1.0 || 2u > 1
        1 < 1.5
        'a' + 'b' == 'ab' && [1] + [2] == [1, 2]
        true ? 'x' : 'y'
        1 + 'a'
        !true || 1 / 0 > 1
        false && 1 / 0 > 1
        1 / 0 > 1 || true
        b'abc' == bytes('abc')
        '\\u00e9\\x41\\n'.size()
        r'\\d' == '\\\\d'
        2 in [1, 2] && 'a' in {'a': 1}
        0x1F + 1
        1e3
        5u - 6u
        type(1) == int && type('a') == string && type([]) == list
        ",
        expect![[r#"
            1 + 2 * 3 - -4 → 11
            7 / 2 + 7 % 4 → 6
            9223372036854775807 + 1 → error: integer overflow
            -9223372036854775808 → -9223372036854775808
            1 / 0 → error: division by zero
            1 == 1.0 || 2u > 1 → found no matching overload for '_==_' applied to '(int, double)'
            1 < 1.5 → true
            'a' + 'b' == 'ab' && [1] + [2] == [1, 2] → true
            true ? 'x' : 'y' → "x"
            1 + 'a' → found no matching overload for '_+_' applied to '(int, string)'
            !true || 1 / 0 > 1 → error: division by zero
            false && 1 / 0 > 1 → false
            1 / 0 > 1 || true → true
            b'abc' == bytes('abc') → true
            '\u00e9\x41\n'.size() → 3
            r'\d' == '\\d' → true
            2 in [1, 2] && 'a' in {'a': 1} → true
            0x1F + 1 → 32
            1e3 → 1000.0
            5u - 6u → error: unsigned integer overflow
            type(1) == int && type('a') == string && type([]) == list → true
        "#]],
    );
}

#[test]
fn selections_and_macros() {
    check(
        "
        object.spec.replicas
        object.metadata.labels['app.kubernetes.io/name']
        has(object.spec.replicas) && !has(object.spec.missing)
        object.spec.missing
        object.?spec.?missing.orValue(7)
        object.spec[?'replicas'].hasValue()
        [1, ?optional.none(), ?optional.of(3)]
        {?'a': optional.none(), 'b': 1}
        optional.of(2).optMap(x, x + 1)
        object.spec.ports.all(p, p > 0)
        object.spec.ports.exists(p, p == 443)
        object.spec.ports.exists_one(p, p < 100)
        object.spec.ports.map(p, p + 1)
        object.spec.ports.map(p, p > 100, p + 1)
        object.spec.ports.filter(p, p > 100)
        object.spec.list.all(i, p, p.v == i + 1)
        object.spec.list.transformList(i, p, p.n + string(i))
        object.metadata.labels.transformMap(k, v, v == 'a', k)
        object.metadata.labels.transformMapEntry(k, v, {v: k})
        [0, 1].exists(x, 1 / x > 0)
        [0, 1].all(x, 1 / x > 0)
        object.spec.list.map(p, p.n).join(',')
        [3, 1, 2].sortBy(x, -x)
        object.spec.ports[5]
        object.spec.ports.map(p, object.spec.ports.filter(q, q > p))
        ",
        expect![[r#"
            object.spec.replicas → 3
            object.metadata.labels['app.kubernetes.io/name'] → "a"
            has(object.spec.replicas) && !has(object.spec.missing) → true
            object.spec.missing → error: no such key: missing
            object.?spec.?missing.orValue(7) → 7
            object.spec[?'replicas'].hasValue() → true
            [1, ?optional.none(), ?optional.of(3)] → [1,3]
            {?'a': optional.none(), 'b': 1} → {"b":1}
            optional.of(2).optMap(x, x + 1) → some(3)
            object.spec.ports.all(p, p > 0) → true
            object.spec.ports.exists(p, p == 443) → true
            object.spec.ports.exists_one(p, p < 100) → true
            object.spec.ports.map(p, p + 1) → [81,444]
            object.spec.ports.map(p, p > 100, p + 1) → [444]
            object.spec.ports.filter(p, p > 100) → [443]
            object.spec.list.all(i, p, p.v == i + 1) → true
            object.spec.list.transformList(i, p, p.n + string(i)) → ["a0","b1"]
            object.metadata.labels.transformMap(k, v, v == 'a', k) → {"app.kubernetes.io/name":"app.kubernetes.io/name"}
            object.metadata.labels.transformMapEntry(k, v, {v: k}) → {"a":"app.kubernetes.io/name","y":"x"}
            [0, 1].exists(x, 1 / x > 0) → true
            [0, 1].all(x, 1 / x > 0) → error: division by zero
            object.spec.list.map(p, p.n).join(',') → "a,b"
            [3, 1, 2].sortBy(x, -x) → [3,2,1]
            object.spec.ports[5] → error: index out of bounds: 5
            object.spec.ports.map(p, object.spec.ports.filter(q, q > p)) → [[443],[]]
        "#]],
    );
}

#[test]
fn libraries() {
    check(
        "
        'hello'.charAt(1) + 'hello'.substring(2, 4) + string('hello'.indexOf('l', 3))
        'a,b,c'.split(',', 2)
        'aXbXc'.replace('X', '-', 1)
        '%s has %d at %.2f (%x)'.format([dyn('a'), 2, 1.239, 255])
        '%s'.format([[dyn(1), 'a', {'k': 1.5}]])
        'a'.lastIndexOf('a') == 0 && ' x '.trim() == 'x'
        strings.quote('a\"b')
        [1, 2, 3].sum() + [4, 5].max() + [4, 5].min()
        [1, 3, 2].isSorted()
        [1, 2, 1].indexOf(2) + [1, 2, 1].lastIndexOf(1)
        [[1], [2, 3]].flatten()
        [1, 2, 2].distinct().reverse()
        lists.range(3).slice(1, 3)
        sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && !sets.intersects([1], [2])
        'abc 123'.find('[0-9]+') + string('abc'.matches('^a.c$'))
        'a1b2'.findAll('[0-9]')
        'x'.matches('(')
        url('https://me@example.com:80/a b?x=1&x=2#f').getHost()
        url('https://[::1]:80/path').getHostname()
        url('https://e.com/?x=1&x=2').getQuery()
        isURL('nonsense')
        isURL('http://#%x#@') || isURL('http://a#b/')
        url('http://a/b#c').getEscapedPath() + string(url('http://a/?q#c').getQuery().size())
        quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1500m').asApproximateFloat() == 1.5
        quantity('1').add(quantity('500m')) == quantity('1500m')
        isQuantity('1x')
        ip('10.0.0.1').family() + ip('::1').family()
        ip('fe80::1').isLinkLocalUnicast() && ip('127.0.0.1').isLoopback()
        cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('10.0.0.0/7')
        string(cidr('10.1.2.3/8').masked())
        isIP('1.2.3') || isCIDR('10.0.0.0/33')
        format.dns1123Label().validate('A_b')
        format.named('dns1123Label').value().validate('ab').hasValue()
        semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('v1', true).minor() == 0
        isSemver('01.2.3')
        timestamp('2024-02-29T12:30:00Z') + duration('24h')
        timestamp('2024-02-29T12:30:00Z').getDayOfWeek() + timestamp('2024-02-29T12:30:00Z').getHours('+02:00')
        duration('1h30m').getMinutes()
        timestamp('nonsense')
        string(duration('1.5s')) + string(1.0) + string(1e30)
        int('5') + int(2.9) + int(duration('1ns'))
        jsonpatch.escapeKey('a/b~c')
        Object{spec: Object.spec{replicas: 3}}
        [JSONPatch{op: 'add', path: '/x', value: {'a': 1}}]
        ",
        expect![[r#"
            'hello'.charAt(1) + 'hello'.substring(2, 4) + string('hello'.indexOf('l', 3)) → "ell3"
            'a,b,c'.split(',', 2) → ["a","b,c"]
            'aXbXc'.replace('X', '-', 1) → "a-bXc"
            '%s has %d at %.2f (%x)'.format([dyn('a'), 2, 1.239, 255]) → "a has 2 at 1.24 (ff)"
            '%s'.format([[dyn(1), 'a', {'k': 1.5}]]) → "[1, \"a\", {\"k\":1.500000}]"
            'a'.lastIndexOf('a') == 0 && ' x '.trim() == 'x' → true
            strings.quote('a"b') → "\"a\\\"b\""
            [1, 2, 3].sum() + [4, 5].max() + [4, 5].min() → 15
            [1, 3, 2].isSorted() → false
            [1, 2, 1].indexOf(2) + [1, 2, 1].lastIndexOf(1) → 3
            [[1], [2, 3]].flatten() → [1,2,3]
            [1, 2, 2].distinct().reverse() → [2,1]
            lists.range(3).slice(1, 3) → [1,2]
            sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && !sets.intersects([1], [2]) → true
            'abc 123'.find('[0-9]+') + string('abc'.matches('^a.c$')) → "123true"
            'a1b2'.findAll('[0-9]') → ["1","2"]
            'x'.matches('(') → invalid matches argument
            url('https://me@example.com:80/a b?x=1&x=2#f').getHost() → "example.com:80"
            url('https://[::1]:80/path').getHostname() → "::1"
            url('https://e.com/?x=1&x=2').getQuery() → {"x":["1","2"]}
            isURL('nonsense') → false
            isURL('http://#%x#@') || isURL('http://a#b/') → false
            url('http://a/b#c').getEscapedPath() + string(url('http://a/?q#c').getQuery().size()) → "/b1"
            quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1500m').asApproximateFloat() == 1.5 → true
            quantity('1').add(quantity('500m')) == quantity('1500m') → true
            isQuantity('1x') → false
            ip('10.0.0.1').family() + ip('::1').family() → 10
            ip('fe80::1').isLinkLocalUnicast() && ip('127.0.0.1').isLoopback() → true
            cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('10.0.0.0/7') → true
            string(cidr('10.1.2.3/8').masked()) → "10.0.0.0/8"
            isIP('1.2.3') || isCIDR('10.0.0.0/33') → false
            format.dns1123Label().validate('A_b') → some(["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"])
            format.named('dns1123Label').value().validate('ab').hasValue() → false
            semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('v1', true).minor() == 0 → true
            isSemver('01.2.3') → false
            timestamp('2024-02-29T12:30:00Z') + duration('24h') → "2024-03-01T12:30:00Z"
            timestamp('2024-02-29T12:30:00Z').getDayOfWeek() + timestamp('2024-02-29T12:30:00Z').getHours('+02:00') → 18
            duration('1h30m').getMinutes() → 90
            timestamp('nonsense') → invalid timestamp argument
            string(duration('1.5s')) + string(1.0) + string(1e30) → "1.5s11e+30"
            int('5') + int(2.9) + int(duration('1ns')) → 8
            jsonpatch.escapeKey('a/b~c') → "a~1b~0c"
            Object{spec: Object.spec{replicas: 3}} → Object {"spec":{"replicas":3}}
            [JSONPatch{op: 'add', path: '/x', value: {'a': 1}}] → [{"op":"add","path":"/x","value":{"a":1}}]
        "#]],
    );
}

#[test]
fn complaints() {
    let pod = schema_of_pod();
    let env = Env::new().with("object", pod).with("n", Type::Int);
    let mut out = String::new();
    for line in [
        "object.spec.containers[0].imagee == 'x'",
        "object.spec.replicas",
        "n + 'a'",
        "unknown > 1",
        "n = 42",
        "n.foo()",
        "[1, 'a']",
        "n.x",
        "n ? 1 : 2",
        "object.metadata.labels.all(k, k == 1)",
        "has(n)",
        "for",
        "'abc",
        "n.all(x, true)",
        "(1",
        "",
    ] {
        let result = match compile(line, &env) {
            Ok(program) => program.output_type().to_string(),
            Err(error) => error.to_string(),
        };
        out.push_str(&format!("{result}\n"));
    }
    expect![[r#"
        ERROR: <input>:1:26: undefined field 'imagee'
         | object.spec.containers[0].imagee == 'x'
         | .........................^
        ERROR: <input>:1:12: undefined field 'replicas'
         | object.spec.replicas
         | ...........^
        ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'
         | n + 'a'
         | ..^
        ERROR: <input>:1:1: undeclared reference to 'unknown' (in container '')
         | unknown > 1
         | ^
        ERROR: <input>:1:3: Syntax error: token recognition error at: '= '
         | n = 42
         | ..^
        ERROR: <input>:1:6: undeclared reference to 'foo' (in container '')
         | n.foo()
         | .....^
        ERROR: <input>:1:5: expected type 'int' but found 'string'
         | [1, 'a']
         | ....^
        ERROR: <input>:1:2: type 'int' does not support field selection
         | n.x
         | .^
        ERROR: <input>:1:3: found no matching overload for '_?_:_' applied to '(int, int, int)'
         | n ? 1 : 2
         | ..^
        ERROR: <input>:1:33: found no matching overload for '_==_' applied to '(string, int)'
         | object.metadata.labels.all(k, k == 1)
         | ................................^
        ERROR: <input>:1:4: invalid argument to has() macro
         | has(n)
         | ...^
        ERROR: <input>:1:1: reserved identifier: for
         | for
         | ^
        ERROR: <input>:1:1: Syntax error: token recognition error at: ''abc'
         | 'abc
         | ^
        ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)
         | n.all(x, true)
         | ^
        ERROR: <input>:1:3: Syntax error: mismatched input '<EOF>' expecting ')'
         | (1
         | ..^
        ERROR: <input>:1:1: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
         | 
         | ^
    "#]].assert_eq(&out);
}

fn schema_of_pod() -> Decl {
    let id = crate::schema::builtin().by_kind("", "v1", "Pod").expect("a pod is built in");
    built_in(id).expect("an object")
}

/// Costs of one evaluation, and what was estimated.
#[test]
fn costs() {
    let schema = json!({"type": "object", "properties": {
        "x": {"type": "integer"},
        "names": {"type": "array", "items": {"type": "string"}},
        "bounded": {"type": "array", "maxItems": 725, "items": {"type": "integer"}},
        "text": {"type": "string", "maxLength": 10},
    }});
    let decl = from_json_schema(&schema, "self", false).expect("an object");
    let this = Value::from_declared_json(
        &json!({"x": 1, "names": ["a", "b"], "bounded": vec![20; 725], "text": "abc", "hidden": 1}),
        &decl,
    );
    let env = Env::new().with("self", decl);
    let mut out = String::new();
    for line in [
        "self.x > 0",
        "self.names.all(n, n == 'string constant')",
        "self.bounded.all(x, self.bounded.all(y, y == x))",
        "self.text.matches('a+')",
        "self.bounded.map(x, x + 1).size() > 0",
        "has(self.names) && !has(self.x)",
    ] {
        let program = compile(line, &env).expect("an expression");
        let mut budget = Budget::new(REQUEST_BUDGET);
        let result = program.eval(&[("self", this.clone())], &mut budget);
        let result = result.map_or_else(|e| e.to_string(), |v| shown(&v));
        let (spent, estimate) = (REQUEST_BUDGET - budget.remaining(), program.estimate(&env));
        out.push_str(&format!("{line} → {result}: {spent} of {}..{}\n", estimate.min, estimate.max));
    }
    expect![[r#"
        self.x > 0 → true: 3 of 3..3
        self.names.all(n, n == 'string constant') → false: 10 of 3..6291453
        self.bounded.all(x, self.bounded.all(y, y == x)) → operation cancelled: actual cost limit exceeded: 1000001 of 3..2632478
        self.text.matches('a+') → true: 3 of 3..7
        self.bounded.map(x, x + 1).size() > 0 → true: 10165 of 15..10165
        has(self.names) && !has(self.x) → false: 3 of 1..3
    "#]].assert_eq(&out);
}

#[test]
fn schemas_say_what_values_are() {
    let schema = json!({"type": "object", "properties": {
        "time": {"type": "string", "format": "date-time"},
        "bytes": {"type": "string", "format": "byte"},
        "port": {"x-kubernetes-int-or-string": true},
        "my-name": {"type": "number"},
        "namespace": {"type": "string"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "free": {"type": "object", "additionalProperties": {"type": "integer"}},
        "unknown": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    let decl = from_json_schema(&schema, "self", true).expect("an object");
    let this = Value::from_declared_json(
        &json!({"time": "2024-01-01T00:00:00Z", "bytes": "YWI=", "port": "80%", "my-name": 1, "namespace": "n",
                "set": ["a", "b"], "free": {"k": 1}, "unknown": {"a": 1}, "metadata": {"name": "m", "labels": {}}}),
        &decl,
    );
    let env = Env::new().with("self", decl);
    for line in [
        "self.time.getFullYear() == 2024",
        "self.bytes == b'ab' && self.port == '80%'",
        "self.my__dash__name == 1.0 && self.__namespace__ == 'n'",
        "self.set == ['b', 'a'] && self.set + ['a'] == self.set",
        "self.free.k == 1 && self.free.all(k, self.free[k] > 0)",
        "self.metadata.name == 'm' && !has(self.kind)",
    ] {
        let program = compile(line, &env).expect("an expression");
        let result = program.eval(&[("self", this.clone())], &mut Budget::new(REQUEST_BUDGET));
        assert_eq!(result.expect("a value").as_bool(), Some(true), "{line}");
    }
    let error = compile("self.metadata.labels", &env).expect_err("labels are not seen");
    assert_eq!(error.issues[0].message, "undefined field 'labels'");
    assert!(compile("self.unknown.a", &env).is_err(), "fields without a schema are not seen");
}

#[test]
fn the_authorizer_is_asked_from_outside() {
    struct Answers(Option<Decision>);
    impl Activation for Answers {
        fn variable(&self, name: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
            (name == "authorizer").then(|| Ok(Check::authorizer()))
        }
        fn decision(&self, _: &Question) -> Option<Decision> {
            self.0.clone()
        }
    }
    let env = Env::new().with("authorizer", Type::Library("kubernetes.authorization.Authorizer"));
    let text = "authorizer.serviceAccount('ns', 'sa').group('apps').resource('deployments').check('get').allowed()";
    let program = compile(&format!("{text} || false"), &env).expect("an expression");
    let mut budget = Budget::new(REQUEST_BUDGET);
    match program.eval(&Answers(None), &mut budget) {
        Err(EvalError::Undecided(question)) => {
            let account = Some(("ns".to_owned(), "sa".to_owned()));
            assert_eq!((question.service_account, question.resource.as_str()), (account, "deployments"));
        }
        other => panic!("expected a question, got {other:?}"),
    }
    let yes = Decision { allowed: true, ..Decision::default() };
    let result = program.eval(&Answers(Some(yes)), &mut budget);
    assert_eq!(result.expect("a value").as_bool(), Some(true));
}

/// Pieces that make many expressions right and most of them nearly so.
const PIECES: &[&str] = &[
    "1",
    "-1",
    "2u",
    "1.5",
    "'a'",
    "'é'",
    "b'x'",
    "true",
    "null",
    "[1, 2]",
    "{'a': 1}",
    "object",
    "object.spec",
    "object.spec.list",
    "object.metadata.name",
    "x",
    ".",
    "(",
    ")",
    "[",
    "]",
    ",",
    "?",
    ":",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "<",
    "&&",
    "||",
    "!",
    "in",
    ".map(x, x)",
    ".all(x, x > 1)",
    ".exists(x, true)",
    ".filter(x, x)",
    ".size()",
    ".matches('a+')",
    ".split(',')",
    ".join()",
    ".replace('a', 'aa')",
    ".format([1])",
    "size(",
    "string(",
    "int(",
    "duration(",
    "timestamp(",
    "has(object.spec)",
    "dyn(",
    "quantity('1Gi')",
    "cidr('10.0.0.0/8')",
    "url('http://a')",
    ".indexOf('a')",
    ".substring(1)",
    ".sum()",
    ".min()",
    "optional.of(1)",
    "[?object.?x]",
    "type(",
];

proptest::proptest! {
    #[test]
    fn no_expression_panics_or_outspends_its_budget(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 1..14)) {
        const MOST: u64 = 100_000;
        let env = Env::new().with("object", Type::Dyn).with_patch_types();
        let Ok(program) = compile(&pieces.concat(), &env) else { return Ok(()) };
        program.estimate(&env);
        let mut budget = Budget::new(MOST);
        let result = program.eval(&[("object", object())], &mut budget);
        proptest::prop_assert!(budget.remaining() <= MOST);
        proptest::prop_assert!(!(budget.is_exhausted() && result.is_ok()), "{}", pieces.concat());
    }

    #[test]
    fn no_text_panics(text in ".{0,60}") {
        if let Ok(program) = compile(&text, &Env::new()) {
            let no_variables: [(&str, Value); 0] = [];
            program.eval(&no_variables, &mut Budget::new(1000)).ok();
        }
    }
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("(", ")"), ("[", "]"), ("{1:", "}"), ("[1].map(x, ", ")")] {
        let deep = format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
        assert!(compile(&deep, &Env::new()).is_err(), "{open}");
    }
    // An even number of these is none.
    assert!(compile(&format!("{}true", "!".repeat(50_000)), &Env::new()).is_ok());
}
