//! What runs between clone and exec, and what the init and the executor tell each other.
//!
//! Without std and without allocation, so that the same code serves the init, which is an ELF of a few KiB without libc,
//! and a child that was just cloned from a larger process.
#![cfg_attr(not(test), no_std)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("holdfast-init knows the system calls of Linux on x86_64 only");

pub mod exit;
pub mod point;
pub mod protocol;
pub mod raw;
pub mod steps;
