//! The zygote alone, as the kernel tests start it. The product's binary does the same first thing in its `main`.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let code = match args.split_first() {
        Some((word, rest)) if word == "zygote" => runtime::zygote::main(rest),
        _ => {
            eprintln!("usage: cri-zygote zygote <cgroup or ->");
            2
        }
    };
    std::process::exit(code);
}
