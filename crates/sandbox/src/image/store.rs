//! Layers of all images of a host, each unpacked once.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::blob::{self, Blob};
use super::decompress::{Archive, Totals};
use super::layer::{Failure, Layer, Unpacked, Unpacker};
use super::layout::{self, LayerBlob};
use super::tape::{Tape, TapeError};
use super::{Digest, EntryError, ImageConfig, ImageError, Reference, User, in_use};

/// Uncompressed, of all layers of an image together, unless the operator says otherwise.
pub const DEFAULT_MAX_IMAGE_BYTES: u64 = 16 << 30;

/// A folder of unpacked layers. Any number of processes and threads may use it at once.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    max_image_bytes: u64,
}

/// An image whose layers are in a store. While it lives, none of them can be removed: keep it until the task's record, which
/// names them, is written.
#[derive(Debug)]
pub struct Image {
    /// Folders for overlayfs, the first on top; no folder is there twice, which overlayfs would refuse.
    pub layers: Vec<PathBuf>,
    /// What the image says of the process.
    pub config: ImageConfig,
    /// What was left out or done otherwise, one line each, for the operator.
    pub notes: Vec<String>,
    /// How many layers this call has unpacked; the others were there.
    pub unpacked: usize,
    /// The layers were unpacked without root: overlayfs must be mounted with `userxattr`.
    pub user_xattrs: bool,
    /// Shared locks.
    _held: Vec<File>,
}

/// A layer in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLayer {
    /// Of the blob it came from.
    pub digest: Digest,
    /// Its folder; what overlayfs gets lies in it.
    pub path: PathBuf,
    /// Of the uncompressed archive; about what it takes on disk. Absent: what is written of the layer cannot be read.
    pub bytes: Option<u64>,
}

/// `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LayerRecord {
    diff_id: Digest,
    bytes: u64,
    entries: u64,
    opaque_root: bool,
    user_xattrs: bool,
    notes: Vec<String>,
}

struct Held {
    folder: File,
    record: LayerRecord,
    fresh: bool,
}

impl Store {
    /// In a folder that is made, closed to others, when it is first needed.
    pub fn at(path: impl Into<PathBuf>) -> Store {
        Store {
            path: path.into(),
            max_image_bytes: DEFAULT_MAX_IMAGE_BYTES,
        }
    }

    /// The operator's limit: uncompressed bytes of all layers of an image together.
    pub fn with_max_image_bytes(self, max_image_bytes: u64) -> Store {
        Store {
            max_image_bytes,
            ..self
        }
    }

    /// Finds the image for this host and unpacks what is not there yet. Blocks, also while another process unpacks a layer that this
    /// image shares.
    ///
    /// # Errors
    /// Of the layout, of a layer, or of the store's file system; nothing is left of a layer that failed.
    pub fn unpack(&self, reference: &Reference) -> Result<Image, ImageError> {
        let found = layout::find(reference)?;
        self.prepare()?;
        let mut left = self.max_image_bytes;
        let mut image = Image {
            layers: Vec::new(),
            config: found.config,
            notes: Vec::new(),
            unpacked: 0,
            user_xattrs: false,
            _held: Vec::new(),
        };
        for (index, layer) in found.layers.iter().enumerate() {
            let Held { folder, record, fresh } = self.layer(reference.layout(), layer, left)?;
            let LayerRecord {
                diff_id,
                bytes,
                entries: _,
                opaque_root,
                user_xattrs,
                notes,
            } = record;
            if diff_id != layer.diff_id {
                return Err(ImageError::DiffId {
                    digest: layer.digest,
                    diff_id: layer.diff_id,
                });
            }
            left = left.checked_sub(bytes).ok_or(ImageError::TooLarge {
                digest: layer.digest,
                limit: self.max_image_bytes,
            })?;
            image.unpacked += usize::from(fresh);
            image._held.push(folder);
            image.user_xattrs |= user_xattrs;
            if opaque_root {
                image.layers.clear();
            }
            // Whatever the same layer adds further up, it adds there over everything that is between.
            if found.layers[index + 1..]
                .iter()
                .all(|other| other.digest != layer.digest)
            {
                image.layers.push(self.folder(&layer.digest).join("tree"));
                image
                    .notes
                    .extend(notes.iter().map(|note| format!("layer {}: {note}", layer.digest)));
            }
        }
        image.layers.reverse();
        Ok(image)
    }

    /// What is there, in the order of digests.
    pub fn list(&self) -> Result<Vec<StoredLayer>, ImageError> {
        let mut layers = Vec::new();
        for (digest, suffix) in self.names()? {
            let path = self.folder(&digest);
            if suffix.is_empty() {
                let bytes = read_record(&path).ok().flatten().map(|record| record.bytes);
                layers.push(StoredLayer { digest, path, bytes });
            }
        }
        layers.sort_by_key(|layer| layer.digest);
        Ok(layers)
    }

    /// Removes a layer, or what a killed unpacker left of one, unless somebody needs it: an image that was just unpacked, a mount
    /// on this host, or one of `in_use`, which are the folders that the records of all tasks of this state directory name (of every
    /// driver's name; also tasks that may be started again).
    pub fn remove(&self, digest: &Digest, in_use: &HashSet<PathBuf>) -> Result<(), ImageError> {
        let path = self.folder(digest);
        let busy = |by| ImageError::InUse { digest: *digest, by };
        let Some(_lock) = self.try_lock(digest)? else {
            return Err(busy(User::Unpacker));
        };
        let temporary = self.temporary(digest);
        let left_over = clear(&temporary)?;
        let Some(folder) = open_folder(&path)? else {
            return if left_over {
                Ok(())
            } else {
                Err(ImageError::NotStored(*digest))
            };
        };
        if !flock(&folder, FlockOperation::NonBlockingLockExclusive, &path)? {
            return Err(busy(User::Starting));
        }
        // By its name alone: the records may have come to it by another path.
        let name = digest.file_name();
        if let Some(user) = in_use
            .iter()
            .find(|user| user.iter().any(|component| component == name.as_str()))
        {
            return Err(busy(User::Task(user.clone())));
        }
        if let Some(pid) = in_use::mounted_by(&name) {
            return Err(busy(User::Mount(pid)));
        }
        // Under its own name it is whole or not there.
        fs::rename(&path, &temporary).map_err(ImageError::io("rename", &path))?;
        clear(&temporary)?;
        Ok(())
    }

    /// Removes every layer that nobody needs, and what killed unpackers left. Returns what was removed.
    pub fn remove_unused(&self, in_use: &HashSet<PathBuf>) -> Result<Vec<Digest>, ImageError> {
        let digests: HashSet<Digest> = self.names()?.into_iter().map(|(digest, _)| digest).collect();
        let mut removed = Vec::new();
        for digest in digests {
            match self.remove(&digest, in_use) {
                Ok(()) => removed.push(digest),
                Err(ImageError::InUse { .. } | ImageError::NotStored(_)) => {}
                Err(error) => return Err(error),
            }
        }
        removed.sort();
        Ok(removed)
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.file_name())
    }

    fn temporary(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.file_name() + ".tmp")
    }

    fn prepare(&self) -> Result<(), ImageError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(ImageError::io("make", &self.path))?;
        let metadata = fs::metadata(&self.path).map_err(ImageError::io("look at", &self.path))?;
        if metadata.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))
                .map_err(ImageError::io("close to others", &self.path))?;
        }
        Ok(())
    }

    /// Digests of what is in the folder, with what follows them: nothing, `.tmp` or `.lock`.
    fn names(&self) -> Result<Vec<(Digest, String)>, ImageError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ImageError::io("list", &self.path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(ImageError::io("list", &self.path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (stem, suffix) = name.split_at(name.find('.').unwrap_or(name.len()));
            if let Some(digest) = Digest::from_file_name(stem) {
                names.push((digest, suffix.to_owned()));
            }
        }
        Ok(names)
    }

    /// A layer that is there, held; unpacked if it was not.
    fn layer(&self, layout: &Path, layer: &LayerBlob, limit: u64) -> Result<Held, ImageError> {
        loop {
            if let Some(held) = self.hold(&layer.digest, false)? {
                return Ok(held);
            }
            let _lock = self.lock(&layer.digest)?;
            // Whoever had the lock before may have made it.
            if let Some(held) = self.hold(&layer.digest, false)? {
                return Ok(held);
            }
            self.make(layout, layer, limit)?;
            if let Some(held) = self.hold(&layer.digest, true)? {
                return Ok(held);
            }
        }
    }

    /// A layer that is there and that nobody is about to remove.
    fn hold(&self, digest: &Digest, fresh: bool) -> Result<Option<Held>, ImageError> {
        let path = self.folder(digest);
        let Some(folder) = open_folder(&path)? else {
            return Ok(None);
        };
        if !flock(&folder, FlockOperation::NonBlockingLockShared, &path)? || !is_at(&folder, &path)? {
            return Ok(None);
        }
        let record = read_record(&path)?
            .ok_or_else(|| ImageError::io("read", path.join("layer.json"))(io::Error::from(io::ErrorKind::NotFound)))?;
        Ok(Some(Held { folder, record, fresh }))
    }

    /// Unpacks a layer; the caller has its lock.
    fn make(&self, layout: &Path, layer: &LayerBlob, limit: u64) -> Result<(), ImageError> {
        let temporary = self.temporary(&layer.digest);
        clear(&temporary)?;
        let made = self.fill(layout, layer, limit, &temporary);
        if made.is_err() {
            // The reason is the better thing to tell; whoever is next clears it, too.
            let _ = clear(&temporary);
        }
        made
    }

    fn fill(&self, layout: &Path, layer: &LayerBlob, limit: u64, temporary: &Path) -> Result<(), ImageError> {
        let blob = Blob::open(layout, &layer.digest, layer.size)?;
        let root = temporary.join("tree");
        for folder in [temporary, &root] {
            DirBuilder::new()
                .mode(0o755)
                .create(folder)
                .map_err(ImageError::io("make", folder))?;
            // The umask of this process is none of the image's business.
            fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(ImageError::io("make", folder))?;
        }
        let unpacker = Unpacker::current();
        let tree = Layer::begin(&root, &temporary.join("times"), unpacker).map_err(ImageError::io("open", &root))?;
        let archive = Archive::new(blob, layer.compression, limit);
        let (Totals { blob, diff_id, bytes }, unpacked) = self.read(archive, layer, tree)?;
        blob.verify()?;
        if diff_id != layer.diff_id {
            return Err(ImageError::DiffId {
                digest: layer.digest,
                diff_id: layer.diff_id,
            });
        }
        let Unpacked {
            entries,
            opaque_root,
            notes,
        } = unpacked;
        let record = LayerRecord {
            diff_id,
            bytes,
            entries,
            opaque_root,
            user_xattrs: unpacker != Unpacker::Root,
            notes,
        };
        let path = temporary.join("layer.json");
        let text =
            serde_json::to_vec(&record).map_err(|error| ImageError::io("write", &path)(io::Error::other(error)))?;
        fs::write(&path, text).map_err(ImageError::io("write", &path))?;
        // The name must not be on disk before everything below it; a sync for each file would take minutes.
        let store = File::open(&self.path).map_err(ImageError::io("open", &self.path))?;
        rustix::fs::syncfs(&store).map_err(ImageError::io("sync", &self.path))?;
        let path = self.folder(&layer.digest);
        fs::rename(temporary, &path).map_err(ImageError::io("rename", temporary))?;
        store.sync_all().map_err(ImageError::io("sync", &self.path))
    }

    fn read(&self, archive: Archive, layer: &LayerBlob, mut tree: Layer) -> Result<(Totals, Unpacked), ImageError> {
        let digest = layer.digest;
        let mut tape = Tape::new(archive);
        // The archive's own troubles are told as the blob's where that is not what it should be.
        let failed = |tape: Tape<Archive>, reason: String| {
            let archive = tape.into_source();
            if archive.exceeded() {
                let limit = self.max_image_bytes;
                return ImageError::TooLarge { digest, limit };
            }
            match archive.totals().blob.verify() {
                Ok(()) => ImageError::Archive { digest, reason },
                Err(error) => error,
            }
        };
        let refused = |name: String, source: EntryError| ImageError::Entry { digest, name, source };
        loop {
            let next = match tape.next() {
                Ok(next) => next,
                Err(error) => return Err(failed(tape, error.to_string())),
            };
            let Some(entry) = next else { break };
            if let Err(error) = tape.source_mut().expect(entry.size) {
                return Err(failed(tape, error.to_string()));
            }
            match tree.entry(&entry, &mut tape) {
                Ok(()) => {}
                Err(Failure::Entry(error)) => return Err(refused(entry.printable(), error)),
                Err(Failure::Archive(error)) => {
                    let text = TapeError::from(error).to_string();
                    return Err(failed(tape, format!("{:?}: {text}", entry.printable())));
                }
            }
        }
        // What follows the end of the archive belongs to the diff id.
        if let Err(error) = io::copy(tape.source_mut(), &mut io::sink()) {
            return Err(failed(tape, error.to_string()));
        }
        let unpacked = tree.finish().map_err(|error| refused(".".to_owned(), error))?;
        Ok((tape.into_source().totals(), unpacked))
    }

    /// Waits until nobody makes or removes this layer.
    fn lock(&self, digest: &Digest) -> Result<LayerLock, ImageError> {
        loop {
            if let Some(lock) = self.take_lock(digest, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// `None`: somebody does.
    fn try_lock(&self, digest: &Digest) -> Result<Option<LayerLock>, ImageError> {
        self.take_lock(digest, FlockOperation::NonBlockingLockExclusive)
    }

    fn take_lock(&self, digest: &Digest, operation: FlockOperation) -> Result<Option<LayerLock>, ImageError> {
        let path = self.path.join(digest.file_name() + ".lock");
        loop {
            let file = match OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => file,
                // No store yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ImageError::NotStored(*digest)),
                Err(error) => return Err(ImageError::io("open", path)(error)),
            };
            if !flock(&file, operation, &path)? {
                return Ok(None);
            }
            // Else the one who had it before has removed the file, and another may be locked by now.
            if is_at(&file, &path)? {
                return Ok(Some(LayerLock { path, _file: file }));
            }
        }
    }
}

/// A lock on the making and removing of one layer.
struct LayerLock {
    path: PathBuf,
    _file: File,
}

impl Drop for LayerLock {
    fn drop(&mut self) {
        // While it is still held: whoever waits for it sees that it is gone and makes a new one.
        let _ = fs::remove_file(&self.path);
    }
}

/// False: somebody else has it.
fn flock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool, ImageError> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(ImageError::io("lock", path)(error)),
        }
    }
}

/// Whether `path` is still what `file` is open on.
fn is_at(file: &File, path: &Path) -> Result<bool, ImageError> {
    let open = file.metadata().map_err(ImageError::io("look at", path))?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("look at", path)(error)),
    }
}

fn open_folder(path: &Path) -> Result<Option<File>, ImageError> {
    match File::open(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("open", path)(error)),
    }
}

/// `None`: the layer is not there.
fn read_record(folder: &Path) -> Result<Option<LayerRecord>, ImageError> {
    let path = folder.join("layer.json");
    let bytes = match blob::document(&path) {
        Ok(bytes) => bytes,
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ImageError::Malformed {
            what: "layer record",
            path,
            reason: error.to_string(),
        })
}

/// Removes a folder with everything in it; true if it was there.
fn clear(path: &Path) -> Result<bool, ImageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("remove", path)(error)),
    }
}
