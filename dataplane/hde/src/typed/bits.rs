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
    held: u64,
    bits: u32,
}

impl<'a> BitReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, held: 0, bits: 0 }
    }

    /// The next `bits` bits, at most 61; None at the end.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> Option<u64> {
        if bits <= self.bits {
            let value = self.held & mask(bits);
            self.held >>= bits;
            self.bits -= bits;
            return Some(value);
        }
        self.refill(bits)
    }

    fn refill(&mut self, bits: u32) -> Option<u64> {
        let mut word = [0; 8];
        let length = self.bytes.len().min(8);
        word[..length].copy_from_slice(&self.bytes[..length]);
        self.bytes = &self.bytes[length..];
        let (more, word) = (u32::try_from(length * 8).unwrap_or(0), u64::from_le_bytes(word));
        let missing = bits - self.bits;
        if missing > more {
            return None;
        }
        let value = self.held | (word & mask(missing)) << self.bits;
        self.held = word.checked_shr(missing).unwrap_or(0);
        self.bits = more - missing;
        Some(value)
    }

    /// Whether nothing but less than a byte of zeros is left.
    pub(super) const fn is_at_end(&self) -> bool {
        self.bytes.is_empty() && self.bits < 8 && self.held == 0
    }
}

const fn mask(bits: u32) -> u64 {
    // At most 63.
    (1 << bits) - 1
}
