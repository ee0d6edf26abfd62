//! What changed between two objects, as sets of fields. Follows `structured-merge-diff/v6/typed/compare.go`.
//!
//! Upstream compares Go structs, in which some fields are always there and others vanish when zero; [`super::presence`]
//! says which, so that owning `.spec.replicas` does not mean owning `.spec`. Custom resources are plain JSON there and
//! here.
//!
//! Both objects are texts. What has the same text on both sides is not looked into, so that a change of the status costs
//! what the status costs, however large the rest is.

use super::path::{PathElement, same_value};
use super::presence::{self, FieldPresence, Presences};
use super::set::{FieldSet, Filter, Node};
use super::typed::{Ref, SchemaRef, Shape, TypeErrors, Types};
use crate::json::{Json, Kind};
use crate::schema::{ListTopology, Struct};
use std::borrow::Cow;

/// What is gone, and what is new or different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) removed: FieldSet,
    /// Added, or there before with another value.
    pub(super) changed: FieldSet,
}

impl Comparison {
    pub(super) fn filter(self, filter: &Filter) -> Self {
        Comparison { removed: filter.apply(self.removed), changed: filter.apply(self.changed) }
    }
}

/// How one side of a comparison is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A Go struct: fields are implied, zeros hidden.
    Typed,
    /// A Go struct into which plain JSON was merged: fields are implied, zeros stay.
    Merged,
    /// Plain JSON.
    Plain,
}

pub(super) fn compare(
    root: SchemaRef<'_>,
    old: (Json<'_>, Side),
    new: (Json<'_>, Side),
) -> Result<Comparison, TypeErrors> {
    let walk = Walk { types: Types(root.schema), sides: (old.1, new.1) };
    let Changes { removed, changed } = walk.value(Ref::Type(root.ty), Some(old.0), Some(new.0))?;
    // The whole object is never owned, so the root itself does not count.
    Ok(Comparison { removed: removed.children, changed: changed.children })
}

/// What became of a value and of everything below it.
#[derive(Default)]
struct Changes {
    removed: Node,
    changed: Node,
}

impl Changes {
    /// Takes in what became of a child.
    fn put(&mut self, element: impl Fn() -> PathElement, child: Changes) {
        let parts = [(&mut self.removed, child.removed), (&mut self.changed, child.changed)];
        for (part, node) in parts.into_iter().filter(|(_, node)| !node.is_empty()) {
            part.children.add(element(), node);
        }
    }

    /// Takes in what became of a leaf.
    fn leaf(&mut self, old: Option<Json<'_>>, new: Option<Json<'_>>) {
        match (old, new) {
            (None, _) => self.changed.member = true,
            (_, None) => self.removed.member = true,
            (Some(old), Some(new)) if !is_same(old, new) => self.changed.member = true,
            _ => {}
        }
    }
}

fn is_same(old: Json<'_>, new: Json<'_>) -> bool {
    old.json() == new.json() || old.kind() == new.kind() && has_same_value(old, new)
}

/// [`same_value`] of values of one kind.
fn has_same_value(a: Json<'_>, b: Json<'_>) -> bool {
    fn keys(json: Json<'_>) -> impl Iterator<Item = Cow<'_, str>> {
        json.members().map(|(key, _)| key)
    }
    match a.kind() {
        Kind::String => a.text() == b.text(),
        Kind::Array => a.items().count() == b.items().count() && a.items().zip(b.items()).all(|(a, b)| is_same(a, b)),
        Kind::Object if keys(a).eq(keys(b)) => a.members().zip(b.members()).all(|((_, a), (_, b))| is_same(a, b)),
        _ => same_value(&a.to_value(), &b.to_value()),
    }
}

struct Walk<'s> {
    types: Types<'s>,
    sides: (Side, Side),
}

impl<'s> Walk<'s> {
    fn value(&self, r: Ref, old: Option<Json<'_>>, new: Option<Json<'_>>) -> Result<Changes, TypeErrors> {
        let mut out = Changes::default();
        let leaf = match (old, new) {
            (None, None) => return Ok(out),
            // The same text seen the same way is the same value.
            (Some(old), Some(new)) if self.sides.0 == self.sides.1 && old.json() == new.json() => return Ok(out),
            (Some(a), Some(b)) if self.types.is_untyped(r) && rank(a) != rank(b) => {
                // Each side is walked in its own shape.
                self.shape(self.types.shape(r, old), old, new, &mut out)?;
                self.shape(self.types.shape(r, new), old, new, &mut out)?
            }
            _ => self.shape(self.types.shape(r, new.or(old)), old, new, &mut out)?,
        };
        if !leaf {
            out.changed.member |= old.is_none();
            out.removed.member |= old.is_some() && new.is_none();
        }
        Ok(out)
    }

    /// Returns whether it was a leaf.
    fn shape(
        &self,
        shape: Shape<'s>,
        old: Option<Json<'_>>,
        new: Option<Json<'_>>,
        out: &mut Changes,
    ) -> Result<bool, TypeErrors> {
        let of_kind = |value: Option<Json<'_>>, kind: Kind| value.is_some_and(|v| v.kind() == kind);
        match shape {
            Shape::List { item, keys: Some(keys) } => {
                let empty = |v: Option<Json<'_>>| !of_kind(v, Kind::Array) || v.is_some_and(Json::is_empty);
                if !(empty(old) && empty(new)) {
                    // Equal lists need no names for their items.
                    let same = old.zip(new).is_some_and(|(a, b)| a.json() == b.json());
                    if !same {
                        self.list(item, keys, old, new, out)?;
                    }
                    return Ok(false);
                }
                out.leaf(old, new);
            }
            Shape::Map { fields, element, atomic: false } => {
                let view = |side, value| View::new(fields, side, value);
                let (a, b) = (view(self.sides.0, old), view(self.sides.1, new));
                if !(a.is_empty() && b.is_empty()) {
                    self.map(element, &a, &b, out)?;
                    return Ok(false);
                }
                // Empty is not null.
                out.leaf(a.shown(old), b.shown(new));
            }
            Shape::Scalar(_) | Shape::List { keys: None, .. } | Shape::Map { atomic: true, .. } => out.leaf(old, new),
        }
        Ok(true)
    }

    fn map(&self, element: Ref, old: &View<'s, '_>, new: &View<'s, '_>, out: &mut Changes) -> Result<(), TypeErrors> {
        let fields = old.fields.or(new.fields);
        let mut put = |key: &str, field: Option<usize>, old: Option<Json<'_>>, new: Option<Json<'_>>| {
            let r = fields.zip(field).map_or(element, |(s, at)| Ref::Type(s.fields[at].ty));
            let child = self.value(r, old, new).map_err(|e| e.below(&PathElement::field(key)))?;
            out.put(|| PathElement::field(key), child);
            Ok::<(), TypeErrors>(())
        };
        let (mut olds, mut news) = (old.members().peekable(), new.members().peekable());
        loop {
            // Both are sorted; the smaller key goes first.
            let next = olds.peek().into_iter().chain(news.peek()).min_by(|a, b| a.key.cmp(&b.key)).copied();
            let Some(Member { key, field, .. }) = next else { break };
            let (a, b) = (olds.next_if(|m| m.key == *key), news.next_if(|m| m.key == *key));
            put(key, *field, old.seen(a, *field), new.seen(b, *field))?;
        }
        // Fields that one side always has, and of which neither says anything.
        if old.implies() != new.implies() {
            for (at, name) in old.always().chain(new.always()).filter(|(_, name)| !old.has(name) && !new.has(name)) {
                put(name, Some(at), old.seen(None, Some(at)), new.seen(None, Some(at)))?;
            }
        }
        Ok(())
    }

    fn list(
        &self,
        item: Ref,
        keys: &ListTopology,
        old: Option<Json<'_>>,
        new: Option<Json<'_>>,
        out: &mut Changes,
    ) -> Result<(), TypeErrors> {
        let mut named = Vec::new();
        for (is_new, side) in [(false, old), (true, new)] {
            for (i, value) in side.into_iter().flat_map(Json::items).enumerate() {
                let element = self.types.item_element(item, keys, value);
                let element = element.map_err(|message| TypeErrors::one(&[], format!("element {i}: {message}")))?;
                named.push((element, is_new, value));
            }
        }
        // Stable, so that repeated items stay in their order, the old ones first.
        named.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for same in named.chunk_by(|(a, ..), (b, ..)| a == b) {
            let (old, new) = same.split_at(same.partition_point(|(_, is_new, _)| !is_new));
            let element = &same[0].0;
            let child = self.item(item, old, new).map_err(|e| e.below(element))?;
            out.put(|| element.clone(), child);
        }
        Ok(())
    }

    /// Repeated items are one leaf together.
    fn item(&self, item: Ref, old: &[Named<'_>], new: &[Named<'_>]) -> Result<Changes, TypeErrors> {
        match (old, new) {
            ([] | [_], [] | [_]) => self.value(item, first(old), first(new)),
            ([_, _, ..], [_, _, ..]) => {
                let same = old.len() == new.len() && old.iter().zip(new).all(|((.., a), (.., b))| is_same(*a, *b));
                let mut out = Changes::default();
                out.changed.member |= !same;
                Ok(out)
            }
            ([_, _, ..], _) => {
                let mut out = self.value(item, None, first(new))?;
                out.removed.member = true;
                Ok(out)
            }
            (_, _) => {
                let mut out = self.value(item, first(old), None)?;
                out.changed.member = true;
                Ok(out)
            }
        }
    }
}

/// An item of a list, its name, and whether it is of the new side.
type Named<'v> = (PathElement, bool, Json<'v>);

fn first<'v>(items: &[Named<'v>]) -> Option<Json<'v>> {
    items.first().map(|(.., value)| *value)
}

fn rank(value: Json<'_>) -> u8 {
    match value.kind() {
        Kind::Null => 0,
        Kind::Bool | Kind::Number | Kind::String => 1,
        Kind::Array => 2,
        Kind::Object => 3,
    }
}

/// A map or struct, or its absence, as its side is seen.
struct View<'s, 'v> {
    fields: Option<&'s Struct>,
    presences: Option<&'static Presences>,
    side: Side,
    /// Sorted by key. `None` if there is no map.
    members: Option<Vec<Member<'v>>>,
}

struct Member<'v> {
    key: Cow<'v, str>,
    /// Which field of the struct it is.
    field: Option<usize>,
    /// As the side sees it: what is hidden is not there, or as if nobody had set it.
    seen: Option<Json<'v>>,
}

impl<'s, 'v> View<'s, 'v> {
    fn new(fields: Option<&'s Struct>, side: Side, value: Option<Json<'v>>) -> Self {
        let map = value.filter(|v| v.kind() == Kind::Object);
        let mut view =
            View { fields, presences: fields.and_then(presence::of), side, members: map.map(|_| Vec::new()) };
        let mut next = 0;
        let member = |(key, value): (Cow<'v, str>, Json<'v>)| {
            let field = fields.and_then(|s| s.position(next, key.as_bytes()));
            next = field.map_or(next, |at| at + 1);
            let is_hidden = side == Side::Typed && view.presence(field).is_some_and(|p| p.hides(value));
            let seen = if is_hidden { view.implied(field) } else { Some(value) };
            Member { key, field, seen }
        };
        let mut members: Vec<_> = map.map(|map| map.members().map(member).collect()).unwrap_or_default();
        if !members.is_sorted_by(|a, b| a.key < b.key) {
            members.sort_by(|a, b| a.key.cmp(&b.key));
        }
        view.members = map.map(|_| members);
        view
    }

    fn members(&self) -> impl Iterator<Item = &Member<'v>> {
        self.members.iter().flatten()
    }

    fn has(&self, key: &str) -> bool {
        self.members.as_ref().is_some_and(|members| members.binary_search_by(|m| m.key.as_ref().cmp(key)).is_ok())
    }

    fn presence(&self, field: Option<usize>) -> Option<&'static FieldPresence> {
        Some(&self.presences?[field?])
    }

    /// What is there of this field if nobody set it.
    fn implied(&self, field: Option<usize>) -> Option<Json<'v>> {
        self.presence(field)?.implied.filter(|_| self.implies())
    }

    /// What is there in place of a member of either side.
    fn seen(&self, member: Option<&Member<'v>>, field: Option<usize>) -> Option<Json<'v>> {
        member.map_or_else(|| self.implied(field), |member| member.seen)
    }

    /// Whether it has fields that nobody set.
    fn implies(&self) -> bool {
        self.members.is_some() && self.side != Side::Plain
    }

    fn is_empty(&self) -> bool {
        self.members().all(|member| member.seen.is_none()) && self.always().next().is_none()
    }

    /// An empty map in place of one whose fields are all hidden.
    fn shown(&self, value: Option<Json<'v>>) -> Option<Json<'v>> {
        if self.members.is_some() { Some(Json::EMPTY_OBJECT) } else { value }
    }

    /// The fields that are there whether somebody set them or not.
    fn always(&self) -> impl Iterator<Item = (usize, &'s str)> + use<'s> {
        let fields = self.fields.filter(|_| self.implies()).map_or(&[][..], |s| &s.fields);
        let presences = self.presences.map_or(&[][..], |p| p);
        let implied = fields.iter().zip(presences).enumerate().filter(|(_, (_, p))| p.implied.is_some());
        implied.map(|(at, (field, _))| (at, field.name.as_ref()))
    }
}
