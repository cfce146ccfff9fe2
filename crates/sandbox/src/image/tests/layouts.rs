//! Writes image layouts, also wrong ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// A tar archive whose entries may have any names.
pub(super) struct Tar(tar::Builder<Vec<u8>>);

/// 2001-09-09.
pub(super) const MTIME: u64 = 1_000_000_000;

impl Tar {
    pub(super) fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    /// Whatever the name is, short enough for the header.
    pub(super) fn raw(
        mut self,
        kind: u8,
        name: &str,
        target: &str,
        mode: u32,
        owner: (u32, u32),
        content: &[u8],
    ) -> Tar {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_mtime(MTIME);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(super) fn file(self, name: &str, content: &str) -> Tar {
        self.raw(b'0', name, "", 0o644, (0, 0), content.as_bytes())
    }

    pub(super) fn folder(self, name: &str) -> Tar {
        self.raw(b'5', name, "", 0o755, (0, 0), b"")
    }

    pub(super) fn link(self, name: &str, target: &str) -> Tar {
        self.raw(b'2', name, target, 0o777, (0, 0), b"")
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Tar {
        self.raw(b'1', name, target, 0o644, (0, 0), b"")
    }

    /// Pax records for the next entry.
    pub(super) fn pax(mut self, records: &[(&str, &[u8])]) -> Tar {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// How a layer becomes a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pack {
    Plain,
    Gzip,
    /// Two members, as eStargz has many.
    Gzips,
    Zstd,
}

impl Pack {
    fn pack(self, bytes: &[u8]) -> Vec<u8> {
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        match self {
            Pack::Plain => bytes.to_vec(),
            Pack::Gzip => gzip(bytes),
            Pack::Gzips => {
                let (one, two) = bytes.split_at(bytes.len() / 2);
                [gzip(one), gzip(two)].concat()
            }
            Pack::Zstd => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Pack::Plain => "application/vnd.oci.image.layer.v1.tar",
            Pack::Gzip | Pack::Gzips => "application/vnd.oci.image.layer.v1.tar+gzip",
            Pack::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Layers of an image: descriptors and diff ids, the first is the lowest.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers(pub Vec<(Value, String)>);

/// A folder with blobs.
pub(super) struct Layout {
    pub folder: tempfile::TempDir,
}

impl Layout {
    pub(super) fn new() -> Layout {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { folder }
    }

    /// One image of these layers.
    pub(super) fn of(tars: Vec<Tar>) -> Layout {
        let layout = Layout::new();
        let layers = Layers(tars.into_iter().map(|tar| layout.layer(tar, Pack::Gzip)).collect());
        let image = layout.image(&layers);
        layout.index(&[image]);
        layout
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn reference(&self) -> Reference {
        Reference::parse(&format!("oci:{}", self.path().display())).unwrap()
    }

    /// With `:tag` or `@digest`.
    pub(super) fn select(&self, selection: &str) -> Reference {
        Reference::parse(&format!("oci:{}{selection}", self.path().display())).unwrap()
    }

    pub(super) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(blob::path(self.path(), &digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    pub(super) fn layer(&self, tar: Tar, pack: Pack) -> (Value, String) {
        self.layer_of(&tar.bytes(), pack)
    }

    pub(super) fn layer_of(&self, archive: &[u8], pack: Pack) -> (Value, String) {
        let descriptor = self.blob(pack.media_type(), &pack.pack(archive));
        (descriptor, Digest::of(archive).to_string())
    }

    pub(super) fn image(&self, layers: &Layers) -> Value {
        self.image_for("amd64", layers)
    }

    pub(super) fn image_for(&self, architecture: &str, layers: &Layers) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "User": "1:2", "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": layers.0.iter().map(|layer| &layer.1).collect::<Vec<_>>()},
        });
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let manifest = json!({
            "schemaVersion": 2, "config": config,
            "layers": layers.0.iter().map(|layer| &layer.0).collect::<Vec<_>>(),
        });
        self.blob(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        )
    }

    /// An index as a blob.
    pub(super) fn nested(&self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.blob("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())
    }

    /// The `index.json`.
    pub(super) fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// Digest of a descriptor.
pub(super) fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

pub(super) fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

/// tmpfs has none before Linux 6.6.
pub(super) fn has_user_attributes(folder: &Path) -> bool {
    rustix::fs::setxattr(folder, "user.probe", b"x", rustix::fs::XattrFlags::empty()).is_ok()
}

/// Every name below `root` with what it is, in words.
pub(super) fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let text = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                folders.push(path.clone());
                let opaque = ["trusted", "user"].map(|space| attribute(&path, &format!("{space}.overlay.opaque")));
                let opaque = opaque.into_iter().flatten().any(|value| value == b"y");
                if opaque {
                    "opaque folder".to_owned()
                } else {
                    "folder".to_owned()
                }
            } else if kind.is_file() {
                fs::read_to_string(&path).unwrap()
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else if kind.is_char_device() && metadata.rdev() == 0 {
                "whiteout".to_owned()
            } else {
                "device".to_owned()
            };
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), text);
        }
    }
    found
}
