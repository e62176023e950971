//! What lies under the seal: named parts, one behind the other, compressed, each closed with its length and digest.
//!
//! A frame is `kind (1) ‖ length (u32) ‖ bytes`: `P` begins a part by its name, `D` has bytes of it, `E` ends it with its length (u64) and
//! SHA-256; `Z` ends the archive with the SHA-256 over all the parts' names and digests. Bounded memory at both ends.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};

use super::sealed::{Cost, SealedReader, SealedWriter};

/// Bytes of one frame: written in these, and no larger one is read.
const FRAME_BYTES: usize = 64 * 1024;

/// Parts' names are short words.
const MAX_NAME_BYTES: usize = 128;

const PART: u8 = b'P';
const DATA: u8 = b'D';
const END: u8 = b'E';
const LAST: u8 = b'Z';

/// Why the parts cannot be read, though the seal holds: the program that wrote them was a faulty one.
#[derive(Debug, thiserror::Error)]
#[error("its contents are not as they should be: {0}")]
pub struct ArchiveError(&'static str);

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, ArchiveError(what))
}

/// A part that is written or read.
struct Part {
    name: String,
    length: u64,
    hash: Context,
}

impl Part {
    fn new(name: String) -> Self {
        Self { name, length: 0, hash: Context::new(&SHA256) }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// Length and digest; enters it into the sum over all.
    fn close(self, all: &mut Context) -> [u8; 40] {
        let digest = self.hash.finish();
        all.update(self.name.as_bytes());
        all.update(digest.as_ref());
        let mut end = [0; 40];
        let (length, hash) = end.split_at_mut(8);
        length.copy_from_slice(&self.length.to_be_bytes());
        hash.copy_from_slice(digest.as_ref());
        end
    }
}

/// Writes parts.
pub(super) struct ArchiveWriter<W: Write> {
    out: ZlibEncoder<SealedWriter<W>>,
    part: Option<Part>,
    all: Context,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins a sealed file.
    pub(super) fn new(out: W, passphrase: &[u8], cost: Cost) -> io::Result<Self> {
        let out = ZlibEncoder::new(SealedWriter::new(out, passphrase, cost)?, Compression::default());
        Ok(Self { out, part: None, all: Context::new(&SHA256) })
    }

    /// Ends the part before, and begins one.
    pub(super) fn part(&mut self, name: &str) -> io::Result<()> {
        self.end_part()?;
        self.frame(PART, name.as_bytes())?;
        self.part = Some(Part::new(name.to_owned()));
        Ok(())
    }

    /// Bytes of the present part.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(FRAME_BYTES) {
            self.frame(DATA, piece)?;
            if let Some(part) = &mut self.part {
                part.add(piece);
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.end_part()?;
        let all = self.all.clone().finish();
        self.frame(LAST, all.as_ref())?;
        self.out.finish()?.finish()
    }

    fn end_part(&mut self) -> io::Result<()> {
        match self.part.take() {
            Some(part) => {
                let end = part.close(&mut self.all);
                self.frame(END, &end)
            }
            None => Ok(()),
        }
    }

    fn frame(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_length| wrong("a frame is too long"))?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(bytes)
    }
}

/// What comes next of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A part begins.
    Part(String),
    /// Bytes of it.
    Data(Vec<u8>),
    /// It was whole.
    End {
        /// Its length.
        length: u64,
    },
    /// All was.
    Last,
}

/// Reads parts, each verified before its [`Next::End`] is given out.
pub(super) struct ArchiveReader<R: Read> {
    input: ZlibDecoder<SealedReader<R>>,
    part: Option<Part>,
    all: Context,
}

impl<R: Read> ArchiveReader<R> {
    /// Opens a sealed file.
    pub(super) fn open(input: R, passphrase: &[u8]) -> io::Result<Self> {
        let input = ZlibDecoder::new(SealedReader::open(input, passphrase)?);
        Ok(Self { input, part: None, all: Context::new(&SHA256) })
    }

    /// The next frame, checked. After [`Next::Last`] the file itself is at its end.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let mut head = [0; 5];
        self.input.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES {
            return Err(wrong("a frame is too long"));
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        match (kind, self.part.take()) {
            (PART, None) if length <= MAX_NAME_BYTES => {
                let name = String::from_utf8(bytes).map_err(|_bytes| wrong("a part's name is no text"))?;
                self.part = Some(Part::new(name.clone()));
                Ok(Next::Part(name))
            }
            (DATA, Some(mut part)) => {
                part.add(&bytes);
                self.part = Some(part);
                Ok(Next::Data(bytes))
            }
            (END, Some(part)) => {
                let length = part.length;
                let whole = part.close(&mut self.all).as_slice() == bytes;
                if whole { Ok(Next::End { length }) } else { Err(wrong("a part's digest differs")) }
            }
            (LAST, None) => self.last(&bytes),
            _ => Err(wrong("frames are not in order")),
        }
    }

    fn last(&mut self, digest: &[u8]) -> io::Result<Next> {
        if self.all.clone().finish().as_ref() != digest {
            return Err(wrong("the digest over all parts differs"));
        }
        // Reads to the end of the file: its last block says that it is the last.
        match self.input.read(&mut [0])? {
            0 if io::copy(self.input.get_mut(), &mut io::sink())? == 0 => Ok(Next::Last),
            _ => Err(wrong("something follows its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_out_as_they_went_in() {
        let mut writer = ArchiveWriter::new(Vec::new(), b"p", Cost::NONE).unwrap();
        writer.part("a").unwrap();
        writer.data(&[1; 3 * FRAME_BYTES + 1]).unwrap();
        writer.part("empty").unwrap();
        let file = writer.finish().unwrap();
        assert!(file.len() < FRAME_BYTES, "compressed");
        let mut reader = ArchiveReader::open(file.as_slice(), b"p").unwrap();
        let mut seen = Vec::new();
        loop {
            match reader.next().unwrap() {
                Next::Part(name) => seen.push(name),
                Next::Data(bytes) => assert!(bytes.iter().all(|byte| *byte == 1)),
                Next::End { length } => seen.push(length.to_string()),
                Next::Last => break,
            }
        }
        assert_eq!(seen, ["a", "196609", "empty", "0"]);
    }

    #[test]
    fn no_byte_of_a_file_can_be_changed_or_left_out() {
        let mut writer = ArchiveWriter::new(Vec::new(), b"p", Cost::NONE).unwrap();
        writer.part("a").unwrap();
        writer.data(b"some text, some text, some text").unwrap();
        let file = writer.finish().unwrap();
        let read_all = |file: &[u8]| -> io::Result<()> {
            let mut reader = ArchiveReader::open(file, b"p")?;
            while reader.next()? != Next::Last {}
            Ok(())
        };
        read_all(&file).unwrap();
        for place in 0..file.len() {
            let mut changed = file.clone();
            changed[place] ^= 0x10;
            assert!(read_all(&changed).is_err(), "byte {place}");
            assert!(read_all(&file[..place]).is_err(), "cut to {place}");
        }
        assert!(read_all(&[&file[..], b"more"].concat()).is_err());
    }
}
