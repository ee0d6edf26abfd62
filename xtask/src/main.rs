//! Workshop tasks: what the maintainers run by hand and commit the result of. Nothing of the product depends on it.
//!
//! `cargo xtask codegen [API] [KUBERNETES]` derives `kinds.tsv`, `schema.txt` and `go_types.tsv` in `crates/machinery/data` from
//! upstream's published API (a folder like `shared/api/1.36`) and, for what only the Go types say (pointer or value, names of
//! types), from a Kubernetes source tree.
//!
//! `cargo xtask enums OPENAPI-V2` derives `crates/machinery/data/enums.tsv` from what a kube-apiserver serves at `/openapi/v2`.
//!
//! `cargo run -p xtask --features grpc -- grpc KUBERNETES` generates `crates/node-api/src/*`.

mod codegen;
#[cfg(feature = "grpc")]
mod grpc;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask codegen [API-FOLDER [KUBERNETES-TREE]]\n       cargo xtask enums OPENAPI-V2\n       cargo run -p xtask --features grpc -- grpc KUBERNETES-TREE";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/machinery/data"));
    let outcome = match args.next().as_deref() {
        Some("codegen") => {
            let api = args.next().unwrap_or_else(|| "/work/shared/api/1.36".to_owned());
            let kubernetes = args.next().unwrap_or_else(|| "/work/.tools/kube".to_owned());
            codegen::run(api.as_ref(), kubernetes.as_ref(), &out)
        }
        Some("enums") => match args.next() {
            Some(served) => codegen::enums::run(served.as_ref(), &out),
            None => Err(USAGE.to_owned()),
        },
        #[cfg(feature = "grpc")]
        Some("grpc") => match args.next() {
            Some(kubernetes) => {
                grpc::run(kubernetes.as_ref(), concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/node-api/src").as_ref())
            }
            None => Err(USAGE.to_owned()),
        },
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(report) => {
            say(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
fn say(text: &str) {
    println!("{text}");
}
