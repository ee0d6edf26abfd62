//! Macros: calls that the parser turns into folds and presence tests (`cel-go/parser/macro.go`, `ext/comprehensions.go`,
//! `cel/library.go` for `optMap`, `ext/lists.go` for `sortBy`).

use super::ast::{ACCUMULATOR, Comprehension, Element, Expr, Kind};
use super::errors::Issue;
use super::parse::Nodes;
use super::value::Value;
use std::sync::Arc;

/// What became of a call.
pub(super) enum Expansion {
    Done(Expr),
    /// An ordinary call; its parts come back.
    NoMacro {
        target: Option<Expr>,
        args: Vec<Expr>,
    },
}

/// Expands `target.name(args)` if that is a macro.
pub(super) fn expand(
    nodes: &mut Nodes,
    at: usize,
    name: &str,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Result<Expansion, Issue> {
    let done = |expr: Expr| Ok(Expansion::Done(expr));
    match (target, name, args.len()) {
        (None, "has", 1) => done(has(nodes, at, args)?),
        (Some(range), "all", 2 | 3) => done(fold(nodes, at, range, args, Fold::All)?),
        (Some(range), "exists", 2 | 3) => done(fold(nodes, at, range, args, Fold::Exists)?),
        (Some(range), "exists_one" | "existsOne", 2 | 3) => done(fold(nodes, at, range, args, Fold::ExistsOne)?),
        (Some(range), "map", 2 | 3) => {
            let filter = args.len() == 3;
            done(collect(nodes, at, range, args, 1, filter, Collect::List)?)
        }
        (Some(range), "filter", 2) => done(filter(nodes, at, range, args)?),
        (Some(range), "transformList", 3 | 4) => {
            let filter = args.len() == 4;
            done(collect(nodes, at, range, args, 2, filter, Collect::List)?)
        }
        (Some(range), "transformMap", 3 | 4) => {
            let filter = args.len() == 4;
            done(collect(nodes, at, range, args, 2, filter, Collect::Map)?)
        }
        (Some(range), "transformMapEntry", 3 | 4) => {
            let filter = args.len() == 4;
            done(collect(nodes, at, range, args, 2, filter, Collect::Entries)?)
        }
        (Some(target), "optMap", 2) => done(opt_map(nodes, at, target, args, true)?),
        (Some(target), "optFlatMap", 2) => done(opt_map(nodes, at, target, args, false)?),
        (Some(target), "sortBy", 2) => done(sort_by(nodes, at, target, args)?),
        (Some(target), "bind", 3) if nodes.binds && matches!(&target.kind, Kind::Ident(name) if &**name == "cel") => {
            done(cel_bind(nodes, at, args)?)
        }
        (target, _, _) => Ok(Expansion::NoMacro { target, args }),
    }
}

fn has(nodes: &mut Nodes, at: usize, args: Vec<Expr>) -> Result<Expr, Issue> {
    let invalid = || Issue::at(at, "invalid argument to has() macro".to_owned());
    match args.into_iter().next().map(|arg| arg.kind) {
        Some(Kind::Select { operand, field, test_only: false }) => {
            Ok(nodes.make(at, Kind::Select { operand, field, test_only: true }))
        }
        _ => Err(invalid()),
    }
}

/// The one or two names at the front of a macro's arguments.
fn variables(args: &[Expr], count: usize) -> Result<(Arc<str>, Option<Arc<str>>), Issue> {
    let name = |arg: &Expr| match &arg.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(Issue::at(arg.at, "argument must be a simple name".to_owned())),
    };
    let first = name(&args[0])?;
    if count == 1 {
        return Ok((first, None));
    }
    let second = name(&args[1])?;
    if first == second {
        return Err(Issue::at(args[1].at, format!("duplicate variable name: {first}")));
    }
    Ok((first, Some(second)))
}

#[derive(Clone, Copy, PartialEq)]
enum Fold {
    All,
    Exists,
    ExistsOne,
}

fn fold(nodes: &mut Nodes, at: usize, range: Expr, mut args: Vec<Expr>, kind: Fold) -> Result<Expr, Issue> {
    let (var, var2) = variables(&args, args.len() - 1)?;
    let Some(predicate) = args.pop() else { return Err(Issue::at(at, "missing predicate".to_owned())) };
    let accu = |nodes: &mut Nodes| nodes.ident(at, ACCUMULATOR);
    let (init, condition, step, result);
    match kind {
        Fold::All => {
            init = nodes.literal(at, Value::Bool(true));
            let value = accu(nodes);
            condition = nodes.call(at, "@not_strictly_false", vec![value]);
            let value = accu(nodes);
            step = nodes.call(at, "_&&_", vec![value, predicate]);
            result = accu(nodes);
        }
        Fold::Exists => {
            init = nodes.literal(at, Value::Bool(false));
            let value = accu(nodes);
            let not = nodes.call(at, "!_", vec![value]);
            condition = nodes.call(at, "@not_strictly_false", vec![not]);
            let value = accu(nodes);
            step = nodes.call(at, "_||_", vec![value, predicate]);
            result = accu(nodes);
        }
        Fold::ExistsOne => {
            init = nodes.literal(at, Value::Int(0));
            condition = nodes.literal(at, Value::Bool(true));
            let (value, one) = (accu(nodes), nodes.literal(at, Value::Int(1)));
            let more = nodes.call(at, "_+_", vec![value, one]);
            let same = accu(nodes);
            step = nodes.call(at, "_?_:_", vec![predicate, more, same]);
            let (value, one) = (accu(nodes), nodes.literal(at, Value::Int(1)));
            result = nodes.call(at, "_==_", vec![value, one]);
        }
    }
    let fold = Comprehension { range, var, var2, accu: ACCUMULATOR.into(), init, condition, step, result };
    Ok(nodes.make(at, Kind::Comprehension(Box::new(fold))))
}

#[derive(Clone, Copy, PartialEq)]
enum Collect {
    List,
    Map,
    Entries,
}

fn collect(
    nodes: &mut Nodes,
    at: usize,
    range: Expr,
    mut args: Vec<Expr>,
    variable_count: usize,
    has_filter: bool,
    into: Collect,
) -> Result<Expr, Issue> {
    let (var, var2) = variables(&args, variable_count)?;
    let missing = || Issue::at(at, "missing transformation".to_owned());
    let transform = args.pop().ok_or_else(missing)?;
    let filter = if has_filter { Some(args.pop().ok_or_else(missing)?) } else { None };
    let value = nodes.ident(at, ACCUMULATOR);
    let (init, mut step) = match into {
        Collect::List => {
            let item = nodes.make(at, Kind::List(vec![Element { value: transform, optional: false }]));
            (Kind::List(Vec::new()), nodes.call(at, "_+_", vec![value, item]))
        }
        Collect::Map => {
            let key = nodes.ident(at, &var);
            (Kind::Map(Vec::new()), nodes.call(at, "cel.@mapInsert", vec![value, key, transform]))
        }
        Collect::Entries => (Kind::Map(Vec::new()), nodes.call(at, "cel.@mapInsert", vec![value, transform])),
    };
    if let Some(filter) = filter {
        let same = nodes.ident(at, ACCUMULATOR);
        step = nodes.call(at, "_?_:_", vec![filter, step, same]);
    }
    let init = nodes.make(at, init);
    let condition = nodes.literal(at, Value::Bool(true));
    let result = nodes.ident(at, ACCUMULATOR);
    let fold = Comprehension { range, var, var2, accu: ACCUMULATOR.into(), init, condition, step, result };
    Ok(nodes.make(at, Kind::Comprehension(Box::new(fold))))
}

fn filter(nodes: &mut Nodes, at: usize, range: Expr, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    let (var, _) = variables(&args, 1)?;
    let predicate = args.pop().ok_or_else(|| Issue::at(at, "missing predicate".to_owned()))?;
    let item = nodes.ident(at, &var);
    let (value, list) =
        (nodes.ident(at, ACCUMULATOR), nodes.make(at, Kind::List(vec![Element { value: item, optional: false }])));
    let more = nodes.call(at, "_+_", vec![value, list]);
    let same = nodes.ident(at, ACCUMULATOR);
    let step = nodes.call(at, "_?_:_", vec![predicate, more, same]);
    let init = nodes.make(at, Kind::List(Vec::new()));
    let condition = nodes.literal(at, Value::Bool(true));
    let result = nodes.ident(at, ACCUMULATOR);
    let fold = Comprehension { range, var, var2: None, accu: ACCUMULATOR.into(), init, condition, step, result };
    Ok(nodes.make(at, Kind::Comprehension(Box::new(fold))))
}

/// A name for a value: a fold over nothing whose result may use it.
fn bind(nodes: &mut Nodes, at: usize, name: Arc<str>, value: Expr, result: Expr) -> Expr {
    let range = nodes.make(at, Kind::List(Vec::new()));
    let condition = nodes.literal(at, Value::Bool(false));
    let step = nodes.ident(at, &name);
    let fold =
        Comprehension { range, var: "#unused".into(), var2: None, accu: name, init: value, condition, step, result };
    nodes.make(at, Kind::Comprehension(Box::new(fold)))
}

/// `cel.bind(name, value, result)` (`ext/bindings.go`).
fn cel_bind(nodes: &mut Nodes, at: usize, args: Vec<Expr>) -> Result<Expr, Issue> {
    let missing = || Issue::at(at, "cel.bind() needs a name, a value and a result".to_owned());
    let [name, value, result] = <[Expr; 3]>::try_from(args).map_err(|_| missing())?;
    match name.kind {
        Kind::Ident(ident) => Ok(bind(nodes, at, ident, value, result)),
        _ => Err(Issue::at(name.at, "cel.bind() variable names must be simple identifiers".to_owned())),
    }
}

fn member(nodes: &mut Nodes, at: usize, target: Expr, function: &str) -> Expr {
    nodes.make(at, Kind::Call { function: function.into(), target: Some(Box::new(target)), args: Vec::new() })
}

/// `target.optMap(name, value)`
fn opt_map(nodes: &mut Nodes, at: usize, target: Expr, mut args: Vec<Expr>, wrap: bool) -> Result<Expr, Issue> {
    const TARGET: &str = "@target";
    let (name, _) = variables(&args, 1).map_err(|_| {
        let what = if wrap { "optMap()" } else { "optFlatMap()" };
        Issue::at(args[0].at, format!("{what} variable name must be a simple identifier"))
    })?;
    let mapping = args.pop().ok_or_else(|| Issue::at(at, "missing mapping".to_owned()))?;
    // The target is evaluated once.
    let seen = nodes.ident(at, TARGET);
    let has_value = member(nodes, at, seen, "hasValue");
    let seen = nodes.ident(at, TARGET);
    let value = member(nodes, at, seen, "value");
    let mapped = bind(nodes, at, name, value, mapping);
    let mapped = if wrap { nodes.call(at, "optional.of", vec![mapped]) } else { mapped };
    let none = nodes.call(at, "optional.none", Vec::new());
    let result = nodes.call(at, "_?_:_", vec![has_value, mapped, none]);
    Ok(bind(nodes, at, TARGET.into(), target, result))
}

/// `list.sortBy(name, key)`: the list, ordered by the keys of its items.
fn sort_by(nodes: &mut Nodes, at: usize, target: Expr, args: Vec<Expr>) -> Result<Expr, Issue> {
    const INPUT: &str = "@__sortBy_input__";
    let range = nodes.ident(at, INPUT);
    let keys = collect(nodes, at, range, args, 1, false, Collect::List)?;
    let input = Box::new(nodes.ident(at, INPUT));
    let function = "@sortByAssociatedKeys".into();
    let sorted = nodes.make(at, Kind::Call { function, target: Some(input), args: vec![keys] });
    Ok(bind(nodes, at, INPUT.into(), target, sorted))
}
