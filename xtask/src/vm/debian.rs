//! The kernel, its modules and the shell: from Debian's packages, which are unpacked below `target` and not installed. A kernel's
//! package would make an initramfs for this machine and ask for a boot loader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::folder;
use crate::{setup, step};

/// Depends on the newest kernel of its kind.
const KERNEL: &str = "linux-image-cloud-amd64";
const SHELL: &str = "busybox-static";

/// Unpacked packages.
pub struct Parts {
    pub kernel: PathBuf,
    pub busybox: PathBuf,
    /// `kernel` of `/lib/modules/VERSION/kernel`.
    pub modules: PathBuf,
}

/// Downloads what is not there yet.
pub fn parts() -> Result<Parts> {
    let unpacked = folder()?.join("debian");
    if !unpacked.is_dir() {
        download(&unpacked).with_context(|| {
            format!("the VM's kernel and shell (Debian packages {KERNEL} and {SHELL}, which apt-get downloads)")
        })?;
    }
    Parts::find(&unpacked)
}

impl Parts {
    fn find(unpacked: &Path) -> Result<Parts> {
        let one = |folder: &str, begin: &str| {
            let folder = unpacked.join(folder);
            let found = fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| {
                    path.file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with(begin))
                });
            found.with_context(|| {
                format!(
                    "there is no {begin}* in {}; remove {}",
                    folder.display(),
                    unpacked.display()
                )
            })
        };
        // Where / and /usr are one, packages have moved from one to the other.
        let modules = one("usr/lib/modules", "").or_else(|_| one("lib/modules", ""))?;
        let busybox = one("usr/bin", "busybox").or_else(|_| one("bin", "busybox"))?;
        Ok(Parts {
            kernel: one("boot", "vmlinuz-")?,
            busybox,
            modules: modules.join("kernel"),
        })
    }

    /// A module's file, by its path below the folder of modules. Newer kernels' are compressed.
    pub fn module(&self, path: &str) -> Result<PathBuf> {
        let files = ["ko", "ko.xz"].map(|extension| self.modules.join(path).with_extension(extension));
        let [plain, _] = &files;
        let missing = format!("the VM's kernel has no module {}", plain.display());
        files.into_iter().find(|file| file.exists()).context(missing)
    }
}

fn download(unpacked: &Path) -> Result<()> {
    let temporary = tempfile::Builder::new().prefix("debian.").tempdir_in(folder()?)?;
    let packages = temporary.path().join("packages");
    fs::create_dir(&packages)?;
    if let Err(error) = fetch(&packages) {
        if !setup::is_root()? {
            return Err(error);
        }
        // The lists may name packages that have been replaced since.
        step::run("updating Debian's package lists", &mut setup::apt_get(&["update"]))?;
        fetch(&packages)?;
    }
    let content = temporary.path().join("content");
    for entry in fs::read_dir(&packages)? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(entry?.path()).arg(&content);
        step::run("unpacking a package for the VM", &mut unpack)?;
    }
    fs::rename(&content, unpacked).with_context(|| format!("cannot make {}", unpacked.display()))
}

fn fetch(folder: &Path) -> Result<()> {
    // Root's own folder is closed to the user that apt would become.
    let as_root = "APT::Sandbox::User=root";
    let mut apt_get = setup::apt_get(&["-o", as_root, "download", &kernel_package()?, SHELL]);
    step::run("downloading the VM's kernel and shell", apt_get.current_dir(folder))
}

/// The package that has the kernel, which [`KERNEL`] only names.
fn kernel_package() -> Result<String> {
    let answer = Command::new("apt-cache")
        .args(["depends", KERNEL])
        .stderr(Stdio::null())
        .output()
        .context("apt-cache, which cannot be started")?;
    dependency(&String::from_utf8_lossy(&answer.stdout)).with_context(|| format!("apt knows no package {KERNEL}"))
}

fn dependency(answer: &str) -> Option<String> {
    let depends = answer.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    depends
        .filter(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_package_is_what_the_other_depends_on() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependency(answer).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
        assert_eq!(dependency(""), None);
    }
}
