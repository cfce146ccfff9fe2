//! The init has no libc and no start files.

fn main() {
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bin=holdfast-init={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
