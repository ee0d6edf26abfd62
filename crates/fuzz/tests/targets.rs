//! Every target takes its seeds, what once made it fail, and some changed seeds. `DHOW_FUZZ_CASES` says how many of the latter.

use fuzz::{TARGETS, Target};
use std::path::Path;
use testkit::Dice;

const CASES: usize = 60;

/// Tokens that mean something to many.
const WORDS: [&[u8]; 14] = [
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"-1",
    b"1e400",
    b"99999999999999999999",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"$patch",
    b"../",
    b"\x80\xff\xff\xff\xff",
    b"\n",
];

fn changed(dice: &Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(seeds).cloned().unwrap_or_default();
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + dice.below(20)).min(bytes.len());
        match dice.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, WORDS[dice.below(WORDS.len())].iter().copied()).count()),
            3 => drop(bytes.splice(at..end, WORDS[dice.below(WORDS.len())].iter().copied()).count()),
            4 => {
                let other = dice.pick(seeds).cloned().unwrap_or_default();
                let from = dice.below(other.len().max(1)).min(other.len());
                bytes.splice(at..end, other[from..(from + 40).min(other.len())].iter().copied());
            }
            _ => bytes.truncate(end),
        }
    }
    bytes
}

fn cases() -> usize {
    let asked = std::env::var_os("DHOW_FUZZ_CASES");
    asked.map_or(CASES, |text| text.to_str().and_then(|text| text.parse().ok()).expect("DHOW_FUZZ_CASES is a number"))
}

fn found(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(target.name);
    let Ok(files) = std::fs::read_dir(dir) else { return Vec::new() };
    files.map(|file| std::fs::read(file.expect("a file").path()).expect("a file")).collect()
}

/// An input that fails is shown, so that it can be kept.
fn check(target: &Target, input: &[u8]) {
    let failed = std::panic::catch_unwind(|| (target.check)(input)).is_err();
    assert!(!failed, "{} does not take {:?}", target.name, String::from_utf8_lossy(input));
}

fn run(targets: impl Iterator<Item = &'static Target>) {
    for target in targets {
        let seeds = (target.seeds)();
        seeds.iter().chain(&found(target)).for_each(|input| check(target, input));
        let dice = Dice::new(7);
        for _ in 0..cases() {
            check(target, &changed(&dice, &seeds));
        }
    }
}

#[test]
fn targets_take_what_comes() {
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || run(TARGETS.iter().skip(half).step_by(2)));
        }
    });
}
