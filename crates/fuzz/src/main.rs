//! One target under libFuzzer: `FUZZ_TARGET` says which, its seeds go to `FUZZ_SEEDS`. `scripts/fuzz` builds and runs this.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

#[expect(clippy::disallowed_methods, reason = "libFuzzer owns the arguments")]
fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use scripts/fuzz"))
}

static TARGET: LazyLock<&'static fuzz::Target> = LazyLock::new(|| {
    let name = setting("FUZZ_TARGET");
    fuzz::target(&name).unwrap_or_else(|| panic!("no target is called {name:?}"))
});

fn write_seeds() {
    let dir = PathBuf::from(setting("FUZZ_SEEDS"));
    for (i, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{i}")), seed).expect("seeds are written");
    }
}

fuzz_target!(init: write_seeds(), |input: &[u8]| (TARGET.check)(input));
