//! What of the host jobs may name.

use std::path::{Component, Path};

use holdfast_sandbox::environment::matches_glob;

/// Globs of paths; all that lies below a path that matches is meant, too. Without any, nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHostPaths(Vec<String>);

/// A glob that no path of the host can match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an absolute path without \"..\"")]
pub struct UnusablePath(pub String);

impl AllowedHostPaths {
    /// Takes the operator's list.
    pub fn parse(globs: Vec<String>) -> Result<AllowedHostPaths, UnusablePath> {
        match globs.iter().find(|glob| !is_plain(Path::new(glob))) {
            Some(glob) => Err(UnusablePath(glob.clone())),
            None => Ok(AllowedHostPaths(globs)),
        }
    }

    /// Whether a path is one of them or lies below one. Links are the caller's matter.
    pub fn allow(&self, path: &Path) -> bool {
        is_plain(path)
            && self.0.iter().any(|glob| {
                let mut names = path.components();
                Path::new(glob).components().all(|pattern| match names.next() {
                    // A star must not reach over a slash: `/srv/*/data` is not meant to allow `/srv/a/b/data`.
                    Some(name) => matches_glob(
                        &pattern.as_os_str().to_string_lossy(),
                        &name.as_os_str().to_string_lossy(),
                    ),
                    None => false,
                })
            })
    }
}

/// Whether a path is absolute and does not climb.
pub(super) fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir) && !path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_allowed_with_all_that_lies_below_it_and_a_star_ends_at_a_slash() {
        let globs = ["/srv/*/data", "/dev/nvidia*", "/opt/one"].map(str::to_owned);
        let allowed = AllowedHostPaths::parse(globs.into()).unwrap();
        for path in [
            "/srv/a/data",
            "/srv/a/data/x/y",
            "/dev/nvidia0",
            "/opt/one/",
            "/opt/one/x",
        ] {
            assert!(allowed.allow(Path::new(path)), "{path}");
        }
        for path in [
            "/srv",
            "/srv/a",
            "/srv/a/b/data",
            "/srv/a/data2",
            "/dev",
            "/dev/sda",
            "/opt/onemore",
            "/opt/one/../two",
            "opt/one",
            "",
        ] {
            assert!(!allowed.allow(Path::new(path)), "{path}");
        }
        assert!(!AllowedHostPaths::default().allow(Path::new("/")));
    }

    #[test]
    fn the_root_allows_everything() {
        let all = AllowedHostPaths::parse(vec!["/".to_owned()]).unwrap();
        assert!(all.allow(Path::new("/")) && all.allow(Path::new("/etc/shadow")));
    }

    #[test]
    fn what_is_no_path_is_named() {
        for glob in ["srv", "", "/srv/../etc", "*"] {
            let error = AllowedHostPaths::parse(vec![glob.to_owned()]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{glob:?} is not an absolute path without \"..\"")
            );
        }
    }
}
