//! The VM's initramfs, its only file system: busybox, modules, tests, and scripts that run them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::debian::Parts;
use super::exclusion;
use super::program::{self, Program, Purpose};
use crate::root;

const INIT: &str = include_str!("init.sh");

/// What is loaded, in this order, with its options. The two disks are `nullb0` and `nullb1`.
const MODULES: &[(&str, &str)] = &[
    ("fs/configfs/configfs", ""),
    ("drivers/block/null_blk/null_blk", "nr_devices=2 memory_backed=1 gb=1"),
    ("drivers/block/loop", ""),
    ("fs/overlayfs/overlay", ""),
    // For their devices.
    ("fs/fuse/fuse", ""),
    ("drivers/net/tun", ""),
];

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n";
/// Files below `/etc`.
const ETC: [(&str, &str); 7] = [
    ("passwd", PASSWD),
    ("group", GROUP),
    ("shadow", "root:*:19000:0:99999:7:::\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("hostname", "vm\n"),
    ("hosts", "127.0.0.1 localhost vm\n"),
    ("resolv.conf", "nameserver 127.0.0.1\n"),
];

/// What tests call and busybox lacks, or has with other options.
const PROGRAMS: [(&str, &str); 4] = [
    ("usr/local/bin/ldd", LIBRARIES),
    ("usr/local/bin/nice", NICE),
    ("usr/local/bin/mkfs.ext4", MAKE_EXT4),
    ("usr/local/bin/fsfreeze", FREEZE),
];

/// Every program here is static.
const LIBRARIES: &str = "#!/bin/sh\n";

/// Says the nice value, or executes a command with another: `nice [-n] VALUE COMMAND...`.
const NICE: &str = r#"#!/bin/sh
[ $# = 0 ] && exec cut -d ' ' -f 19 /proc/$$/stat
[ "$1" = -n ] && shift
renice -n "$1" -p $$ > /dev/null
shift
exec "$@"
"#;

/// What it makes is ext2, which is mounted by the same code.
const MAKE_EXT4: &str = r#"#!/bin/sh
for file; do :; done
exec mke2fs -F "$file" > /dev/null
"#;

/// `-f` and `-u`.
const FREEZE: &str = r#"#!/bin/sh
case $1 in
-f) exec busybox fsfreeze --freeze "$2" ;;
-u) exec busybox fsfreeze --unfreeze "$2" ;;
esac
"#;

/// What the VM is booted for.
#[derive(Clone, Copy)]
pub enum Main<'a> {
    /// Those tests whose names contain one of these, or all.
    Tests(&'a [String]),
    /// A shell on its terminal.
    Shell,
}

/// Kernel and initramfs.
pub struct Image {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// What the kernel says goes to this file.
    pub console: PathBuf,
}

/// Writes the initramfs into a folder.
pub fn write(folder: &Path, parts: &Parts, programs: &[Program], main: Main) -> Result<Image> {
    let staging = tempfile::Builder::new().prefix("initramfs.").tempdir_in(folder)?;
    let tree = Tree(staging.path());
    // As in Debian, / and /usr are one.
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tree.0.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), tree.0.join(name))?;
    }
    tree.copy(&parts.busybox, "usr/bin/busybox")?;
    tree.text("init", INIT, 0o755)?;
    let mut modules = String::new();
    for (path, options) in MODULES {
        let file = parts.module(path)?;
        let name = file.file_name().context("a module has a name")?.to_string_lossy();
        tree.copy(&file, &format!("modules/{name}"))?;
        if name.ends_with(".xz") {
            writeln!(modules, "unxz /modules/{name}")?;
        }
        let name = name.trim_end_matches(".xz");
        writeln!(modules, "insmod /modules/{name} {options} || missing 'module {name}'")?;
    }
    tree.text("modules.sh", &modules, 0o644)?;
    for (name, content) in ETC {
        tree.text(&format!("etc/{name}"), content, 0o644)?;
    }
    for (path, script) in PROGRAMS {
        tree.text(path, script, 0o755)?;
    }
    for program in programs {
        tree.copy(&program.path, &inside(&program.path)?)?;
        fs::create_dir_all(tree.0.join(inside(&program.package_dir)?))?;
    }
    // For a shell, and where the Go tests look for what is released.
    for folder in [
        PathBuf::from("usr/local/bin"),
        inside(&root().join("target/dist"))?.into(),
    ] {
        let folder = tree.0.join(folder);
        fs::create_dir_all(&folder)?;
        for name in [program::EXECUTOR, program::DRIVER] {
            symlink(&program::product(programs, name)?.path, folder.join(name))?;
        }
    }
    let filters = match main {
        Main::Tests(filters) => filters,
        Main::Shell => &[],
    };
    tree.text("tests.sh", &tests(programs, filters), 0o755)?;
    let script = match main {
        // Raw, so that lines arrive as they were written; at the end the terminal is asked to wait until they have.
        Main::Tests(_) => "stty -opost\nsh /tests.sh < /dev/null\nstty -opost\n",
        // A session of its own, with job control.
        Main::Shell => "setsid -c /bin/sh\n",
    };
    tree.text("main.sh", script, 0o644)?;
    let image = Image {
        kernel: parts.kernel.clone(),
        initramfs: folder.join("initramfs"),
        console: folder.join("console.log"),
    };
    tree.archive(&image.initramfs)?;
    Ok(image)
}

/// What will be the root of the VM.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn place(&self, path: &str) -> Result<PathBuf> {
        let place = self.0.join(path);
        let parent = place.parent().unwrap_or(self.0);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        Ok(place)
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let place = self.place(to)?;
        fs::copy(from, &place).with_context(|| format!("cannot copy {} to {}", from.display(), place.display()))?;
        Ok(())
    }

    fn text(&self, to: &str, content: &str, mode: u32) -> Result<()> {
        let place = self.place(to)?;
        fs::write(&place, content).with_context(|| format!("cannot write {}", place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// As the kernel reads it (initramfs-buffer-format.rst).
    fn archive(&self, file: &Path) -> Result<()> {
        let mut find = Command::new("find")
            .arg(".")
            .current_dir(self.0)
            .stdout(Stdio::piped())
            .spawn()
            .context("find(1) cannot be started")?;
        let names = find.stdout.take().context("standard output is a pipe")?;
        let archive = fs::File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        let status = Command::new("cpio")
            .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
            .current_dir(self.0)
            .stdin(names)
            .stdout(archive)
            .status()
            .context("cpio(1) cannot be started")?;
        let found = find.wait().context("cannot wait for find(1)")?;
        ensure!(
            found.success() && status.success(),
            "cannot make the initramfs: find {found}, cpio {status}"
        );
        Ok(())
    }
}

/// An absolute path, relative to the VM's root.
fn inside(path: &Path) -> Result<String> {
    let relative = path
        .strip_prefix("/")
        .with_context(|| format!("{} is not absolute", path.display()))?;
    let relative = relative
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(relative.to_owned())
}

/// Runs every test program; [`super::report`] reads what it says.
fn tests(programs: &[Program], filters: &[String]) -> String {
    let mut script = String::from("export HOLDFAST_VM=1\n");
    for Program {
        name,
        path,
        package_dir,
        purpose,
    } in programs
    {
        let arguments = match purpose {
            Purpose::RustTests => rust_arguments(name, filters),
            Purpose::GoTests => go_arguments(name, filters),
            Purpose::Product => continue,
        };
        let arguments: String = arguments
            .iter()
            .map(|argument| format!(" {}", quoted(argument)))
            .collect();
        let (dir, path) = (quoted(&package_dir.to_string_lossy()), quoted(&path.to_string_lossy()));
        script += &format!("echo 'vm: begin {name}'\n(cd {dir} && exec {path}{arguments})\n");
        script += "echo \"vm: end $?\"\n";
    }
    script + "echo 'vm: done'\n"
}

fn rust_arguments(name: &str, filters: &[String]) -> Vec<String> {
    let skips = exclusion::of(name).flat_map(|exclusion| ["--skip", exclusion.test]);
    let arguments = ["--show-output"].into_iter().chain(filters.iter().map(String::as_str));
    arguments.chain(skips).map(str::to_owned).collect()
}

/// Most tests wait most of the time, so that more of them at once than there are processors save time.
fn go_arguments(name: &str, filters: &[String]) -> Vec<String> {
    let fixed = [
        "-test.v=test2json",
        "-test.timeout=20m",
        "-test.parallel=4",
        "-patience=2m",
    ];
    let mut arguments = fixed.map(str::to_owned).to_vec();
    if !filters.is_empty() {
        arguments.push(format!("-test.run={}", filters.join("|")));
    }
    // A level of names is a pattern of its own.
    let excluded = exclusion::of(name).map(|exclusion| {
        let levels: Vec<String> = exclusion.test.split('/').map(|level| format!("^{level}$")).collect();
        levels.join("/")
    });
    let excluded: Vec<String> = excluded.collect();
    if !excluded.is_empty() {
        arguments.push(format!("-test.skip={}", excluded.join("|")));
    }
    arguments
}

/// As one word of the shell's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_passes_filters_and_exclusions_on() {
        let program = |name: &str, purpose| Program {
            name: name.to_owned(),
            path: "/w/it's".into(),
            package_dir: "/w/p".into(),
            purpose,
        };
        let programs = [
            program("holdfast-sandbox holdfast_sandbox", Purpose::RustTests),
            program("no test", Purpose::Product),
            program("no exclusions", Purpose::GoTests),
        ];
        let script = super::tests(&programs, &["a b".to_owned()]);
        let skips: String = exclusion::of("holdfast-sandbox holdfast_sandbox")
            .map(|excluded| format!(" '--skip' '{}'", excluded.test))
            .collect();
        assert!(skips.contains("the_hosts_own_getent"));
        let expected = "\
export HOLDFAST_VM=1
echo 'vm: begin holdfast-sandbox holdfast_sandbox'
(cd '/w/p' && exec '/w/it'\\''s' '--show-output' 'a b'SKIPS)
echo \"vm: end $?\"
echo 'vm: begin no exclusions'
(cd '/w/p' && exec '/w/it'\\''s' '-test.v=test2json' '-test.timeout=20m' '-test.parallel=4' '-patience=2m' '-test.run=a b')
echo \"vm: end $?\"
echo 'vm: done'
";
        assert_eq!(script, expected.replace("SKIPS", &skips));
    }
}
