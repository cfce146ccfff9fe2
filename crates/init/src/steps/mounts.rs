//! Steps that build the tree that a task sees, in a mount namespace of its own. What they make has the modes that it is to have: the
//! process has no umask meanwhile.

use core::mem::MaybeUninit;

use crate::raw::{self, errno, nr};

const AT_FDCWD: usize = -100isize as usize;
const AT_EMPTY_PATH: usize = 0x1000;
const AT_RECURSIVE: usize = 0x8000;
const OPEN_TREE_CLONE: usize = 1;
const O_CREAT: usize = 0o100;
const O_EXCL: usize = 0o200;
const O_TRUNC: usize = 0o1000;
const O_WRONLY: usize = 1;
const O_DIRECTORY: usize = 0o200000;
const O_NOFOLLOW: usize = 0o400000;
const O_CLOEXEC: usize = 0o2000000;
const O_PATH: usize = 0o10000000;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const MOVE_MOUNT_T_SYMLINKS: usize = 0x10;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MS_RDONLY: usize = 1;
const MS_NOSUID: usize = 2;
const MS_NODEV: usize = 4;
const MS_NOEXEC: usize = 8;
const MS_MOVE: usize = 8192;
const MNT_DETACH: usize = 2;
const PATH_MAX: usize = 4096;

/// Keeps the kernel's answer apart from its value.
type Done = Result<(), i32>;

/// mount(2).
///
/// # Safety
/// All four texts must end in zero.
pub unsafe fn mount(source: *const u8, target: *const u8, kind: *const u8, flags: usize, data: *const u8) -> Done {
    // SAFETY: the caller's promise.
    let answer = unsafe {
        raw::syscall(
            nr::MOUNT,
            source as usize,
            target as usize,
            kind as usize,
            flags,
            data as usize,
            0,
        )
    };
    if answer < 0 { Err(-answer as i32) } else { Ok(()) }
}

/// A copy of the mounts at `path`, under the number `to` (open_tree(2)), with attributes and propagation (mount_setattr(2), Linux 5.12).
///
/// # Safety
/// `path` must end in zero; `to` is overwritten.
pub unsafe fn open_tree(path: *const u8, to: usize, attributes: u64, propagation: u64) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        let fd = raw::checked(
            nr::OPEN_TREE,
            AT_FDCWD,
            path as usize,
            OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC,
            0,
        )?;
        let done = set_attributes(
            fd,
            c"".as_ptr().cast(),
            AT_EMPTY_PATH | AT_RECURSIVE,
            attributes,
            propagation,
        )
        .and_then(|()| raw::checked(nr::DUP3, fd, to, O_CLOEXEC, 0).map(drop));
        raw::close(fd as i32);
        done
    }
}

/// # Safety
/// `path` must end in zero.
unsafe fn set_attributes(directory: usize, path: *const u8, flags: usize, set: u64, propagation: u64) -> Done {
    if set == 0 && propagation == 0 {
        return Ok(());
    }
    // The kernel's struct mount_attr: to set, to clear, propagation, user namespace.
    let attributes = [set, 0, propagation, 0];
    let size = size_of::<[u64; 4]>();
    // SAFETY: the structure is readable for its size, and the path is the caller's promise.
    let answer = unsafe {
        raw::syscall(
            nr::MOUNT_SETATTR,
            directory,
            path as usize,
            flags,
            attributes.as_ptr() as usize,
            size,
            0,
        )
    };
    if answer < 0 { Err(-answer as i32) } else { Ok(()) }
}

/// Puts the copy with the number `from` at `path`, and closes the number.
///
/// # Safety
/// `path` must end in zero.
pub unsafe fn attach(from: usize, path: *const u8) -> Done {
    const FLAGS: usize = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
    // SAFETY: the caller's promise.
    let answer = unsafe {
        raw::syscall(
            nr::MOVE_MOUNT,
            from,
            c"".as_ptr() as usize,
            AT_FDCWD,
            path as usize,
            FLAGS,
            0,
        )
    };
    raw::close(from as i32);
    if answer < 0 { Err(-answer as i32) } else { Ok(()) }
}

/// Makes the mount at `path` the root, and lets go of the old one. `must_move`: the old root is a ramdisk, which pivot_root(2) cannot leave.
///
/// # Safety
/// `path` must end in zero.
pub unsafe fn enter_root(path: *const u8, must_move: bool) -> Done {
    let here: *const u8 = c".".as_ptr().cast();
    let root: *const u8 = c"/".as_ptr().cast();
    // SAFETY: texts that end in zero.
    unsafe {
        raw::checked(nr::CHDIR, path as usize, 0, 0, 0)?;
        if must_move {
            mount(here, root, core::ptr::null(), MS_MOVE, core::ptr::null())?;
            raw::checked(nr::CHROOT, here as usize, 0, 0, 0)?;
        } else {
            // The new root is put over the old one, which is then taken from below it (pivot_root(2)).
            raw::checked(nr::PIVOT_ROOT, here as usize, here as usize, 0, 0)?;
            raw::checked(nr::UMOUNT2, here as usize, MNT_DETACH, 0, 0)?;
        }
        raw::checked(nr::CHDIR, root as usize, 0, 0, 0).map(drop)
    }
}

/// Makes the folders above `path` that are missing, and at it a folder or an empty file if nothing is there. A link whose end is missing
/// gets an end.
///
/// # Safety
/// `path` must be writable and end in zero.
pub unsafe fn make_place(path: *mut u8, is_folder: bool) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        // Most often nothing is there, since the root is new.
        let made = with_parents(path, || make_end(path, is_folder));
        if made.is_ok() || exists(path) {
            return Ok(());
        }
        // Not filled: that would be a call of a memset, which the init does not have.
        let mut buffer = MaybeUninit::<[u8; PATH_MAX]>::uninit();
        let buffer: *mut u8 = buffer.as_mut_ptr().cast();
        match link_end(path, buffer) {
            true => {
                make_parents(buffer)?;
                make_end(buffer, is_folder)
            }
            false => made,
        }
    }
}

/// # Safety
/// `path` must end in zero.
unsafe fn make_end(path: *const u8, is_folder: bool) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        if is_folder {
            return raw::checked(nr::MKDIR, path as usize, 0o755, 0, 0).map(drop);
        }
        const FLAGS: usize = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
        let fd = raw::checked(nr::OPENAT, AT_FDCWD, path as usize, FLAGS, 0o644)?;
        raw::close(fd as i32);
        Ok(())
    }
}

/// Where the link at `path` leads, as an absolute path; false: it is none.
///
/// # Safety
/// `path` must end in zero, and `buffer` have room for `PATH_MAX` bytes.
unsafe fn link_end(path: *const u8, buffer: *mut u8) -> bool {
    // SAFETY: the caller's promise; every copy stays within the buffer.
    unsafe {
        let room = PATH_MAX / 2 - 1;
        let text = buffer.add(PATH_MAX / 2);
        let Ok(length) = raw::checked(nr::READLINK, path as usize, text as usize, room, 0) else {
            return false;
        };
        let mut at = 0;
        if text.read_volatile() != b'/' {
            // Beside the link.
            let mut end = 0;
            let mut index = 0;
            while path.add(index).read_volatile() != 0 && index < room {
                if path.add(index).read_volatile() == b'/' {
                    end = index + 1;
                }
                index += 1;
            }
            while at < end {
                buffer.add(at).write_volatile(path.add(at).read_volatile());
                at += 1;
            }
        }
        if at + length >= PATH_MAX / 2 {
            return false;
        }
        let mut index = 0;
        while index < length {
            let byte = buffer.add(PATH_MAX / 2 + index).read_volatile();
            buffer.add(at + index).write_volatile(byte);
            index += 1;
        }
        buffer.add(at + length).write_volatile(0);
        true
    }
}

/// # Safety
/// `path` must be writable and end in zero.
unsafe fn make_parents(path: *mut u8) -> Done {
    // SAFETY: the caller's promise; the text is as it was when this returns.
    unsafe {
        let mut at = 1;
        while path.add(at - 1).read_volatile() != 0 && path.add(at).read_volatile() != 0 {
            if path.add(at).read_volatile() == b'/' {
                path.add(at).write_volatile(0);
                let made = raw::checked(nr::MKDIR, path as usize, 0o755, 0, 0);
                let is_there = made.is_ok() || exists(path);
                path.add(at).write_volatile(b'/');
                if !is_there {
                    return made.map(drop);
                }
            }
            at += 1;
        }
        Ok(())
    }
}

/// # Safety
/// `path` must end in zero.
unsafe fn exists(path: *const u8) -> bool {
    // SAFETY: the caller's promise.
    match unsafe { raw::checked(nr::OPENAT, AT_FDCWD, path as usize, O_PATH | O_CLOEXEC, 0) } {
        Ok(fd) => {
            raw::close(fd as i32);
            true
        }
        Err(_) => false,
    }
}

/// A folder with this mode and owner; one that is there stays as it is.
///
/// # Safety
/// `path` must be writable and end in zero.
pub unsafe fn make_folder(path: *mut u8, mode: usize, uid: usize, gid: usize) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        match with_parents(path, || raw::checked(nr::MKDIR, path as usize, mode, 0, 0).map(drop)) {
            Ok(()) => own(path, uid, gid),
            Err(errno::EEXIST) => Ok(()),
            Err(_) if exists(path) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// A device node.
///
/// # Safety
/// `path` must be writable and end in zero.
pub unsafe fn make_node(path: *mut u8, mode: usize, device: usize, uid: usize, gid: usize) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        with_parents(path, || {
            raw::checked(nr::MKNOD, path as usize, mode, device, 0).map(drop)
        })?;
        own(path, uid, gid)
    }
}

/// # Safety
/// `path` must end in zero, and lead to what was just made.
unsafe fn own(path: *const u8, uid: usize, gid: usize) -> Done {
    if uid == 0 && gid == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { raw::checked(nr::LCHOWN, path as usize, uid, gid, 0).map(drop) }
}

/// Most often they are there.
///
/// # Safety
/// `path` must be writable and end in zero.
unsafe fn with_parents(path: *mut u8, make: impl Fn() -> Done) -> Done {
    match make() {
        Err(errno::ENOENT) => {
            // SAFETY: the caller's promise.
            unsafe { make_parents(path)? };
            make()
        }
        done => done,
    }
}

/// A symbolic link; what is there already stays.
///
/// # Safety
/// Both texts must end in zero, and `path` must be writable.
pub unsafe fn make_link(text: *const u8, path: *mut u8) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        let make = || raw::checked(nr::SYMLINK, text as usize, path as usize, 0, 0).map(drop);
        match with_parents(path, make) {
            Err(errno::EEXIST) => Ok(()),
            done => done,
        }
    }
}

/// A file with this content, for everybody to read.
///
/// # Safety
/// `path` must end in zero.
pub unsafe fn write_file(path: *const u8, content: &[u8]) -> Done {
    const FLAGS: usize = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
    // SAFETY: the caller's promise.
    unsafe {
        let fd = raw::checked(nr::OPENAT, AT_FDCWD, path as usize, FLAGS, 0o644)? as i32;
        let written = raw::write(fd, content);
        raw::close(fd);
        match written? == content.len() {
            true => Ok(()),
            false => Err(errno::ENOSPC),
        }
    }
}

/// Covers what is at `path`: a folder by an empty one, a file by /dev/null of the same tree. Nothing is there: nothing is done.
///
/// # Safety
/// Both texts must end in zero.
pub unsafe fn mask(path: *const u8, nothing: *const u8) -> Done {
    const FLAGS: usize = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    let tmpfs: *const u8 = c"tmpfs".as_ptr().cast();
    let data: *const u8 = c"size=4k,nr_inodes=2,mode=755".as_ptr().cast();
    // SAFETY: texts that end in zero.
    unsafe {
        match raw::checked(nr::OPENAT, AT_FDCWD, path as usize, O_PATH | O_DIRECTORY | O_CLOEXEC, 0) {
            Ok(fd) => {
                raw::close(fd as i32);
                mount(tmpfs, path, tmpfs, FLAGS, data)
            }
            Err(errno::ENOENT) => Ok(()),
            Err(errno::ENOTDIR) => cover(nothing, path, 0),
            Err(errno) => Err(errno),
        }
    }
}

/// What is at `path` cannot be written. Nothing is there: nothing is done.
///
/// # Safety
/// `path` must end in zero.
pub unsafe fn make_read_only(path: *const u8) -> Done {
    // SAFETY: the caller's promise.
    unsafe { cover(path, path, MOUNT_ATTR_RDONLY) }
}

/// # Safety
/// Both texts must end in zero.
unsafe fn cover(source: *const u8, path: *const u8, attributes: u64) -> Done {
    const FLAGS: usize = OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC;
    // SAFETY: the caller's promise.
    unsafe {
        let fd = match raw::checked(nr::OPEN_TREE, AT_FDCWD, source as usize, FLAGS, 0) {
            Ok(fd) => fd,
            Err(errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let set = set_attributes(fd, c"".as_ptr().cast(), AT_EMPTY_PATH | AT_RECURSIVE, attributes, 0);
        if let Err(errno) = set {
            raw::close(fd as i32);
            return Err(errno);
        }
        match attach(fd, path) {
            // It went meanwhile, or was never there.
            Err(errno::ENOENT) => Ok(()),
            done => done,
        }
    }
}

/// The mount at the root, and nothing below it, cannot be written.
pub fn seal_root() -> Done {
    // SAFETY: a text that ends in zero.
    unsafe { set_attributes(AT_FDCWD, c"/".as_ptr().cast(), 0, MOUNT_ATTR_RDONLY, 0) }
}
