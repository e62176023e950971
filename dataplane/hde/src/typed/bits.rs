//! Bits one after another, the low ones first.

/// Writes bits.
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    held: u64,
    bits: u32,
}

impl BitWriter {
    /// Writes into `bytes`, which are cleared.
    pub(super) fn new(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes, held: 0, bits: 0 }
    }

    /// The low `bits` bits of `value`, which has no others; at most 61.
    #[inline]
    pub(super) fn put(&mut self, value: u64, bits: u32) {
        self.held |= value << self.bits;
        let filled = self.bits + bits;
        if filled >= 64 {
            self.bytes.extend_from_slice(&self.held.to_le_bytes());
            // `self.bits` is above 0 here, as `bits` is below 64.
            self.held = value >> (64 - self.bits);
            self.bits = filled - 64;
        } else {
            self.bits = filled;
        }
    }

    /// All bytes, the last filled up with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let bytes = usize::try_from(self.bits.div_ceil(8)).unwrap_or(8);
        self.bytes.extend_from_slice(&self.held.to_le_bytes()[..bytes]);
        self.bytes
    }
}

/// Reads bits.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Of the next bit.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `bits` bits, at most 61; zeros behind the end, which [`Self::is_at_end`] then denies.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u64 {
        let (byte, shift) = (self.at >> 3, self.at & 7);
        self.at += usize::try_from(bits).unwrap_or(0);
        match self.bytes.get(byte..).and_then(<[u8]>::first_chunk::<8>) {
            Some(word) if bits <= 56 => u64::from_le_bytes(*word) >> shift & mask(bits),
            Some(_) | None => Self::take_slowly(self.bytes, byte, shift, bits),
        }
    }

    /// Near the end, or many bits.
    #[cold]
    fn take_slowly(bytes: &[u8], byte: usize, shift: usize, bits: u32) -> u64 {
        let mut word = [0; 16];
        let rest = bytes.get(byte..).unwrap_or_default();
        let length = rest.len().min(16);
        word[..length].copy_from_slice(&rest[..length]);
        let word = u128::from_le_bytes(word) >> shift & u128::from(mask(bits));
        u64::try_from(word).unwrap_or(0)
    }

    /// Whether nothing but less than a byte of zeros is left.
    pub(super) fn is_at_end(&self) -> bool {
        let last = self.bytes.last().copied().unwrap_or(0);
        self.at.div_ceil(8) == self.bytes.len() && (self.at & 7 == 0 || last >> (self.at & 7) == 0)
    }
}

const fn mask(bits: u32) -> u64 {
    // At most 61.
    (1 << bits) - 1
}
