//! Who runs a program: the `#!` line of a script, the `PT_INTERP` header of an ELF file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What the kernel reads of a file to see what it is (`BINPRM_BUF_SIZE`, linux/binfmts.h).
const HEAD: usize = 256;
/// `PATH_MAX`: the longest interpreter that the kernel takes (fs/binfmt_elf.c).
const LONGEST: u64 = 4096;
/// `e_phnum` that the kernel can take: 64 KiB of program headers of 32 bytes (fs/binfmt_elf.c).
const MOST_HEADERS: u64 = 65536 / 32;
/// `p_type` of the header that names the interpreter (elf(5)).
const PT_INTERP: u64 = 3;

/// As the file names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interpreter(Vec<u8>);

impl Interpreter {
    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The interpreter that a file names. `None` for a static program and for what is neither script nor ELF file, or a
/// broken one: there the kernel has the word (binfmt_misc may know it).
pub(super) fn of(file: &File) -> Option<Interpreter> {
    let head = read_at_most(file, 0, HEAD)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return of_script(line, head.len() == HEAD);
    }
    head.starts_with(b"\x7fELF").then(|| of_elf(file, &head)).flatten()
}

/// `load_script` in fs/binfmt_script.c: blanks, the path up to a blank or the end of the line; a path cut off at the
/// end of what the kernel reads is none.
fn of_script(line: &[u8], is_cut: bool) -> Option<Interpreter> {
    let end = line.iter().position(|byte| *byte == b'\n');
    let complete = end.is_some() || !is_cut;
    let line = &line[..end.unwrap_or(line.len())];
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !is_blank(byte))?;
    let path = &line[start..];
    let stop = path.iter().position(|byte| is_blank(byte) || *byte == 0);
    if stop.is_none() && !complete {
        return None;
    }
    let path = &path[..stop.unwrap_or(path.len())];
    (!path.is_empty()).then(|| Interpreter(path.to_vec()))
}

/// Positions of the fields that lead to the interpreter, from elf(5): offset and width.
struct Layout {
    phoff: (usize, usize),
    phentsize: usize,
    phnum: usize,
    p_offset: (usize, usize),
    p_filesz: (usize, usize),
    header: usize,
}

const ELF32: Layout = Layout {
    phoff: (28, 4),
    phentsize: 42,
    phnum: 44,
    p_offset: (4, 4),
    p_filesz: (16, 4),
    header: 32,
};
const ELF64: Layout = Layout {
    phoff: (32, 8),
    phentsize: 54,
    phnum: 56,
    p_offset: (8, 8),
    p_filesz: (32, 8),
    header: 56,
};

fn of_elf(file: &File, head: &[u8]) -> Option<Interpreter> {
    let layout = match head.get(4)? {
        1 => ELF32,
        2 => ELF64,
        _ => return None,
    };
    let is_big = match head.get(5)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let number = |bytes: &[u8], (offset, width): (usize, usize)| -> Option<u64> {
        let bytes = bytes.get(offset..offset + width)?;
        let append = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if is_big {
            bytes.iter().fold(0, append)
        } else {
            bytes.iter().rev().fold(0, append)
        })
    };
    let phoff = number(head, layout.phoff)?;
    let size = number(head, (layout.phentsize, 2))?;
    let count = number(head, (layout.phnum, 2))?;
    if size != layout.header as u64 || count > MOST_HEADERS {
        return None;
    }
    let headers = read_at_most(file, phoff, usize::try_from(count * size).ok()?)?;
    for header in headers.chunks(layout.header) {
        if number(header, (0, 4))? != PT_INTERP {
            continue;
        }
        let length = number(header, layout.p_filesz)?;
        if !(2..=LONGEST).contains(&length) {
            return None;
        }
        let path = read_at_most(file, number(header, layout.p_offset)?, usize::try_from(length).ok()?)?;
        let end = path.iter().position(|byte| *byte == 0)?;
        return (end > 0).then(|| Interpreter(path[..end].to_vec()));
    }
    None
}

/// `length` bytes at `offset`, fewer at the end of the file.
fn read_at_most(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset.checked_add(filled as u64)?) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    fn of_bytes(bytes: &[u8]) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        of(&file).map(|interpreter| String::from_utf8(interpreter.0).unwrap())
    }

    /// A 64-bit little-endian ELF file with one header before the one that names `interpreter`.
    pub(in crate::command) fn elf64(interpreter: &str) -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 2;
        file[64] = 1;
        file[64 + 56] = 3;
        file[64 + 56 + 8] = 64 + 2 * 56;
        file[64 + 56 + 32] = u8::try_from(interpreter.len() + 1).unwrap();
        file.extend_from_slice(interpreter.as_bytes());
        file.push(0);
        file
    }

    fn elf32_big(interpreter: &str) -> Vec<u8> {
        let mut file = vec![0; 52 + 32];
        file[..6].copy_from_slice(b"\x7fELF\x01\x02");
        file[31] = 52;
        file[43] = 32;
        file[45] = 1;
        file[52 + 3] = 3;
        file[52 + 7] = 84;
        file[52 + 19] = u8::try_from(interpreter.len() + 1).unwrap();
        file.extend_from_slice(interpreter.as_bytes());
        file.push(0);
        file
    }

    #[test]
    fn the_line_of_a_script_is_read_as_the_kernel_does() {
        let long = format!("#!/{}", "a".repeat(300));
        let long_argument = format!("#!/bin/sh {}", "a".repeat(300));
        let table: [(&[u8], Option<&str>); 13] = [
            (b"#!/bin/sh\necho", Some("/bin/sh")),
            (b"#! \t/bin/sh -e\n", Some("/bin/sh")),
            (b"#!/usr/bin/env python3\n", Some("/usr/bin/env")),
            (b"#!/bin/sh", Some("/bin/sh")),
            (b"#!/bin/sh\r\necho", Some("/bin/sh\r")),
            (b"#!bin/relative\n", Some("bin/relative")),
            (b"#!/bin/sh\0x\n", Some("/bin/sh")),
            (b"#!\n/bin/sh\n", None),
            (b"#!  \n", None),
            (b"#!", None),
            (b"#", None),
            (long.as_bytes(), None),
            (long_argument.as_bytes(), Some("/bin/sh")),
        ];
        for (bytes, expected) in table {
            assert_eq!(
                of_bytes(bytes).as_deref(),
                expected,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(of_bytes(b""), None);
        assert_eq!(of_bytes(b"echo no line\n"), None);
    }

    #[test]
    fn program_headers_are_read_in_both_widths_and_orders() {
        assert_eq!(of_bytes(&elf64("/lib/ld.so")).as_deref(), Some("/lib/ld.so"));
        assert_eq!(of_bytes(&elf32_big("/lib/ld.so")).as_deref(), Some("/lib/ld.so"));
        let mut without = elf64("/lib/ld.so");
        without[64 + 56] = 2;
        assert_eq!(of_bytes(&without), None);
    }

    #[test]
    fn an_elf_file_cut_off_anywhere_names_no_interpreter() {
        for whole in [elf64("/lib/ld.so"), elf32_big("/lib/ld.so")] {
            for length in 0..whole.len() {
                assert_eq!(of_bytes(&whole[..length]), None, "cut off after {length} bytes");
            }
        }
    }

    #[test]
    fn lying_headers_do_no_harm() {
        let lie = |offset: usize, bytes: &[u8]| {
            let mut file = elf64("/lib/ld.so");
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            of_bytes(&file)
        };
        assert_eq!(lie(4, &[3]), None, "an unknown class");
        assert_eq!(lie(5, &[0]), None, "an unknown order");
        assert_eq!(lie(32, &[0xff; 8]), None, "headers beyond every file");
        assert_eq!(lie(54, &[1, 0]), None, "headers of one byte");
        assert_eq!(lie(56, &[0xff; 2]), None, "too many headers");
        assert_eq!(lie(64 + 56 + 8, &[0xff; 8]), None, "an interpreter beyond every file");
        assert_eq!(lie(64 + 56 + 32, &[0xff; 8]), None, "an interpreter of every length");
        assert_eq!(lie(64 + 56 + 32, &[1]), None, "an interpreter without a name");
        assert_eq!(lie(64 + 112, &[0]), None, "an empty interpreter");
    }
}
