//! Root file systems from OCI image layouts (opencontainers image-spec 1.1: a folder with `oci-layout`, `index.json` and
//! `blobs/`).
//!
//! Every layer is unpacked once per digest into a cache of the host and is shared, read-only, by all tasks through
//! overlayfs (Documentation/filesystems/overlayfs.rst); nothing is copied for a task. In the cache a layer is
//!
//! ```text
//! <store>/sha256-<hex>/tree         what overlayfs gets
//! <store>/sha256-<hex>/layer.json   what is known of it
//! <store>/sha256-<hex>.lock         only while somebody makes or removes the layer
//! <store>/sha256-<hex>.tmp          what a killed one leaves, cleared by the next that gets the lock
//! ```
//!
//! A layer comes into being by one rename, after all of it was read, checked against its size, digest and diff id, and
//! synced; so what is there is whole. The store is closed to everybody else (0700): set-user-id programs of an image are
//! none of the host's users' business.
//!
//! Images are input of strangers. No name, link or hard link of a layer leads out of its folder: every name is resolved
//! beneath a descriptor of it (openat2(2)). Memory is bounded whatever a layer says: blobs are read as streams, the
//! headers of tar entries have a limit, and so have the bytes, entries and depth of a layer.

mod blob;
mod config;
mod decompress;
mod digest;
mod error;
mod folder_times;
mod in_use;
mod layer;
mod layout;
mod notes;
mod reference;
mod store;
mod tape;
mod tree;

pub use config::ImageConfig;
pub use digest::{Digest, DigestError};
pub use error::{EntryError, ImageError, User};
pub use reference::{Reference, ReferenceError};
pub use store::{DEFAULT_MAX_IMAGE_BYTES, Image, Store, StoredLayer};

#[cfg(test)]
mod tests;
