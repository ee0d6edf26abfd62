//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Addresses that the loader relocates as a bitmap instead of 24 bytes each: 2.3 MB. glibc knows it since 2.36 (Debian 12).
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
