//! From a blob to the archive in it.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::Digest;
use super::blob::Blob;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By a layer's media type: those of the image-spec (layer.md), and Docker's names for the same.
    pub(super) fn of(media_type: &str) -> Option<Compression> {
        Some(match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
            _ => return None,
        })
    }
}

const BUFFER_BYTES: usize = 64 << 10;

/// What is in a blob.
pub(super) enum Decompressed {
    None(BufReader<Blob>),
    Gzip(MultiGzDecoder<BufReader<Blob>>),
    Zstd(Box<Zstd<BufReader<Blob>>>),
}

impl Decompressed {
    pub(super) fn new(blob: Blob, compression: Compression) -> Decompressed {
        let blob = BufReader::with_capacity(BUFFER_BYTES, blob);
        match compression {
            Compression::None => Decompressed::None(blob),
            Compression::Gzip => Decompressed::Gzip(MultiGzDecoder::new(blob)),
            Compression::Zstd => Decompressed::Zstd(Box::new(Zstd::new(blob))),
        }
    }

    pub(super) fn into_blob(self) -> Blob {
        match self {
            Decompressed::None(blob) => blob.into_inner(),
            Decompressed::Gzip(decoder) => decoder.into_inner().into_inner(),
            Decompressed::Zstd(decoder) => decoder.source.into_inner(),
        }
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressed::None(blob) => blob.read(buffer),
            Decompressed::Gzip(decoder) => decoder.read(buffer),
            Decompressed::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Frames one after the other, skippable ones left out (RFC 8878, sections 3.1 and 3.1.2). A frame that wants a window above
/// the decoder's limit of 100 MB is refused before memory is taken.
pub(super) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Zstd<R> {
        Zstd {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
        if skipped != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                }
                let read = self.decoder.read(buffer)?;
                if read > 0 {
                    return Ok(read);
                }
                self.in_frame = false;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => self.in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    self.skip(length.into())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

/// The archive: counted, hashed, and ended with an error where there is too much of it.
pub(super) struct Archive {
    source: Decompressed,
    hasher: Sha256,
    read: u64,
    limit: u64,
    exceeded: bool,
}

/// What came out of an [`Archive`].
pub(super) struct Totals {
    pub blob: Blob,
    pub diff_id: Digest,
    pub bytes: u64,
}

impl Archive {
    pub(super) fn new(blob: Blob, compression: Compression, limit: u64) -> Archive {
        Archive {
            source: Decompressed::new(blob, compression),
            hasher: Sha256::new(),
            read: 0,
            limit,
            exceeded: false,
        }
    }

    /// Whether there was too much of it.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded
    }

    /// Told of an entry before it is read: one that claims more than may follow is not begun.
    pub(super) fn expect(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.limit - self.read {
            return Err(self.too_large());
        }
        Ok(())
    }

    pub(super) fn totals(self) -> Totals {
        Totals {
            blob: self.source.into_blob(),
            diff_id: Digest::finish(self.hasher),
            bytes: self.read,
        }
    }

    fn too_large(&mut self) -> io::Error {
        self.exceeded = true;
        io::Error::other("too many bytes")
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if read as u64 > self.limit - self.read {
            return Err(self.too_large());
        }
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn frames_follow_each_other_and_skippable_ones_are_left_out() {
        let long = vec![b'x'; 300_000];
        let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let stream = [
            frame(b"one "),
            skippable.clone(),
            frame(&long),
            frame(b""),
            frame(b" two"),
            skippable,
        ]
        .concat();
        let mut text = Vec::new();
        Zstd::new(&stream[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text, [b"one ", &long[..], b" two"].concat());
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let stream = frame(&(0..=255).cycle().take(5000).collect::<Vec<u8>>());
        for end in 1..stream.len() {
            let mut text = Vec::new();
            assert!(Zstd::new(&stream[..end]).read_to_end(&mut text).is_err(), "{end}");
        }
        let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &30_u32.to_le_bytes(), b"abc"].concat();
        assert!(Zstd::new(&skippable[..]).read_to_end(&mut Vec::new()).is_err());
    }
}
