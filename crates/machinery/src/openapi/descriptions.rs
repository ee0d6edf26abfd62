//! Upstream's prose about types and fields, gathered by `build.rs`; read when a document is made.

use std::collections::HashMap;
use std::sync::LazyLock;

pub(super) static TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/descriptions.txt"));

/// What is said about one definition.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    /// About the type itself; may be empty.
    pub(super) text: &'static str,
    /// By JSON name.
    pub(super) fields: HashMap<&'static str, &'static str>,
}

/// The texts of a definition; empty ones if there are none.
pub(super) fn of(definition: &str) -> Descriptions {
    static BLOCKS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
        let blocks = TEXT.split("\nD ").map(|b| b.strip_prefix("D ").unwrap_or(b));
        blocks.filter_map(|block| Some((block.split(['\t', '\n']).next()?, block))).collect()
    });
    let Some(block) = BLOCKS.get(definition) else { return Descriptions::default() };
    let mut lines = block.lines();
    let text = lines.next().and_then(|l| l.split_once('\t')).map_or("", |(_, text)| text);
    let fields = lines.filter_map(|l| l.strip_prefix('\t')?.split_once('\t')).collect();
    Descriptions { text, fields }
}

/// The text with its line breaks.
pub(super) fn unfold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}
