//! Crash points (`holdfast_init::point`) of programs that have an environment. Release builds have none: not a byte of them is there.

use std::os::fd::BorrowedFd;

pub use holdfast_init::point::Point;

/// Names the folder in which a test says where to stop. It is read once, in debug builds.
#[cfg(debug_assertions)]
pub const VARIABLE: &str = "HOLDFAST_CRASH_POINTS";

/// To be called when the step has been taken.
#[cfg(debug_assertions)]
pub fn reached(point: Point) {
    use std::os::fd::AsRawFd as _;

    if let Some(folder) = folder() {
        holdfast_init::point::reached_in(folder.as_raw_fd(), point);
    }
}

/// Nothing: only debug builds have crash points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reached(_: Point) {}

/// The folder, for a child that is to inherit it.
#[cfg(debug_assertions)]
pub fn folder() -> Option<BorrowedFd<'static>> {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::sync::OnceLock;

    static FOLDER: OnceLock<Option<File>> = OnceLock::new();
    let opened = FOLDER.get_or_init(|| File::open(std::env::var_os(VARIABLE)?).ok());
    opened.as_ref().map(File::as_fd)
}

/// None: only debug builds have crash points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn folder() -> Option<BorrowedFd<'static>> {
    None
}

/// What of the environment goes on to an executor, `KEY=value`, so that it knows the folder as well.
#[cfg(debug_assertions)]
pub fn environment() -> Vec<std::ffi::OsString> {
    let entry = |value: std::ffi::OsString| {
        let mut entry = std::ffi::OsString::from(VARIABLE);
        entry.push("=");
        entry.push(value);
        entry
    };
    std::env::var_os(VARIABLE).map(entry).into_iter().collect()
}

/// Nothing: an executor's environment is empty.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn environment() -> Vec<std::ffi::OsString> {
    Vec::new()
}
