//! Entries of a tar archive, one after the other: ustar and pax (POSIX.1-2017, pax(1)), and GNU's long names and binary numbers
//! (tar(5)). What describes an entry has a limit, so that no archive makes us take memory; that is why this is not left to the
//! `tar` package, which reads long names and attributes whole.

use std::io::{self, Read};

use rustix::fs::Timespec;
use thiserror::Error;

const BLOCK: usize = 512;

/// Long names and pax records of one entry. The kernel's limits are 4 KiB for a path and 64 KiB for an attribute.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;

/// Why an archive cannot be read on.
#[derive(Debug, Error)]
pub(super) enum TapeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the archive ends within an entry")]
    Truncated,
    #[error("{0}")]
    Malformed(String),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Device,
    Folder,
    Fifo,
}

/// An entry without its content.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub kind: Kind,
    pub name: Vec<u8>,
    /// Of links.
    pub target: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timespec,
    /// Of files.
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// For messages.
    pub(super) fn printable(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// An archive. Read gives the content of the entry that was told last.
pub(super) struct Tape<R> {
    source: R,
    content: u64,
    padding: u64,
}

/// What precedes an entry and goes over its header.
#[derive(Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    size: Option<u64>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Tape<R> {
    pub(super) fn new(source: R) -> Tape<R> {
        Tape {
            source,
            content: 0,
            padding: 0,
        }
    }

    pub(super) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    pub(super) fn into_source(self) -> R {
        self.source
    }

    /// The next entry; what was not read of the last one is passed over. `None` at the end, which is a block of zeroes or the end
    /// of the source.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TapeError> {
        let mut pax = Overrides::default();
        let mut gnu = Overrides::default();
        let mut described = 0;
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number(&header[124..136], "size")?;
            match header[156] {
                b'x' => read_pax(&self.description(size, &mut described)?, &mut pax)?,
                b'L' => gnu.name = Some(until_nul(&self.description(size, &mut described)?).to_vec()),
                b'K' => gnu.target = Some(until_nul(&self.description(size, &mut described)?).to_vec()),
                // A comment for the whole archive.
                b'g' => self.begin(size),
                flag => return self.entry(&header, flag, size, pax, gnu).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        flag: u8,
        size: u64,
        pax: Overrides,
        gnu: Overrides,
    ) -> Result<Entry, TapeError> {
        let name = pax.name.or(gnu.name).unwrap_or_else(|| header_name(header));
        let kind = match flag {
            0 if name.ends_with(b"/") => Kind::Folder,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            b'S' => {
                return Err(malformed(format!(
                    "{:?} is a sparse file",
                    String::from_utf8_lossy(&name)
                )));
            }
            other => {
                let name = String::from_utf8_lossy(&name);
                return Err(malformed(format!(
                    "{name:?} is of the unknown type {:?}",
                    other as char
                )));
            }
        };
        // As in Go's archive/tar, with which images are written, only files have content.
        let size = match kind {
            Kind::File => pax.size.unwrap_or(size),
            Kind::HardLink | Kind::Symlink | Kind::Device | Kind::Folder | Kind::Fifo => 0,
        };
        self.begin(size);
        let id = |pax: Option<u64>, field: &[u8], what| {
            let id = pax.map_or_else(|| number(field, what), Ok)?;
            // The highest means "leave it" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| malformed(format!("{what} {id} of {:?} is no id", String::from_utf8_lossy(&name))))
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => seconds(number(&header[136..148], "mtime")?)?,
        };
        Ok(Entry {
            kind,
            target: pax
                .target
                .or(gnu.target)
                .unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            mode: (number(&header[100..108], "mode")? & 0o7777) as u32,
            uid: id(pax.uid, &header[108..116], "uid")?,
            gid: id(pax.gid, &header[116..124], "gid")?,
            mtime,
            size,
            xattrs: pax.xattrs,
            name,
        })
    }

    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn pass_over(&mut self) -> Result<(), TapeError> {
        for left in [self.content, self.padding] {
            if io::copy(&mut (&mut self.source).take(left), &mut io::sink())? != left {
                return Err(TapeError::Truncated);
            }
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TapeError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TapeError::Truncated),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u64 = (0..BLOCK)
            .map(|at| if (148..156).contains(&at) { b' ' } else { block[at] })
            .map(u64::from)
            .sum();
        if !number(&block[148..156], "checksum").is_ok_and(|told| told == sum) {
            return Err(malformed(
                "a header has a wrong checksum: not a tar archive, or a damaged one".into(),
            ));
        }
        Ok(Some(block))
    }

    fn description(&mut self, size: u64, described: &mut u64) -> Result<Vec<u8>, TapeError> {
        *described = described.saturating_add(size);
        if *described > MAX_DESCRIPTION_BYTES {
            return Err(malformed(format!(
                "an entry is described by more than {MAX_DESCRIPTION_BYTES} bytes"
            )));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        let read = self.source.read(&mut buffer[..length])?;
        if read == 0 && length > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, TapeError::Truncated));
        }
        self.content -= read as u64;
        Ok(read)
    }
}

fn malformed(reason: String) -> TapeError {
    TapeError::Malformed(reason)
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn header_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    // GNU's own format has other things in the place of the prefix.
    let prefix = if &header[257..263] == b"ustar\0" {
        until_nul(&header[345..500])
    } else {
        b""
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// Octal digits, or big-endian bytes after a byte of 0x80.
fn number(field: &[u8], what: &str) -> Result<u64, TapeError> {
    let bad = || malformed(format!("a header has a bad {what}"));
    if field[0] & 0x80 != 0 {
        // 0xff begins a negative number.
        if field[0] != 0x80 {
            return Err(bad());
        }
        let (high, low) = field[1..].split_at((field.len() - 1).saturating_sub(8));
        if high.iter().any(|byte| *byte != 0) {
            return Err(bad());
        }
        return Ok(low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number
            .checked_mul(8)
            .map(|number| number + u64::from(digit - b'0'))
            .ok_or_else(bad),
        _ => Err(bad()),
    })
}

fn seconds(number: u64) -> Result<Timespec, TapeError> {
    Ok(Timespec {
        tv_sec: i64::try_from(number).map_err(|_| malformed("a header has a bad mtime".into()))?,
        tv_nsec: 0,
    })
}

/// Records of the form `LENGTH KEY=VALUE\n`; a value may have any bytes in it. What is not known is passed over.
fn read_pax(mut records: &[u8], overrides: &mut Overrides) -> Result<(), TapeError> {
    let bad = || malformed("a pax record is malformed".into());
    // Some writers fill up with zeroes.
    while !until_nul(records).is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize = decimal(&records[..space])
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(bad)?;
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &records[space + 1..length - 1];
        records = &records[length..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let known = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let bad_value = || malformed(format!("pax record {:?} has a bad value", known(key)));
        let number = || match value {
            // An empty value takes an earlier record back.
            b"" => Ok(None),
            digits => decimal(digits).map(Some).ok_or_else(bad_value),
        };
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => overrides.name = text(),
            b"linkpath" => overrides.target = text(),
            b"uid" => overrides.uid = number()?,
            b"gid" => overrides.gid = number()?,
            b"size" => overrides.size = number()?,
            b"mtime" if value.is_empty() => overrides.mtime = None,
            b"mtime" => overrides.mtime = Some(timestamp(value).ok_or_else(bad_value)?),
            key if key.starts_with(b"GNU.sparse.") => return Err(malformed("it has sparse files".into())),
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    overrides.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds, with or without a sign and a fraction; what is finer than a nanosecond is cut off.
fn timestamp(text: &[u8]) -> Option<Timespec> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let whole = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec {
            tv_sec: whole,
            tv_nsec: nanoseconds,
        },
        (true, 0) => Timespec {
            tv_sec: -whole,
            tv_nsec: 0,
        },
        (true, _) => Timespec {
            tv_sec: -whole - 1,
            tv_nsec: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        header
    }

    fn entries(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TapeError> {
        let mut tape = Tape::new(archive);
        let mut entries = Vec::new();
        while let Some(entry) = tape.next()? {
            let mut content = Vec::new();
            tape.read_to_end(&mut content)?;
            entries.push((entry, content));
        }
        Ok(entries)
    }

    #[test]
    fn what_the_tar_package_writes_is_read_back() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append(&header(tar::EntryType::Regular, "a/file", 700), &[b'x'; 700][..])
            .unwrap();
        let mut gnu = tar::Header::new_gnu();
        gnu.set_entry_type(tar::EntryType::Symlink);
        gnu.set_size(0);
        gnu.set_uid(3_000_000_000);
        gnu.set_gid(0);
        gnu.set_mode(0o777);
        gnu.set_mtime(1 << 40);
        builder.append_link(&mut gnu, &long, &long).unwrap();
        builder
            .append_pax_extensions([
                ("path", "b\nc".as_bytes()),
                ("mtime", b"-1.5"),
                ("uid", b"70000"),
                ("SCHILY.xattr.user.raw", b"\n=\0 9 x=y\n"),
                ("SCHILY.xattr.user.none", b""),
                ("comment", b"whatever"),
            ])
            .unwrap();
        builder
            .append(&header(tar::EntryType::Fifo, "short", 0), io::empty())
            .unwrap();
        builder
            .append(&header(tar::EntryType::Directory, "after/", 0), io::empty())
            .unwrap();
        let entries = entries(&builder.into_inner().unwrap()).unwrap();
        let [(file, content), (link, _), (fifo, _), (after, _)] = entries.as_slice() else {
            panic!("{entries:?}");
        };
        assert_eq!((file.kind, file.name.as_slice()), (Kind::File, &b"a/file"[..]));
        assert_eq!((file.mode, file.uid, file.gid, file.size), (0o4755, 7, 8, 700));
        assert_eq!(
            (file.mtime.tv_sec, content.as_slice()),
            (1_000_000_000, &[b'x'; 700][..])
        );
        assert_eq!(
            (link.kind, link.uid, link.mtime.tv_sec),
            (Kind::Symlink, 3_000_000_000, 1 << 40)
        );
        assert_eq!(
            (link.name.as_slice(), link.target.as_slice()),
            (long.as_bytes(), long.as_bytes())
        );
        assert_eq!(
            (fifo.kind, fifo.name.as_slice(), fifo.uid),
            (Kind::Fifo, &b"b\nc"[..], 70000)
        );
        assert_eq!((fifo.mtime.tv_sec, fifo.mtime.tv_nsec), (-2, 500_000_000));
        assert_eq!(
            fifo.xattrs,
            [
                (b"user.raw".to_vec(), b"\n=\0 9 x=y\n".to_vec()),
                (b"user.none".to_vec(), Vec::new())
            ]
        );
        // Records are those of one entry.
        assert_eq!((after.kind, after.uid, after.xattrs.len()), (Kind::Folder, 7, 0));
    }

    #[test]
    fn an_archive_that_is_cut_anywhere_but_between_entries_is_an_error() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", &b"long"[..])]).unwrap();
        builder
            .append(&header(tar::EntryType::Regular, "x", 600), &[b'x'; 600][..])
            .unwrap();
        let archive = builder.into_inner().unwrap();
        let whole = archive.len() - 2 * BLOCK;
        assert_eq!(entries(&archive[..whole]).unwrap().len(), 1);
        for end in (1..whole).filter(|end| end % BLOCK != 0) {
            assert!(entries(&archive[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn no_description_takes_more_memory_than_allowed() {
        let claim = header(tar::EntryType::GNULongName, "x", 1 << 40);
        let error = entries(claim.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "an entry is described by more than 1048576 bytes");
        // Nor many of them together.
        let mut archive = Vec::new();
        for _ in 0..3 {
            archive.extend_from_slice(header(tar::EntryType::XHeader, "x", 1 << 19).as_bytes());
            archive.extend(vec![0; 1 << 19]);
        }
        assert_eq!(entries(&archive).unwrap_err().to_string(), error);
    }

    #[test]
    fn what_is_no_tar_archive_is_told_so() {
        let text = |archive: &[u8]| entries(archive).unwrap_err().to_string();
        assert!(text(&[b'x'; 1024]).contains("checksum"), "{}", text(&[b'x'; 1024]));
        let mut damaged = header(tar::EntryType::Regular, "x", 0);
        damaged.as_mut_bytes()[0] = b'y';
        assert!(text(damaged.as_bytes()).contains("wrong checksum"));
        assert_eq!(
            text(header(tar::EntryType::new(b'V'), "label", 0).as_bytes()),
            "\"label\" is of the unknown type 'V'"
        );
        assert_eq!(
            text(header(tar::EntryType::GNUSparse, "holes", 0).as_bytes()),
            "\"holes\" is a sparse file"
        );
        let mut ids = header(tar::EntryType::Regular, "x", 0);
        ids.set_uid(u64::from(u32::MAX));
        ids.set_cksum();
        assert_eq!(text(ids.as_bytes()), "uid 4294967295 of \"x\" is no id");
    }

    #[test]
    fn malformed_pax_records_are_errors() {
        for records in [
            "path=x\n",
            "99 path=x\n",
            "3 x",
            "0 \n",
            "7 path\n",
            "9 uid=-1\n",
            "11 mtime=x\n",
            "-1 a=b\n",
        ] {
            assert!(
                read_pax(records.as_bytes(), &mut Overrides::default()).is_err(),
                "{records:?}"
            );
        }
        let mut overrides = Overrides::default();
        read_pax(b"8 uid=5\n7 uid=\n10 path=x\n\0\0", &mut overrides).unwrap();
        assert_eq!((overrides.uid, overrides.name), (None, Some(b"x".to_vec())));
    }

    #[test]
    fn no_bytes_make_it_panic_or_read_on_forever() {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([("path", &b"long"[..]), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"y")])
            .unwrap();
        builder
            .append(&header(tar::EntryType::Regular, "x", 600), &[b'x'; 600][..])
            .unwrap();
        let good = builder.into_inner().unwrap();
        // xorshift: the same bytes in every run.
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        let mut read = [0, 0];
        for _ in 0..5_000 {
            let mut archive = good.clone();
            for _ in 0..3 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = (random >> 8) as usize % archive.len();
                archive[at] = random as u8;
                // A header with a good checksum is read further.
                let start = at / BLOCK * BLOCK;
                let mut block = tar::Header::from_byte_slice(&archive[start..start + BLOCK]).clone();
                if start != BLOCK {
                    block.set_cksum();
                }
                archive[start..start + BLOCK].copy_from_slice(block.as_bytes());
            }
            read[usize::from(entries(&archive).is_ok())] += 1;
        }
        assert!(read.iter().all(|count| *count > 100), "{read:?}");
    }

    #[test]
    fn times_before_the_epoch_and_fractions_are_read() {
        let of = |text: &[u8]| timestamp(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(of(b"12"), Some((12, 0)));
        assert_eq!(of(b"12.000000001999"), Some((12, 1)));
        assert_eq!(of(b"-0.25"), Some((-1, 750_000_000)));
        for text in [&b""[..], b".5", b"1.x", b"+1", b"--1", b"99999999999999999999"] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }
}
