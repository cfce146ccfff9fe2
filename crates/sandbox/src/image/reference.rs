//! How a job names an image.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Digest, DigestError};

/// `oci:/path`, `oci:/path:tag` or `oci:/path@sha256:digest`; the path is that of an image layout on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    layout: PathBuf,
    selection: Selection,
}

/// Which image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// The only one for this host.
    Only,
    /// The one that was given this name (annotation `org.opencontainers.image.ref.name`).
    Tag(String),
    /// The manifest or index with this digest.
    Digest(Digest),
}

/// A text that names no image.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Another transport, or none.
    #[error("image {0:?} does not start with \"oci:\"")]
    Transport(String),
    /// The path is missing or not absolute.
    #[error("image {0:?} names no absolute path of an image layout")]
    Relative(String),
    /// The path climbs.
    #[error("image {0:?} has \"..\" in its path")]
    Climbs(String),
    /// A colon and nothing after it.
    #[error("image {0:?} has an empty tag")]
    EmptyTag(String),
    /// What follows `@` is no digest.
    #[error("image {reference:?}: {source}")]
    Digest {
        /// As it was given.
        reference: String,
        /// Why.
        source: DigestError,
    },
}

impl Reference {
    /// Reads the text of a job. As for skopeo(1), the path ends at the first colon; what follows is the tag, which may have
    /// colons and slashes of its own.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let owned = || text.to_owned();
        let rest = text
            .strip_prefix("oci:")
            .ok_or_else(|| ReferenceError::Transport(owned()))?;
        let end = rest.find([':', '@']).unwrap_or(rest.len());
        let (path, selection) = rest.split_at(end);
        if !path.starts_with('/') || path.contains('\0') {
            return Err(ReferenceError::Relative(owned()));
        }
        if path.split('/').any(|component| component == "..") {
            return Err(ReferenceError::Climbs(owned()));
        }
        let selection = match selection.split_at_checked(1) {
            None => Selection::Only,
            Some((":", "")) => return Err(ReferenceError::EmptyTag(owned())),
            Some((":", tag)) => Selection::Tag(tag.to_owned()),
            Some((_, digest)) => Selection::Digest(digest.parse().map_err(|source| ReferenceError::Digest {
                reference: owned(),
                source,
            })?),
        };
        Ok(Reference {
            layout: PathBuf::from(path),
            selection,
        })
    }

    /// The folder of the layout; whether the job may use it is the caller's to say.
    pub fn layout(&self) -> &Path {
        &self.layout
    }

    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci:{}", self.layout.display())?;
        match &self.selection {
            Selection::Only => Ok(()),
            Selection::Tag(tag) => write!(f, ":{tag}"),
            Selection::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_as_they_are_written() {
        let digest = Digest::of(b"x");
        let cases = [
            ("oci:/srv/image".to_owned(), Selection::Only),
            ("oci:/srv/image:1.2".to_owned(), Selection::Tag("1.2".to_owned())),
            (
                "oci:/srv/image:docker.io/library/alpine:3".to_owned(),
                Selection::Tag("docker.io/library/alpine:3".to_owned()),
            ),
            (format!("oci:/srv/image@{digest}"), Selection::Digest(digest)),
        ];
        for (text, selection) in cases {
            let reference = Reference::parse(&text).unwrap();
            assert_eq!(reference.layout(), Path::new("/srv/image"));
            assert_eq!(reference.selection(), &selection);
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_named() {
        let error = |text: &str| Reference::parse(text).unwrap_err().to_string();
        assert_eq!(error("alpine:3"), "image \"alpine:3\" does not start with \"oci:\"");
        for text in ["oci:", "oci:image", "oci::tag", "oci:@sha256:00", "oci:/a\0b"] {
            assert_eq!(
                error(text),
                format!("image {text:?} names no absolute path of an image layout")
            );
        }
        assert_eq!(error("oci:/a/../b"), "image \"oci:/a/../b\" has \"..\" in its path");
        assert_eq!(error("oci:/a:"), "image \"oci:/a:\" has an empty tag");
        assert_eq!(
            error("oci:/a@latest"),
            "image \"oci:/a@latest\": \"latest\" is not a digest: expected sha256: and 64 hexadecimal digits in lower case"
        );
    }
}
