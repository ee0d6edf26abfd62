//! Collects the descriptions that `kubectl explain` shows. They are upstream's prose, so they are not in our tree: they
//! are read from the sources of the `k8s-openapi` crate, which this crate depends on anyway. Compiling its `schemars`
//! feature would give the same texts for a minute of compile time; reading them takes a tenth of a second.
//!
//! Output: `descriptions.txt` in `OUT_DIR`, with lines `D definition TAB text` and `TAB field TAB text`, newlines as `\n`.
//! Without the sources it is empty: everything works, only explanations are missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=data/schema.txt");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("descriptions.txt");
    let wanted: BTreeSet<String> = std::fs::read_to_string("data/schema.txt")
        .expect("data/schema.txt is committed")
        .lines()
        .filter_map(|l| l.strip_prefix("D ")?.split(' ').next().map(str::to_owned))
        .collect();
    let mut text = String::new();
    match sources() {
        Some(folder) => {
            let mut files = Vec::new();
            list(&folder, &mut files);
            files.sort();
            for file in files {
                if let Ok(source) = std::fs::read_to_string(&file) {
                    describe(&source, &wanted, &mut text);
                }
            }
        }
        None => {
            println!("cargo::warning=the sources of k8s-openapi were not found; kubectl explain will have no texts")
        }
    }
    std::fs::write(&out, text).expect("OUT_DIR is writable");
}

/// `src/v1_36` of the k8s-openapi that `Cargo.lock` names, vendored or from a registry. (`cargo metadata` would know too,
/// but wants every package of every platform to be downloaded.)
fn sources() -> Option<PathBuf> {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let root = manifest.ancestors().find(|folder| folder.join("Cargo.lock").is_file())?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).ok()?;
    let version = lock.split_once("name = \"k8s-openapi\"\nversion = \"")?.1.split('"').next()?.to_owned();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().filter_map(Result::ok);
    let mut candidates: Vec<PathBuf> = registries.map(|r| r.path().join(format!("k8s-openapi-{version}"))).collect();
    candidates.push(root.join("vendor/k8s-openapi"));
    candidates.push(root.join(format!("vendor/k8s-openapi-{version}")));
    candidates.into_iter().map(|c| c.join("src/v1_36")).find(|folder| folder.is_dir())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The generated `JsonSchema` impl has one line per fact, indented by 12 for the type, 16 for a property's name and 20
/// for what is in it.
fn describe(source: &str, wanted: &BTreeSet<String>, out: &mut String) {
    let Some((_, schema)) = source.split_once("fn schema_name()") else { return };
    let Some(definition) = schema.split('"').nth(1).filter(|d| wanted.contains(*d)) else { return };
    out.push_str(&format!("D {definition}"));
    let mut field = None;
    for line in schema.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("\"description\": ") {
            match (indent, field.take()) {
                (12, _) => out.push_str(&format!("\t{}", literal(text))),
                (20, Some(name)) => out.push_str(&format!("\n\t{name}\t{}", literal(text))),
                _ => {}
            }
        } else if let Some((_, text)) = line.split_once("insert(\"description\".into(), ") {
            if let Some(name) = field.take() {
                out.push_str(&format!("\n\t{name}\t{}", literal(text)));
            }
        } else if indent == 16 && line.starts_with('"') {
            field = line.split('"').nth(1).filter(|_| line.ends_with('{'));
        }
    }
    out.push('\n');
}

/// The text of a Rust string literal at the start of `code`, still with `\n` for newlines so that it stays one line.
fn literal(code: &str) -> String {
    let mut text = String::new();
    let mut chars = code.chars().skip(1);
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => text.push_str("\\n"),
                Some('t') => text.push(' '),
                Some('\\') => text.push_str("\\\\"),
                Some(other) => text.push(other),
                None => break,
            },
            c => text.push(c),
        }
    }
    text
}
