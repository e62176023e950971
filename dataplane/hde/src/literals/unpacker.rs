//! Makes compressed bytes whole, whatever they are.

use std::fmt;

use proto_wire::hde::{LiteralCodec, MAX_SEGMENT_BYTES};
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_frame_content_size};

/// The bytes do not make what was expected of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compressed bytes are damaged")]
pub(crate) struct Damaged;

/// Decompressors; one a thread.
#[derive(Default)]
pub(crate) struct Unpacker {
    zstd: Option<DCtx<'static>>,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    /// Contexts are made when they are needed.
    pub(crate) const fn new() -> Self {
        Self { zstd: None }
    }

    /// Fills `room` exactly. What is in it after an error is not said.
    pub(crate) fn unpack(
        &mut self,
        codec: LiteralCodec,
        packed: &[u8],
        prefix: &[u8],
        room: &mut [u8],
    ) -> Result<(), Damaged> {
        let most = usize::try_from(MAX_SEGMENT_BYTES).unwrap_or(usize::MAX);
        if packed.len() > most || room.len() > most {
            return Err(Damaged);
        }
        let made = match codec {
            LiteralCodec::Raw if packed.len() == room.len() => {
                room.copy_from_slice(packed);
                Some(room.len())
            }
            LiteralCodec::Raw => None,
            LiteralCodec::Zstd => self.zstd(packed, prefix, room),
            LiteralCodec::Lz4 => lz4_flex::block::decompress_into(packed, room).ok(),
            LiteralCodec::Snappy => match snap::raw::decompress_len(packed) {
                Ok(claimed) if claimed == room.len() => snap::raw::Decoder::new().decompress(packed, room).ok(),
                Ok(_) | Err(_) => None,
            },
        };
        if made == Some(room.len()) { Ok(()) } else { Err(Damaged) }
    }

    /// Whether `packed` is one frame and nothing else, which says that it makes `length` bytes: no room for a second meaning.
    pub(crate) fn is_frame_of(packed: &[u8], length: usize) -> bool {
        let claimed = get_frame_content_size(packed).ok().flatten();
        claimed.is_some_and(|claimed| u64::try_from(length) == Ok(claimed))
            && find_frame_compressed_size(packed) == Ok(packed.len())
    }

    /// One call over room that is there, so zstd allocates no window, whatever the frame claims.
    fn zstd(&mut self, packed: &[u8], prefix: &[u8], room: &mut [u8]) -> Option<usize> {
        if !Self::is_frame_of(packed, room.len()) {
            return None;
        }
        if prefix.is_empty() {
            if self.zstd.is_none() {
                self.zstd = DCtx::try_create();
            }
            return self.zstd.as_mut()?.decompress(room, packed).ok();
        }
        // A context may not outlive its prefix.
        let mut zstd = DCtx::try_create()?;
        zstd.ref_prefix(prefix).ok()?;
        zstd.decompress(room, packed).ok()
    }
}
