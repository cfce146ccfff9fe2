//! Where the main process starts.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::access::{self, Access, Verdict, Walk};
use crate::isolation::View;
use crate::retry;
use crate::users::Credentials;

/// Why a working directory cannot be entered.
#[derive(Debug, Error)]
pub enum WorkDirError {
    /// The text is that of the built-in raw_exec (Nomad 1.11.0, drivers/rawexec/driver.go).
    #[error("work_dir must be an absolute path")]
    Relative,
    /// A component is missing, or cannot be followed.
    #[error("work_dir {}: cannot look up {}: {source}", path.display(), component.display())]
    Lookup {
        /// As it was given.
        path: PathBuf,
        /// Where it ended.
        component: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("work_dir {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// The task's user would not get there.
    #[error("work_dir {}: {} not searchable by uid {uid}", path.display(), component.display())]
    Unsearchable {
        /// As it was given.
        path: PathBuf,
        /// The first directory that is closed.
        component: PathBuf,
        /// The task's.
        uid: u32,
    },
}

impl WorkDirError {
    /// Whether the same call may succeed a moment later (contract, S-2).
    pub fn is_retryable(&self) -> bool {
        match self {
            WorkDirError::Lookup { source, .. } => retry::may_pass(source),
            WorkDirError::Relative | WorkDirError::NotDirectory(_) | WorkDirError::Unsearchable { .. } => false,
        }
    }
}

/// Checks that `path`, as the task sees it, is a directory that `credentials` can enter. A component that an access control list may open is
/// let pass; [`explain`] names it once the kernel has refused.
pub fn check(view: &View, path: &Path, credentials: &Credentials) -> Result<(), WorkDirError> {
    match unsearchable(view, path, credentials)? {
        Some((component, Verdict::Denied)) => Err(refusal(path, component, credentials)),
        Some((_, Verdict::Granted | Verdict::DeniedByMode)) | None => Ok(()),
    }
}

/// What to say when chdir(2) failed with EACCES: the error that names the closed component, if the permission bits show
/// one.
pub fn explain(view: &View, path: &Path, credentials: &Credentials) -> Option<WorkDirError> {
    match unsearchable(view, path, credentials) {
        Ok(found) => found.map(|(component, _)| refusal(path, component, credentials)),
        Err(error) => Some(error),
    }
}

fn refusal(path: &Path, component: PathBuf, credentials: &Credentials) -> WorkDirError {
    WorkDirError::Unsearchable {
        path: path.to_owned(),
        component,
        uid: credentials.uid,
    }
}

fn unsearchable(
    view: &View,
    path: &Path,
    credentials: &Credentials,
) -> Result<Option<(PathBuf, Verdict)>, WorkDirError> {
    if !path.is_absolute() {
        return Err(WorkDirError::Relative);
    }
    let walk = access::walk(view, path).map_err(|access::Dead { component, source }| WorkDirError::Lookup {
        path: path.to_owned(),
        component,
        source,
    })?;
    if !walk.found.is_dir() {
        return Err(WorkDirError::NotDirectory(path.to_owned()));
    }
    Ok(closed(&walk, credentials))
}

fn closed(walk: &Walk, credentials: &Credentials) -> Option<(PathBuf, Verdict)> {
    let on_the_way = walk
        .first_unsearchable(credentials)
        .map(|(dir, verdict)| (dir.path.clone(), verdict));
    if let Some((_, Verdict::Denied)) = on_the_way {
        return on_the_way;
    }
    // chdir(2) asks for search permission on the directory itself, too.
    match walk.found.permissions.verdict(credentials, Access::Execute) {
        Verdict::Granted => on_the_way,
        Verdict::Denied => Some((walk.real_path.clone(), Verdict::Denied)),
        Verdict::DeniedByMode => on_the_way.or_else(|| Some((walk.real_path.clone(), Verdict::DeniedByMode))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    /// A directory tree that others can reach: `tempfile` makes its top 0700.
    fn open_tree(dirs: &[(&str, u32)]) -> (tempfile::TempDir, PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let top = guard.path().canonicalize().unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
        for (dir, mode) in dirs {
            fs::create_dir(top.join(dir)).unwrap();
            fs::set_permissions(top.join(dir), fs::Permissions::from_mode(*mode)).unwrap();
        }
        (guard, top)
    }

    fn check(path: &Path, credentials: &Credentials) -> Result<(), WorkDirError> {
        super::check(&View::host(), path, credentials)
    }

    fn explain(path: &Path, credentials: &Credentials) -> Option<WorkDirError> {
        super::explain(&View::host(), path, credentials)
    }

    fn stranger() -> Credentials {
        // Neither the owner nor in the group of what the tests make, whoever runs them.
        Credentials::numeric(65534, 65534, vec![65534])
    }

    #[test]
    fn the_closed_component_is_named() {
        let (_guard, top) = open_tree(&[("x", 0o700), ("x/y", 0o755), ("leaf", 0o744), ("open", 0o755)]);
        let top = top.display();
        let check = |path: String| check(Path::new(&path), &stranger()).map_err(|error| error.to_string());
        assert_eq!(
            check(format!("{top}/x/y")),
            Err(format!("work_dir {top}/x/y: {top}/x not searchable by uid 65534"))
        );
        assert_eq!(
            check(format!("{top}/leaf")),
            Err(format!("work_dir {top}/leaf: {top}/leaf not searchable by uid 65534"))
        );
        assert_eq!(check(format!("{top}/open")), Ok(()));
    }

    #[test]
    fn groups_open_what_belongs_to_them() {
        let (_guard, top) = open_tree(&[("x", 0o710), ("x/y", 0o755)]);
        let group = std::os::unix::fs::MetadataExt::gid(&fs::metadata(top.join("x")).unwrap());
        let member = Credentials::numeric(65534, 65534, vec![65534, group]);
        assert!(check(&top.join("x/y"), &member).is_ok());
        assert!(explain(&top.join("x/y"), &member).is_none());
        fs::set_permissions(top.join("x"), fs::Permissions::from_mode(0o701)).unwrap();
        assert!(check(&top.join("x/y"), &member).is_err());
        assert!(check(&top.join("x/y"), &stranger()).is_ok());
    }

    #[test]
    fn what_an_access_control_list_may_open_is_left_to_the_kernel_and_explained_afterwards() {
        let (_guard, top) = open_tree(&[("x", 0o750), ("x/y", 0o755)]);
        assert!(check(&top.join("x/y"), &stranger()).is_ok());
        assert_eq!(
            explain(&top.join("x/y"), &stranger()).unwrap().to_string(),
            format!("work_dir {0}/x/y: {0}/x not searchable by uid 65534", top.display())
        );
    }

    #[test]
    fn the_owner_of_a_private_directory_may_enter() {
        let (_guard, top) = open_tree(&[("home", 0o700)]);
        if nix::unistd::geteuid().is_root() {
            chown(top.join("home"), Some(65534), Some(65534)).unwrap();
            assert!(check(&top.join("home"), &stranger()).is_ok());
        }
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(top.join("home")).unwrap());
        assert!(check(&top.join("home"), &Credentials::numeric(owner, 1, vec![1])).is_ok());
    }

    #[test]
    fn bad_directories_are_refused_by_name() {
        let (_guard, top) = open_tree(&[("open", 0o755)]);
        fs::write(top.join("file"), "").unwrap();
        let top = top.display();
        let table = [
            ("open/x".to_owned(), "work_dir must be an absolute path".to_owned()),
            (String::new(), "work_dir must be an absolute path".to_owned()),
            (
                format!("{top}/open/none/deep"),
                format!(
                    "work_dir {top}/open/none/deep: cannot look up {top}/open/none: No such file or directory (os error 2)"
                ),
            ),
            (format!("{top}/file"), format!("work_dir {top}/file is not a directory")),
            (
                format!("{top}/file/x"),
                format!("work_dir {top}/file/x: cannot look up {top}/file: Not a directory (os error 20)"),
            ),
        ];
        for (path, message) in table {
            let error = check(Path::new(&path), &stranger()).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(!error.is_retryable());
        }
        let busy = WorkDirError::Lookup {
            path: "/x".into(),
            component: "/x".into(),
            source: io::Error::from(nix::errno::Errno::ENOMEM),
        };
        assert!(busy.is_retryable());
    }

    /// An access control list as the kernel stores it (linux/posix_acl_xattr.h).
    fn access_control_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    /// Needs root, for whom alone others can be tried, and a file system that has access control lists.
    #[test]
    fn whom_an_access_control_list_lets_in_is_not_refused() {
        use std::os::unix::process::CommandExt;
        let (owner, user, owning, group, mask, other) = (1, 2, 4, 8, 16, 32);
        const NOBODY: u32 = 65534;
        let none = u32::MAX;
        let lists: [&[(u16, u16, u32)]; 6] = [
            &[
                (owner, 7, none),
                (user, 1, NOBODY),
                (owning, 0, none),
                (mask, 1, none),
                (other, 0, none),
            ],
            &[
                (owner, 7, none),
                (user, 1, NOBODY),
                (owning, 0, none),
                (mask, 4, none),
                (other, 0, none),
            ],
            &[
                (owner, 7, none),
                (owning, 0, none),
                (group, 1, NOBODY),
                (mask, 1, none),
                (other, 0, none),
            ],
            &[
                (owner, 7, none),
                (owning, 0, none),
                (group, 1, 4711),
                (mask, 7, none),
                (other, 0, none),
            ],
            &[
                (owner, 7, none),
                (user, 0, NOBODY),
                (owning, 5, none),
                (mask, 5, none),
                (other, 1, none),
            ],
            &[
                (owner, 7, none),
                (user, 1, 4711),
                (owning, 0, none),
                (mask, 1, none),
                (other, 1, none),
            ],
        ];
        let mut let_in = 0;
        for list in lists {
            let (_guard, top) = open_tree(&[("x", 0o700)]);
            let dir = top.join("x");
            let value = access_control_list(list);
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&dir, "system.posix_acl_access", &value, flags).unwrap();
            let tried = std::process::Command::new("/bin/true")
                .uid(NOBODY)
                .gid(NOBODY)
                .current_dir(&dir)
                .status();
            let is_let_in = tried.is_ok_and(|status| status.success());
            let_in += usize::from(is_let_in);
            // A list that closes what the bits open is for the kernel to tell.
            assert!(!is_let_in || check(&dir, &stranger()).is_ok(), "{list:?}");
        }
        assert_eq!(let_in, 3, "the lists did not do what they say");
    }
}
