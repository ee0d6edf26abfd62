//! [`FieldSet`]: a set of field paths, and its FieldsV1 form. Follows `structured-merge-diff/v6/fieldpath` (set.go,
//! serialize.go).
//!
//! Always holds: a node of the tree is a member itself or has members below it. Owning a parent does not mean owning
//! its children.
//!
//! Differs: [`FieldSet::to_value`] gives a JSON object whose keys sort as text, since `serde_json` sorts them;
//! [`FieldSet::to_json`] has upstream's order.

use super::path::PathElement;
use crate::json::{Doc, Json, Kind, to_text};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// A set of field paths as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element, none twice.
    nodes: Vec<(PathElement, Node)>,
}

/// What a set says about one path and what is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    fn union(self, other: Node) -> Node {
        Node { member: self.member || other.member, children: self.children.union(other.children) }
    }
}

impl FieldSet {
    /// The empty set.
    pub fn new() -> Self {
        FieldSet::default()
    }

    /// A set of paths of plain fields, each like `["metadata", "name"]`.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = FieldSet::new();
        for path in paths {
            let path: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        match self.nodes.last() {
            Some((last, _)) if last < element => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|(e, _)| e.cmp(element)),
        }
    }

    /// Adds a path, but not its parents. The empty path, the whole object, is never owned.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = self.find(first).unwrap_or_else(|at| {
            self.nodes.insert(at, (first.clone(), Node::default()));
            at
        });
        let node = &mut self.nodes[at].1;
        if rest.is_empty() {
            node.member = true;
        } else {
            node.children.insert(rest);
        }
    }

    /// Whether this very path is in it.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.node(last).is_some_and(|n| n.member),
            [first, rest @ ..] => self.node(first).is_some_and(|n| n.children.has(rest)),
        }
    }

    /// Whether everything in `other` is in it.
    pub(super) fn contains_all(&self, other: &FieldSet) -> bool {
        other.nodes.iter().all(|(element, theirs)| {
            let ours = self.node(element);
            ours.is_some_and(|ours| (ours.member || !theirs.member) && ours.children.contains_all(&theirs.children))
        })
    }

    /// Whether nothing is in both.
    pub(super) fn is_disjoint(&self, other: &FieldSet) -> bool {
        other.nodes.iter().all(|(element, theirs)| {
            let ours = self.node(element);
            ours.is_none_or(|ours| !(ours.member && theirs.member) && ours.children.is_disjoint(&theirs.children))
        })
    }

    /// Whether everything in it is in a set of which `fields` is the text.
    pub(super) fn is_within(&self, fields: Json<'_>) -> bool {
        let mut found = 0;
        let within = self.beside(fields).all(|(ours, theirs)| {
            found += 1;
            (is_member(theirs) || !ours.member) && ours.children.is_within(theirs)
        });
        within && found == self.nodes.len()
    }

    /// Whether nothing in it, nor anything below that, is in a set of which `fields` is the text.
    pub(super) fn is_apart_from(&self, fields: Json<'_>) -> bool {
        self.beside(fields).all(|(ours, theirs)| !ours.member && ours.children.is_apart_from(theirs))
    }

    /// What is in the uppermost level of both, in one walk through the text.
    fn beside<'a>(&'a self, fields: Json<'a>) -> impl Iterator<Item = (&'a Node, Json<'a>)> {
        let fields = if self.is_empty() { Json::EMPTY_OBJECT } else { fields };
        fields.members().filter_map(|(key, below)| Some((self.node_of_key(&key)?, below)))
    }

    /// What is said about the element that has this key in FieldsV1.
    fn node_of_key(&self, key: &str) -> Option<&Node> {
        if let Some(name) = key.strip_prefix("f:") {
            let order = |element: &PathElement| element.name().map_or(Ordering::Greater, |own| own.cmp(name));
            let found = self.nodes.binary_search_by(|(element, _)| order(element));
            return found.ok().map(|at| &self.nodes[at].1);
        }
        // Fields come first.
        let has_others = self.nodes.last().is_some_and(|(element, _)| element.name().is_none());
        if has_others { self.node(&PathElement::from_key(key).ok()??) } else { None }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: FieldSet) -> FieldSet {
        if self.is_empty() {
            return other;
        }
        for (element, theirs) in other.nodes {
            self.add(element, theirs);
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(|element, ours| {
            let theirs = other.node(element)?;
            Some(Node { member: ours.member && theirs.member, children: ours.children.intersection(&theirs.children) })
        })
    }

    /// What is in `self` and not in `other`, path by path.
    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut left = self.clone();
        left.take_away(other);
        left
    }

    /// [`Self::difference`] in place.
    pub(super) fn take_away(&mut self, other: &FieldSet) {
        self.reduce(other, &|ours, theirs| {
            ours.member &= !theirs.member;
            ours.children.take_away(&theirs.children);
        });
    }

    /// As [`Self::difference`], but a path in `other` also takes everything below it away.
    #[must_use]
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        let mut left = self.clone();
        left.take_away_recursively(other);
        left
    }

    fn take_away_recursively(&mut self, other: &FieldSet) {
        self.reduce(other, &|ours, theirs| {
            if theirs.member {
                *ours = Node::default();
            } else {
                ours.children.take_away_recursively(&theirs.children);
            }
        });
    }

    /// Lets every node that is in both shrink; those that become empty vanish.
    fn reduce(&mut self, other: &FieldSet, shrink: &dyn Fn(&mut Node, &Node)) {
        for (element, theirs) in &other.nodes {
            if let Ok(at) = self.find(element) {
                let ours = &mut self.nodes[at].1;
                shrink(ours, theirs);
                if ours.is_empty() {
                    self.nodes.remove(at);
                }
            }
        }
    }

    /// A set made from every node of this one; nodes that become empty vanish.
    pub(super) fn combine(&self, make: impl Fn(&PathElement, &Node) -> Option<Node>) -> FieldSet {
        let made = self.nodes.iter().filter_map(|(element, node)| Some((element, make(element, node)?)));
        FieldSet { nodes: made.filter(|(_, n)| !n.is_empty()).map(|(e, n)| (e.clone(), n)).collect() }
    }

    /// Every element of the uppermost level, in order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&PathElement, &Node)> {
        self.nodes.iter().map(|(element, node)| (element, node))
    }

    pub(super) fn node(&self, element: &PathElement) -> Option<&Node> {
        self.find(element).ok().map(|at| &self.nodes[at].1)
    }

    /// Adds what a node says to what is said about this element; an empty one is left out.
    pub(super) fn add(&mut self, element: PathElement, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.find(&element) {
            Ok(at) => {
                let ours = &mut self.nodes[at].1;
                *ours = std::mem::take(ours).union(node);
            }
            Err(at) => self.nodes.insert(at, (element, node)),
        }
    }

    /// Sets what is said about this element; an empty node is left out.
    pub(super) fn put(&mut self, element: PathElement, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.find(&element) {
            Ok(at) => self.nodes[at].1 = node,
            Err(at) => self.nodes.insert(at, (element, node)),
        }
    }

    /// Every path in it: those of a level before those below them.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
        for (element, _) in self.nodes.iter().filter(|(_, n)| n.member) {
            let mut path = prefix.clone();
            path.push(element.clone());
            out.push(path);
        }
        for (element, node) in &self.nodes {
            prefix.push(element.clone());
            node.children.collect(prefix, out);
            prefix.pop();
        }
    }

    /// FieldsV1 as a JSON value.
    pub fn to_value(&self) -> Value {
        let entries = self.nodes.iter().map(|(element, node)| {
            let mut value = node.children.to_value();
            if let (true, Value::Object(map)) = (node.member && !node.children.is_empty(), &mut value) {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.to_key(), value)
        });
        Value::Object(entries.collect())
    }

    /// FieldsV1 as text, in upstream's order.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, false, &|_| {});
        out
    }

    /// Writes FieldsV1 as `serde_json` writes [`FieldSet::to_value`].
    pub(super) fn write_sorted(&self, out: &mut String) {
        self.write(out, false, &|keys| keys.sort_by(|(a, _), (b, _)| a.cmp(b)));
    }

    fn write(&self, out: &mut String, include_self: bool, arrange: &dyn Fn(&mut Vec<(String, &Node)>)) {
        out.push('{');
        if include_self && !self.is_empty() {
            out.push_str("\".\":{},");
        }
        // Fields come first, and their names sort as text already.
        if self.nodes.last().is_none_or(|(element, _)| element.name().is_some()) {
            for (i, (element, node)) in self.nodes.iter().enumerate() {
                out.push_str(if i > 0 { ",\"f:" } else { "\"f:" });
                write_inner(out, element.name().unwrap_or_default());
                out.push_str("\":");
                node.children.write(out, node.member, arrange);
            }
            out.push('}');
            return;
        }
        let mut keys: Vec<(String, &Node)> = self.nodes.iter().map(|(e, node)| (e.to_key(), node)).collect();
        arrange(&mut keys);
        for (i, (key, node)) in keys.into_iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            write_text(out, &key);
            out.push(':');
            node.children.write(out, node.member, arrange);
        }
        out.push('}');
    }

    /// Reads FieldsV1. Elements of unknown kinds are dropped, as upstream does.
    pub fn from_value(value: &Value) -> Result<FieldSet, String> {
        FieldSet::from_json(Doc::of(value).root())
    }

    /// [`FieldSet::from_value`] of a value in a text.
    pub(crate) fn from_json(json: Json<'_>) -> Result<FieldSet, String> {
        match json.kind() {
            Kind::Object => {}
            Kind::Null => return Ok(FieldSet::new()),
            _ => return Err("fieldsV1 is not an object".to_owned()),
        }
        let mut set = FieldSet::new();
        for (key, below) in json.members() {
            if key == "." {
                continue;
            }
            if let Some(element) = PathElement::from_key(&key)? {
                let children = FieldSet::from_json(below)?;
                let member = children.is_empty() || is_member(below);
                set.put(element, Node { member, children });
            }
        }
        Ok(set)
    }
}

/// Whether what has this below it in FieldsV1 is in the set itself.
fn is_member(below: Json<'_>) -> bool {
    below.is_empty() || below.get(".").is_some()
}

/// Appends text as a JSON string.
pub(super) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    write_inner(out, text);
    out.push('"');
}

/// Appends what stands between the quotes.
fn write_inner(out: &mut String, text: &str) {
    if text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        let quoted = to_text(text);
        out.push_str(&quoted[1..quoted.len() - 1]);
    } else {
        out.push_str(text);
    }
}

/// What an endpoint's changes are taken for: fields that it resets anyway are nobody's merit.
#[derive(Debug, Clone, Default)]
pub enum Filter {
    /// Every field counts.
    #[default]
    All,
    /// All but these and what is below them (`GetResetFields`).
    Exclude(FieldSet),
    /// Only these and what is below them (`NewIncludeMatcherFilter`).
    Include(Vec<Vec<Matcher>>),
}

/// One step of a pattern in [`Filter::Include`].
#[derive(Debug, Clone)]
pub enum Matcher {
    /// Any element.
    Any,
    /// The field of this name.
    Field(&'static str),
}

impl Filter {
    /// The paths of `set` that count.
    pub fn apply(&self, set: FieldSet) -> FieldSet {
        match self {
            Filter::All => set,
            Filter::Exclude(exclude) => {
                let mut set = set;
                set.take_away_recursively(exclude);
                set
            }
            Filter::Include(patterns) => {
                let patterns: Vec<&[Matcher]> = patterns.iter().map(Vec::as_slice).collect();
                include(&set, &patterns)
            }
        }
    }
}

fn include(set: &FieldSet, patterns: &[&[Matcher]]) -> FieldSet {
    if patterns.iter().any(|p| p.is_empty()) {
        return set.clone();
    }
    set.combine(|element, node| {
        let matches = |m: &Matcher| match (m, element) {
            (Matcher::Any, _) => true,
            (Matcher::Field(name), PathElement::Field(field)) => name == field,
            _ => false,
        };
        let rest: Vec<&[Matcher]> =
            patterns.iter().filter_map(|p| p.split_first()).filter(|(m, _)| matches(m)).map(|(_, rest)| rest).collect();
        (!rest.is_empty()).then(|| Node { member: node.member, children: include(&node.children, &rest) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(json: &str) -> FieldSet {
        let value: Value = serde_json::from_str(json).expect("literal is JSON");
        FieldSet::from_value(&value).expect("literal is FieldsV1")
    }

    #[test]
    fn fields_v1_round_trips_in_upstreams_order() {
        let text = r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}},"k:{\"containerPort\":443,\"protocol\":\"TCP\"}":{}}}},"f:finalizers":{".":{},"v:\"x\"":{}},"f:list":{"i:2":{},"i:10":{}}}}"#;
        assert_eq!(set(text).to_json(), text);
        assert_eq!(FieldSet::from_value(&set(text).to_value()), Ok(set(text)));
        // Values are written as Go's encoding/json writes them.
        let escaped = r#"{"k:{\"name\":\"a\\u003c1\"}":{},"v:\"x\\u0026\"":{}}"#;
        assert_eq!(set(r#"{"k:{\"name\":\"a<1\"}":{},"v:\"x&\"":{}}"#).to_json(), escaped);
        assert_eq!(set(escaped).to_json(), escaped);
        // The parent is a member only where it says so; unknown kinds are ignored.
        assert_eq!(set(r#"{"f:a":{"f:b":{}},"z:q":{"f:c":{}}}"#).to_json(), r#"{"f:a":{"f:b":{}}}"#);
        assert!(FieldSet::from_value(&serde_json::json!({"f": {}})).is_err());
        assert!(FieldSet::from_value(&serde_json::json!({"k:{": {}})).is_err());
    }

    #[test]
    fn elements_are_told_by_value_in_texts() {
        let text = r#"{"f:a":{},"k:{\"n\":1.0}":{".":{}},"v:\"a<1\"":{}}"#;
        let doc = Doc::parse(text.as_bytes()).expect("literal is JSON");
        assert!(set(r#"{"k:{\"n\":1}":{},"v:\"a\\u003c1\"":{}}"#).is_within(doc.root()));
        assert!(!set(r#"{"v:\"a<1\"":{}}"#).is_apart_from(doc.root()));
    }

    #[test]
    fn algebra_is_path_by_path() {
        let (a, b) = (set(r#"{"f:a":{".":{},"f:b":{},"f:c":{}},"f:d":{}}"#), set(r#"{"f:a":{"f:b":{}},"f:e":{}}"#));
        assert_eq!(a.difference(&b).to_json(), r#"{"f:a":{".":{},"f:c":{}},"f:d":{}}"#);
        assert_eq!(a.intersection(&b).to_json(), r#"{"f:a":{"f:b":{}}}"#);
        assert_eq!(b.clone().union(a.clone()).to_json(), r#"{"f:a":{".":{},"f:b":{},"f:c":{}},"f:d":{},"f:e":{}}"#);
        // Owning the parent does not cover the child in a plain difference, but it does in a recursive one.
        let parent = set(r#"{"f:a":{}}"#);
        assert_eq!(a.difference(&parent).to_json(), r#"{"f:a":{"f:b":{},"f:c":{}},"f:d":{}}"#);
        assert_eq!(a.recursive_difference(&parent).to_json(), r#"{"f:d":{}}"#);
    }

    #[test]
    fn filters_exclude_or_include() {
        let all = set(
            r#"{"f:metadata":{"f:labels":{}},"f:spec":{"f:c":{"k:{\"n\":1}":{".":{},"f:image":{},"f:r":{"f:x":{}}}}}}"#,
        );
        let exclude = Filter::Exclude(FieldSet::of_fields(&[&["spec"]]));
        assert_eq!(exclude.apply(all.clone()).to_json(), r#"{"f:metadata":{"f:labels":{}}}"#);
        let pattern = vec![Matcher::Field("spec"), Matcher::Field("c"), Matcher::Any, Matcher::Field("r")];
        assert_eq!(
            Filter::Include(vec![pattern]).apply(all).to_json(),
            r#"{"f:spec":{"f:c":{"k:{\"n\":1}":{".":{},"f:r":{"f:x":{}}}}}}"#
        );
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let element = prop_oneof![
            "[a-c]".prop_map(PathElement::Field),
            (0i64..3).prop_map(|n| PathElement::Key(vec![("k".to_owned(), n.into())])),
            "[a-b]".prop_map(|s| PathElement::Value(s.into())),
            (0i64..2).prop_map(PathElement::Index),
        ];
        let path = proptest::collection::vec(element, 1..4);
        proptest::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = FieldSet::new();
            paths.iter().for_each(|p| set.insert(p));
            set
        })
    }

    proptest! {
        #[test]
        fn union_minus_and_intersection_agree(a in any_set(), b in any_set()) {
            let both = a.clone().union(b.clone());
            prop_assert_eq!(both.difference(&b).union(a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&a).is_empty());
            for path in a.paths() {
                prop_assert!(both.has(&path));
                prop_assert_eq!(a.intersection(&b).has(&path), b.has(&path));
            }
            prop_assert!(both.contains_all(&a) && both.contains_all(&b));
            prop_assert_eq!(a.contains_all(&b), b.difference(&a).is_empty());
            prop_assert_eq!(a.is_disjoint(&b), a.intersection(&b).is_empty());
        }

        #[test]
        fn every_set_survives_its_json(a in any_set()) {
            let parsed: Value = serde_json::from_str(&a.to_json()).expect("we write JSON");
            prop_assert_eq!(FieldSet::from_value(&parsed), Ok(a.clone()));
            let mut sorted = String::new();
            a.write_sorted(&mut sorted);
            prop_assert_eq!(sorted, a.to_value().to_string());
        }

        #[test]
        fn sets_are_told_from_texts_as_from_sets(a in any_set(), b in any_set()) {
            for text in [b.to_json(), b.to_value().to_string()] {
                let doc = Doc::parse(text.as_bytes()).expect("we write JSON");
                prop_assert_eq!(a.is_within(doc.root()), b.contains_all(&a));
                let meets = |theirs: &Vec<PathElement>| a.paths().iter().any(|ours| theirs.starts_with(ours));
                prop_assert_eq!(a.is_apart_from(doc.root()), !b.paths().iter().any(meets));
            }
        }

        #[test]
        fn any_json_is_read_or_refused(value in crate::patch::any_json()) {
            drop(FieldSet::from_value(&value));
        }
    }
}
