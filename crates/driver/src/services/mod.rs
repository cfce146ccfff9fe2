//! The services that the agent calls.

mod base;
mod driver;
mod session;

pub use base::Base;
pub use driver::DriverService;
