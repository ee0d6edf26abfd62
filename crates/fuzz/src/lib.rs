//! What strangers' bytes go into, each with what must be true whatever the bytes are ([`TARGETS`]).
//!
//! ```text
//!   tests/targets.rs  a few changed seeds each, in every `cargo test`
//!   main.rs           libFuzzer, led by coverage, for as long as one likes: scripts/fuzz [TARGET] [MINUTES]
//! ```
//!
//! A target panics on what it does not like. Inputs that once did are files in `found/TARGET/`, which the tests run too.

mod api;
mod images;
mod objects;
mod streams;
mod texts;

/// A way in.
pub struct Target {
    /// Its name, for `scripts/fuzz` and `found/`.
    pub name: &'static str,
    /// Inputs that get far.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Takes an input; panics if something is not as it must be.
    pub check: fn(&[u8]),
}

/// All ways in.
pub const TARGETS: &[Target] = &[
    Target { name: "json", seeds: objects::json_seeds, check: objects::json },
    Target { name: "yaml", seeds: objects::yaml_seeds, check: objects::yaml },
    Target { name: "protobuf", seeds: objects::protobuf_seeds, check: objects::protobuf },
    Target { name: "kinds", seeds: objects::json_seeds, check: objects::kinds },
    Target { name: "json-patch", seeds: objects::json_patch_seeds, check: objects::json_patch },
    Target { name: "merge-patch", seeds: objects::merge_patch_seeds, check: objects::merge_patch },
    Target { name: "strategic-patch", seeds: objects::merge_patch_seeds, check: objects::strategic_patch },
    Target { name: "apply", seeds: objects::apply_seeds, check: objects::apply },
    Target { name: "definitions", seeds: objects::definition_seeds, check: objects::definitions },
    Target { name: "selectors", seeds: texts::selector_seeds, check: texts::selectors },
    Target { name: "cel", seeds: texts::cel_seeds, check: texts::cel },
    Target { name: "schedules", seeds: texts::schedule_seeds, check: texts::schedules },
    Target { name: "patterns", seeds: texts::pattern_seeds, check: texts::patterns },
    Target { name: "quantities", seeds: texts::quantity_seeds, check: texts::quantities },
    Target { name: "references", seeds: texts::reference_seeds, check: texts::references },
    Target { name: "registries", seeds: texts::registries_seeds, check: texts::registries },
    Target { name: "layers", seeds: images::layer_seeds, check: images::layer },
    Target { name: "archives", seeds: images::archive_seeds, check: images::archive },
    Target { name: "spdy-frames", seeds: streams::frame_seeds, check: streams::frames },
    Target { name: "remote-commands", seeds: streams::remote_seeds, check: streams::remote },
    Target { name: "port-forwards", seeds: streams::forward_seeds, check: streams::forward },
    Target { name: "api", seeds: api::seeds, check: api::requests },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The parts of an input that is several texts, as many as are asked for: 0 stands between them.
fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = input.split(|byte| *byte == 0);
    std::array::from_fn(|_| rest.next().unwrap_or_default())
}
