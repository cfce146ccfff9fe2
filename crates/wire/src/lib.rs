//! Messages and services of the protocols that Holdfast speaks, generated from `proto/` by `cargo xtask proto`.
//!
//! The module tree is that of the protocol packages, as the generated code refers from one to another by it.

/// Nomad's plugin protocols.
pub mod hashicorp {
    /// Nomad's plugin protocols.
    pub mod nomad {
        /// Nomad's plugin protocols.
        pub mod plugins {
            /// What every plugin answers.
            pub mod base {
                #[allow(missing_docs, clippy::all)]
                pub mod proto {
                    include!("gen/hashicorp.nomad.plugins.base.proto.rs");
                }
            }
            /// The task driver interface.
            pub mod drivers {
                #[allow(missing_docs, clippy::all)]
                pub mod proto {
                    include!("gen/hashicorp.nomad.plugins.drivers.proto.rs");
                }
            }
            /// Nomad's own executor interface.
            pub mod executor {
                #[allow(missing_docs, clippy::all)]
                pub mod proto {
                    include!("gen/hashicorp.nomad.plugins.executor.proto.rs");
                }
            }
            /// What the interfaces share.
            pub mod shared {
                #[allow(missing_docs, clippy::all)]
                pub mod hclspec {
                    include!("gen/hashicorp.nomad.plugins.shared.hclspec.rs");
                }
                #[allow(missing_docs, clippy::all)]
                pub mod structs {
                    include!("gen/hashicorp.nomad.plugins.shared.structs.rs");
                }
            }
        }
    }
}

/// The protocol between driver and executor, version 1.
#[allow(missing_docs, clippy::all)]
pub mod executor_v1 {
    include!("gen/holdfast.executor.v1.rs");
}

pub use hashicorp::nomad::plugins::base::proto as nomad_base;
pub use hashicorp::nomad::plugins::drivers::proto as nomad_driver;
pub use hashicorp::nomad::plugins::executor::proto as nomad_executor;
pub use hashicorp::nomad::plugins::shared::hclspec;
pub use hashicorp::nomad::plugins::shared::structs as nomad_structs;
