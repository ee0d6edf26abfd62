//! What the kernel tests of this crate start as the zygote; the product's own binary does the same.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((word, rest)) if word == "zygote" => std::process::exit(runtime::zygote::main(rest)),
        _ => {
            eprintln!("agent-zygote: only for tests, started by the engine");
            std::process::exit(2);
        }
    }
}
