//! The services that the agent calls.

mod base;
pub mod capabilities;
mod driver;
mod session;

pub use base::Base;
pub use driver::DriverService;
