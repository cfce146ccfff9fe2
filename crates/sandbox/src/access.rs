//! Whether credentials reach a file: the classic permission bits along a path, link by link, as path_resolution(7) has
//! it, in the tree that the task will see.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::isolation::{FileKind, Found, MAX_LINKS, View, components};
use crate::users::Credentials;

/// One permission bit of a class in `st_mode` (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Of a file.
    Read,
    /// Execute of a file, search of a directory: one bit.
    Execute,
}

impl Access {
    fn bit(self) -> u32 {
        match self {
            Access::Read => 0o4,
            Access::Execute => 0o1,
        }
    }
}

/// What stat(2) says that decides access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// `st_mode`, type included.
    pub mode: u32,
}

impl From<&Metadata> for Permissions {
    fn from(metadata: &Metadata) -> Self {
        Permissions {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode(),
        }
    }
}

/// What the permission bits say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The bits allow it.
    Granted,
    /// Nothing can allow it.
    Denied,
    /// The bits do not allow it, but an access control list may: with one, the group bits are its mask, which covers
    /// every user and group that it names (acl(5)). Only the kernel knows.
    DeniedByMode,
}

impl Permissions {
    /// What `credentials` may do. Uid 0 is taken to have its capabilities: it may search every directory and read every
    /// file, and execute what anyone may (capabilities(7), CAP_DAC_OVERRIDE).
    pub fn verdict(self, credentials: &Credentials, access: Access) -> Verdict {
        let Permissions { uid, gid, mode } = self;
        let bit = access.bit();
        if credentials.uid == 0 {
            let granted = access == Access::Read || is_directory(mode) || mode & 0o111 != 0;
            return if granted { Verdict::Granted } else { Verdict::Denied };
        }
        let group_bits = mode >> 3;
        // The first class that fits decides, also when a later one would allow more.
        let (class_bits, may_be_named) = if credentials.uid == uid {
            (mode >> 6, false)
        } else if credentials.gid == gid || credentials.groups.contains(&gid) {
            (group_bits, false)
        } else {
            (mode, group_bits & bit != 0)
        };
        if class_bits & bit != 0 {
            Verdict::Granted
        } else if may_be_named {
            Verdict::DeniedByMode
        } else {
            Verdict::Denied
        }
    }
}

fn is_directory(mode: u32) -> bool {
    mode & 0o170_000 == 0o040_000
}

/// A directory that was searched on the way to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// Where the walk met it: links before it are resolved.
    pub path: PathBuf,
    /// Of the directory.
    pub permissions: Permissions,
}

/// A file and the way to it.
#[derive(Debug)]
pub struct Walk {
    /// The path without symbolic links, as the task sees it.
    pub real_path: PathBuf,
    /// The file; never a link.
    pub found: Found,
    /// Every directory on the way, links included, in the order in which the kernel searches them; not the file itself.
    pub searched: Vec<Searched>,
}

impl Walk {
    /// The first directory on the way that `credentials` may not search, with how certain that is. A certain denial is
    /// preferred.
    pub fn first_unsearchable(&self, credentials: &Credentials) -> Option<(&Searched, Verdict)> {
        first_unsearchable(&self.searched, credentials)
    }
}

/// See [`Walk::first_unsearchable`].
pub fn first_unsearchable<'a>(searched: &'a [Searched], credentials: &Credentials) -> Option<(&'a Searched, Verdict)> {
    let verdicts = || {
        searched
            .iter()
            .map(|dir| (dir, dir.permissions.verdict(credentials, Access::Execute)))
    };
    verdicts()
        .find(|(_, verdict)| *verdict == Verdict::Denied)
        .or_else(|| verdicts().find(|(_, verdict)| *verdict == Verdict::DeniedByMode))
}

/// A path could not be followed to its end.
#[derive(Debug)]
pub struct Dead {
    /// The component at which it ended; links before it are resolved.
    pub component: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Follows an absolute path of the task as the kernel will, with the rights of this process. Links stay inside the tree: an absolute
/// one starts at its root, and nothing is above that.
pub fn walk(view: &View, path: &Path) -> Result<Walk, Dead> {
    let dead = |component: &Path, source: io::Error| Dead {
        component: component.to_owned(),
        source,
    };
    if !path.is_absolute() {
        return Err(dead(
            path,
            io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"),
        ));
    }
    let look = |path: &Path| view.look(path).map_err(|source| dead(path, source));
    let mut real_path = PathBuf::from("/");
    let mut found = look(&real_path)?;
    let mut searched = Vec::new();
    let mut ahead = components(path);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if !found.is_dir() {
            return Err(dead(&real_path, io::Error::from(nix::errno::Errno::ENOTDIR)));
        }
        searched.push(Searched {
            path: real_path.clone(),
            permissions: found.permissions,
        });
        if name == ".." {
            real_path.pop();
            found = look(&real_path)?;
            continue;
        }
        let next = real_path.join(&name);
        let next_found = look(&next)?;
        let FileKind::Link(target) = &next_found.kind else {
            real_path = next;
            found = next_found;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(dead(&next, io::Error::from(nix::errno::Errno::ELOOP)));
        }
        for name in components(target).into_iter().rev() {
            ahead.push_front(name);
        }
        if target.is_absolute() {
            real_path = PathBuf::from("/");
            found = look(&real_path)?;
        }
    }
    Ok(Walk {
        real_path,
        found,
        searched,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const DIR: u32 = 0o040_000;

    fn credentials(uid: u32, groups: &[u32]) -> Credentials {
        Credentials::numeric(uid, groups[0], groups.to_vec())
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        use Verdict::{Denied, DeniedByMode, Granted};
        let table = [
            // uid and groups of the task, owner, group and mode of the directory
            (7, &[7][..], 7, 0, 0o100, Granted),
            (7, &[7], 7, 7, 0o077, Denied),
            (7, &[7], 0, 7, 0o010, Granted),
            (7, &[7, 20], 0, 20, 0o710, Granted),
            (7, &[7, 20], 0, 20, 0o701, Denied),
            (7, &[7], 0, 0, 0o701, Granted),
            (7, &[7], 0, 0, 0o700, Denied),
            (7, &[7], 0, 0, 0o744, Denied),
            // An access control list can only grant what its mask, shown as the group bits, allows.
            (7, &[7], 0, 0, 0o750, DeniedByMode),
            (0, &[0], 7, 7, 0o000, Granted),
        ];
        for (uid, groups, owner, group, mode, expected) in table {
            let dir = Permissions {
                uid: owner,
                gid: group,
                mode: DIR | mode,
            };
            let verdict = dir.verdict(&credentials(uid, groups), Access::Execute);
            assert_eq!(verdict, expected, "{uid} {groups:?} in {owner}:{group} {mode:o}");
        }
    }

    #[test]
    fn root_executes_only_what_anyone_may() {
        let root = credentials(0, &[0]);
        let file = |mode: u32| Permissions {
            uid: 7,
            gid: 7,
            mode: 0o100_000 | mode,
        };
        assert_eq!(file(0o644).verdict(&root, Access::Execute), Verdict::Denied);
        assert_eq!(file(0o001).verdict(&root, Access::Execute), Verdict::Granted);
        assert_eq!(file(0o000).verdict(&root, Access::Read), Verdict::Granted);
    }

    #[test]
    fn a_certain_denial_is_named_before_an_uncertain_one() {
        let dir = |path: &str, mode: u32| Searched {
            path: path.into(),
            permissions: Permissions {
                uid: 0,
                gid: 0,
                mode: DIR | mode,
            },
        };
        let nobody = credentials(65534, &[65534]);
        let way = [dir("/", 0o755), dir("/a", 0o750), dir("/a/b", 0o700)];
        let (denied, verdict) = first_unsearchable(&way, &nobody).unwrap();
        assert_eq!((denied.path.as_path(), verdict), (Path::new("/a/b"), Verdict::Denied));
        let (denied, verdict) = first_unsearchable(&way[..2], &nobody).unwrap();
        assert_eq!(
            (denied.path.as_path(), verdict),
            (Path::new("/a"), Verdict::DeniedByMode)
        );
        assert_eq!(first_unsearchable(&way[..1], &nobody), None);
        assert_eq!(first_unsearchable(&way, &credentials(0, &[0])), None);
    }

    #[test]
    fn links_are_followed_and_what_they_lead_through_is_searched() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("hidden/deep")).unwrap();
        fs::create_dir(top.join("open")).unwrap();
        fs::write(top.join("hidden/deep/file"), "").unwrap();
        symlink("../hidden/deep", top.join("open/relative")).unwrap();
        symlink(top.join("open/relative"), top.join("absolute")).unwrap();
        let walk = walk(&View::host(), &top.join("absolute/./file")).unwrap();
        assert_eq!(walk.real_path, top.join("hidden/deep/file"));
        assert!(walk.found.is_file());
        let searched: Vec<_> = walk.searched.iter().map(|dir| dir.path.clone()).collect();
        for dir in ["", "open", "hidden", "hidden/deep"] {
            assert!(
                searched.contains(&top.join(dir).components().collect()),
                "{dir:?} is not in {searched:?}"
            );
        }
        assert!(!searched.contains(&walk.real_path));
    }

    #[test]
    fn a_dead_end_is_named() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        fs::write(top.join("file"), "").unwrap();
        symlink("loop", top.join("loop")).unwrap();
        symlink("gone", top.join("dangling")).unwrap();
        let table = [
            ("none/below", "none", io::ErrorKind::NotFound),
            ("file/below", "file", io::ErrorKind::NotADirectory),
            ("dangling", "gone", io::ErrorKind::NotFound),
        ];
        for (path, component, kind) in table {
            let dead = walk(&View::host(), &top.join(path)).unwrap_err();
            assert_eq!(
                (dead.component, dead.source.kind()),
                (top.join(component), kind),
                "{path}"
            );
        }
        let dead = walk(&View::host(), &top.join("loop")).unwrap_err();
        assert_eq!(dead.component, top.join("loop"));
        assert_eq!(dead.source.raw_os_error(), Some(nix::errno::Errno::ELOOP as i32));
        assert_eq!(
            walk(&View::host(), Path::new("relative"))
                .unwrap_err()
                .source
                .to_string(),
            "not an absolute path"
        );
    }

    #[test]
    fn permissions_come_from_the_inode() {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o2710)).unwrap();
        let permissions = Permissions::from(&fs::metadata(top.path()).unwrap());
        assert_eq!(permissions.mode, DIR | 0o2710);
    }
}
