//! Why an image cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Digest;
use crate::retry;

/// Why an image cannot be unpacked, or a layer not be removed.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A system call on a path that is not an entry of a layer.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// A verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No `oci-layout`, or one that is not understood.
    #[error("{} is not an OCI image layout: {reason}", path.display())]
    NotLayout {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A document of the image is not what the specification says.
    #[error("{what} {} is malformed: {reason}", path.display())]
    Malformed {
        /// "index", "manifest", "image configuration".
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No image has that tag.
    #[error("{} has no image with tag {tag:?}; it has {known}", layout.display())]
    NoTag {
        /// The folder.
        layout: PathBuf,
        /// As it was given.
        tag: String,
        /// Tags that are there.
        known: String,
    },
    /// No image or index has that digest.
    #[error("{} has no image with digest {digest} in its index", layout.display())]
    NoDigest {
        /// The folder.
        layout: PathBuf,
        /// As it was given.
        digest: Digest,
    },
    /// Nothing for this host.
    #[error("{image} has no image for {platform}; it has {found}")]
    NoPlatform {
        /// The reference.
        image: String,
        /// `linux/amd64`.
        platform: String,
        /// What is there instead.
        found: String,
    },
    /// More than one image, and none was named.
    #[error("{image} has more than one image for {platform}, name a tag or a digest: {found}")]
    Ambiguous {
        /// The reference.
        image: String,
        /// `linux/amd64`.
        platform: String,
        /// Which.
        found: String,
    },
    /// Not a tar archive, or compressed in an unknown way.
    #[error("layer {digest} has the unknown media type {media_type:?}")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// As it is in the manifest.
        media_type: String,
    },
    /// The file is shorter or longer than its descriptor says.
    #[error("blob {digest} has {found} bytes, not the {declared} that its descriptor says")]
    BlobSize {
        /// By its descriptor.
        digest: Digest,
        /// By its descriptor.
        declared: u64,
        /// On disk, or read until the end.
        found: u64,
    },
    /// The file has other content.
    #[error("blob {0} does not have the content that its digest says")]
    BlobDigest(Digest),
    /// The uncompressed layer is not the one of the configuration.
    #[error("layer {digest} does not have the content that its diff id {diff_id} says")]
    DiffId {
        /// The layer.
        digest: Digest,
        /// By the configuration.
        diff_id: Digest,
    },
    /// The uncompressed layers have too many bytes.
    #[error("layer {digest} takes the image over the limit of {limit} uncompressed bytes")]
    TooLarge {
        /// The layer that does.
        digest: Digest,
        /// Of all layers together.
        limit: u64,
    },
    /// The blob cannot be decompressed, or the archive not be read.
    #[error("cannot read layer {digest}: {reason}")]
    Archive {
        /// The layer.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// An entry is refused, or cannot be made.
    #[error("cannot unpack {name:?} of layer {digest}: {source}")]
    Entry {
        /// The layer.
        digest: Digest,
        /// As it is in the archive.
        name: String,
        /// Why.
        source: EntryError,
    },
    /// A layer that is not there.
    #[error("layer {0} is not in the store")]
    NotStored(Digest),
    /// A layer that is needed.
    #[error("layer {digest} is in use by {by}")]
    InUse {
        /// The layer.
        digest: Digest,
        /// By whom.
        by: User,
    },
}

/// Who uses a layer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum User {
    /// It is being unpacked or removed.
    #[error("somebody who unpacks or removes it")]
    Unpacker,
    /// A task that is about to be started.
    #[error("a task that is being started")]
    Starting,
    /// A record that names it.
    #[error("a task with the layer {}", .0.display())]
    Task(PathBuf),
    /// A mount.
    #[error("a mount that process {0} sees")]
    Mount(u32),
}

/// Why an entry of a layer is refused, or cannot be made.
#[derive(Debug, Error)]
pub enum EntryError {
    /// `..`
    #[error("its name climbs out of a folder (\"..\")")]
    Climbs,
    /// An empty name, or the root as something other than a folder.
    #[error("it has no usable name")]
    Nameless,
    /// Nothing that is deeper could be removed with a bounded number of descriptors.
    #[error("it is more than {0} folders deep")]
    TooDeep(usize),
    /// More than any image has.
    #[error("the layer has more than {0} entries")]
    TooMany(u64),
    /// A name of the whiteout scheme in a place where it means nothing.
    #[error("{0:?} is a reserved name")]
    Reserved(String),
    /// A name above it is taken by something else.
    #[error("{0:?} above it is not a folder")]
    NotFolder(String),
    /// A link above it leads to nothing, or to a file.
    #[error("the link {0:?} above it leads to no folder of this layer")]
    DeadLink(String),
    /// A hard link's target is not in the layer, or is something that cannot have two names.
    #[error("it is a hard link to {0:?}, which is not a file of this layer")]
    HardLink(String),
    /// A system call.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    /// Whether the same call may succeed a moment later (contract, S-2).
    pub fn is_retryable(&self) -> bool {
        match self {
            ImageError::Io { source, .. }
            | ImageError::Entry {
                source: EntryError::Io { source, .. },
                ..
            } => retry::may_pass(source),
            ImageError::InUse { .. } => true,
            ImageError::NotLayout { .. }
            | ImageError::Malformed { .. }
            | ImageError::NoTag { .. }
            | ImageError::NoDigest { .. }
            | ImageError::NoPlatform { .. }
            | ImageError::Ambiguous { .. }
            | ImageError::LayerType { .. }
            | ImageError::BlobSize { .. }
            | ImageError::BlobDigest(_)
            | ImageError::DiffId { .. }
            | ImageError::TooLarge { .. }
            | ImageError::Archive { .. }
            | ImageError::Entry { .. }
            | ImageError::NotStored(_) => false,
        }
    }

    /// For `map_err`.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> ImageError {
        let path = path.into();
        move |source| ImageError::Io {
            what,
            path,
            source: source.into(),
        }
    }
}

impl EntryError {
    /// For `map_err`.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> EntryError {
        move |source| EntryError::Io {
            what,
            source: source.into(),
        }
    }
}
