//! A stream of bytes under a passphrase: Argon2id makes the key, the STREAM construction over XChaCha20-Poly1305 seals block by block.
//!
//! `magic ‖ memory, passes, lanes (u32 each) ‖ salt (16) ‖ nonce (19) ‖ check (32)`, then blocks of 64 KiB with a tag of 16 bytes each; the
//! last one is sealed as the last, so that a cut is found. The head is associated data of every block, so a change anywhere is found
//! at the latest in the block behind it. Both parts are RustCrypto's; nothing here is a construction of our own.

use std::io::{self, Read, Write};

use aead_stream::{DecryptorBE32, EncryptorBE32};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{
    digest::{Context, SHA256},
    rand,
};
use chacha20poly1305::XChaCha20Poly1305;
use zeroize::Zeroizing;

/// What a backup begins with, and what that of any version does.
const MAGIC: &[u8; 15] = b"dwcp-backup-v1\n";
const MAGIC_OF_ANY: &[u8] = b"dwcp-backup-v";

/// Bytes of a block before it is sealed.
const BLOCK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 19;
const CHECK_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + 3 * 4 + SALT_BYTES + NONCE_BYTES + CHECK_BYTES;

/// A head that asks for more is damaged: the key's cost is decided before anything is authenticated.
const MAX_COST: Cost = Cost { memory_kib: 1024 * 1024, passes: 32, lanes: 32 };

/// What guessing a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// RFC 9106, section 4: the recommendation for where memory is scarce. 64 MiB.
    pub(super) const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// Hardly any, for tests of everything but the passphrase.
    #[cfg(test)]
    pub(super) const NONE: Self = Self { memory_kib: 32, passes: 1, lanes: 1 };
}

/// Why a file cannot be opened, or read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Something else.
    #[error("it is not a backup of dwcp-control-plane")]
    NotABackup,
    /// Of another form.
    #[error("it is a backup of a newer form: restore it with the program that made it, or a newer one")]
    OtherForm,
    /// Not this passphrase.
    #[error("the passphrase is wrong (or the first {HEAD_BYTES} bytes of the file are damaged)")]
    Passphrase,
    /// Changed or cut.
    #[error("it is damaged or cut short, at or behind byte {at}")]
    Damaged {
        /// Where the block begins that does not hold.
        at: u64,
    },
    /// The machine has not enough memory for the key.
    #[error("there is not enough memory to derive the key")]
    Memory,
    /// There is no randomness.
    #[error("the machine has no randomness")]
    NoRandomness,
}

impl From<SealedError> for io::Error {
    fn from(error: SealedError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

struct Key {
    cipher: Zeroizing<[u8; 32]>,
    check: [u8; CHECK_BYTES],
}

fn derive(passphrase: &[u8], salt: &[u8], cost: Cost) -> Result<Key, SealedError> {
    let params =
        Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(64)).map_err(|_bounds| SealedError::Passphrase)?;
    let mut both = Zeroizing::new([0; 64]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, both.as_mut_slice())
        .map_err(|_memory| SealedError::Memory)?;
    let (cipher, checked) = both.split_at(32);
    let mut key = Key { cipher: Zeroizing::new([0; 32]), check: [0; CHECK_BYTES] };
    key.cipher.copy_from_slice(cipher);
    // Says only whether the passphrase is the right one, and lets that be told apart from damage.
    let mut hash = Context::new(&SHA256);
    hash.update(b"dwcp backup passphrase check");
    hash.update(checked);
    key.check.copy_from_slice(hash.finish().as_ref());
    Ok(key)
}

/// Seals what is written to it. [`Self::finish`] must be called: without the last block nothing opens.
pub(super) struct SealedWriter<W> {
    out: W,
    stream: EncryptorBE32<XChaCha20Poly1305>,
    head: Vec<u8>,
    block: Vec<u8>,
}

impl<W: Write> SealedWriter<W> {
    /// Writes the head.
    pub(super) fn new(mut out: W, passphrase: &[u8], cost: Cost) -> io::Result<Self> {
        let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
        rand::fill(&mut salt)
            .and_then(|()| rand::fill(&mut nonce))
            .map_err(|_unspecified| SealedError::NoRandomness)?;
        let key = derive(passphrase, &salt, cost)?;
        let mut head = MAGIC.to_vec();
        for number in [cost.memory_kib, cost.passes, cost.lanes] {
            head.extend_from_slice(&number.to_be_bytes());
        }
        head.extend_from_slice(&salt);
        head.extend_from_slice(&nonce);
        head.extend_from_slice(&key.check);
        out.write_all(&head)?;
        let stream = EncryptorBE32::new(&(*key.cipher).into(), &nonce.into());
        Ok(Self { out, stream, head, block: Vec::with_capacity(BLOCK_BYTES + TAG_BYTES) })
    }

    /// Writes the last block.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.stream.encrypt_last_in_place(&self.head, &mut self.block).map_err(|_counter| too_long())?;
        self.out.write_all(&self.block)?;
        Ok(self.out)
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a backup has at most 256 TiB")
}

impl<W: Write> Write for SealedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full block waits for one more byte: it may be the last.
        if self.block.len() == BLOCK_BYTES && !bytes.is_empty() {
            self.stream.encrypt_next_in_place(&self.head, &mut self.block).map_err(|_counter| too_long())?;
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        let taken = bytes.get(..bytes.len().min(BLOCK_BYTES - self.block.len())).unwrap_or_default();
        self.block.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Opens a sealed stream, and gives out nothing that was not verified.
pub(super) struct SealedReader<R> {
    input: R,
    /// Gone after the last block.
    stream: Option<DecryptorBE32<XChaCha20Poly1305>>,
    head: Vec<u8>,
    /// The next block, still sealed: whether it is the last is known once one more byte was asked for.
    ahead: Vec<u8>,
    block: Vec<u8>,
    taken: usize,
    /// Where `ahead` begins in the file.
    at: u64,
}

impl<R: Read> SealedReader<R> {
    /// Reads the head, and whether the passphrase is the right one.
    pub(super) fn open(mut input: R, passphrase: &[u8]) -> io::Result<Self> {
        let head = read_up_to(&mut input, HEAD_BYTES)?;
        if !head.starts_with(MAGIC) {
            let other_form = head.starts_with(MAGIC_OF_ANY);
            return Err(if other_form { SealedError::OtherForm } else { SealedError::NotABackup }.into());
        }
        let (cost, salt, nonce, check) = parse_head(&head).ok_or(SealedError::Damaged { at: 0 })?;
        let key = derive(passphrase, &salt, cost)?;
        if key.check != check {
            return Err(SealedError::Passphrase.into());
        }
        let stream = DecryptorBE32::new(&(*key.cipher).into(), &nonce.into());
        let ahead = read_up_to(&mut input, BLOCK_BYTES + TAG_BYTES)?;
        let at = HEAD_BYTES as u64;
        Ok(Self { input, stream: Some(stream), head, ahead, block: Vec::new(), taken: 0, at })
    }

    /// Opens the next block; false after the last.
    fn next_block(&mut self) -> io::Result<bool> {
        let Some(mut stream) = self.stream.take() else { return Ok(false) };
        let following = read_up_to(&mut self.input, BLOCK_BYTES + TAG_BYTES)?;
        let mut block = std::mem::replace(&mut self.ahead, following);
        let length = block.len() as u64;
        let damaged = SealedError::Damaged { at: self.at };
        if self.ahead.is_empty() {
            stream.decrypt_last_in_place(&self.head, &mut block).map_err(|_tag| damaged)?;
        } else {
            stream.decrypt_next_in_place(&self.head, &mut block).map_err(|_tag| damaged)?;
            self.stream = Some(stream);
        }
        self.at += length;
        (self.block, self.taken) = (block, 0);
        Ok(true)
    }
}

impl<R: Read> Read for SealedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let rest = self.block.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.taken += count;
        Ok(count)
    }
}

type Head = (Cost, [u8; SALT_BYTES], [u8; NONCE_BYTES], [u8; CHECK_BYTES]);

fn parse_head(head: &[u8]) -> Option<Head> {
    let (_magic, rest) = head.split_first_chunk::<{ MAGIC.len() }>()?;
    let (memory, rest) = rest.split_first_chunk::<4>()?;
    let (passes, rest) = rest.split_first_chunk::<4>()?;
    let (lanes, rest) = rest.split_first_chunk::<4>()?;
    let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let check = rest.first_chunk::<CHECK_BYTES>()?;
    let [memory_kib, passes, lanes] = [memory, passes, lanes].map(|bytes| u32::from_be_bytes(*bytes));
    let max = MAX_COST;
    let bounded = memory_kib <= max.memory_kib && passes <= max.passes && lanes <= max.lanes;
    bounded.then_some((Cost { memory_kib, passes, lanes }, *salt, *nonce, *check))
}

/// Up to `count` bytes; fewer only at the end.
fn read_up_to(input: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    input.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file begins as a backup does.
pub(super) fn looks_like_a_backup(input: &mut impl Read) -> io::Result<bool> {
    Ok(read_up_to(input, MAGIC_OF_ANY.len())? == MAGIC_OF_ANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(plain: &[u8]) -> Vec<u8> {
        let mut writer = SealedWriter::new(Vec::new(), b"correct horse", Cost::NONE).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    fn open(sealed: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, SealedError> {
        let mut plain = Vec::new();
        let read = SealedReader::open(sealed, passphrase).and_then(|mut reader| reader.read_to_end(&mut plain));
        let inner = |error: io::Error| *error.get_ref().unwrap().downcast_ref::<SealedError>().unwrap();
        read.map_err(inner).map(|_count| plain)
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_passphrase_alone() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES] {
            let plain: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let sealed = seal(&plain);
            assert_eq!(open(&sealed, b"correct horse"), Ok(plain));
            assert_eq!(open(&sealed, b"correct horse "), Err(SealedError::Passphrase));
        }
    }

    #[test]
    fn a_changed_byte_and_a_cut_are_found_wherever_they_are() {
        let sealed = seal(&vec![7; 2 * BLOCK_BYTES + 100]);
        let around = |place: usize| place.saturating_sub(3)..place + 3;
        let second = HEAD_BYTES + BLOCK_BYTES + TAG_BYTES;
        let places = (0..HEAD_BYTES + 40).chain(around(second)).chain(around(2 * second - HEAD_BYTES));
        for place in places.chain([sealed.len() / 2, sealed.len() - 17, sealed.len() - 1]) {
            for bit in [1, 0x80] {
                let mut changed = sealed.clone();
                changed[place] ^= bit;
                assert!(open(&changed, b"correct horse").is_err(), "byte {place}");
            }
            assert!(open(&sealed[..place], b"correct horse").is_err(), "cut to {place}");
        }
        assert!(open(&[sealed.as_slice(), b"x"].concat(), b"correct horse").is_err(), "something behind it");
        // Whole blocks taken away, exchanged, or put in twice.
        let blocks: Vec<_> = sealed[HEAD_BYTES..].chunks(BLOCK_BYTES + TAG_BYTES).collect();
        for order in [&[0, 1][..], &[0], &[1, 2], &[1, 0, 2], &[0, 0, 1, 2], &[0, 2]] {
            let rest: Vec<_> = order.iter().map(|at| blocks[*at]).collect();
            let changed = [&sealed[..HEAD_BYTES], &rest.concat()].concat();
            assert!(matches!(open(&changed, b"correct horse"), Err(SealedError::Damaged { .. })), "{order:?}");
        }
        assert_eq!(open(b"#!/bin/sh", b"x"), Err(SealedError::NotABackup));
        assert_eq!(open(b"dwcp-backup-v2\nand so on", b"x"), Err(SealedError::OtherForm));
    }
}
