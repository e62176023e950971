//! A range coder over bits whose probabilities follow what was met: of no use for much data, and the best there is for a few thousand
//! numbers of many kinds.

/// How likely a 0 is, as two estimates that follow what was met, one quickly and one slowly; their mean is used.
#[derive(Clone, Copy, Debug)]
pub struct Bit {
    quick: u16,
    slow: u16,
    /// How often it was met, up to [`MOST_MET`].
    met: u16,
}

/// An estimate moves by 1 / 2^n of what it was wrong by, where n is the binary logarithm of how often the bit was met (and three times
/// more), but at most this.
const QUICK: u32 = 4;
const SLOW: u32 = 7;
const MOST_MET: u16 = (1 << SLOW) - MET_BEFORE;
const MET_BEFORE: u16 = 3;
/// Below this a range takes one more byte.
const LEAST_RANGE: u32 = 1 << 24;
/// An encoder leaves out as many zeros at its end.
const ZEROS_LEFT_OUT: usize = 3;
/// Bits without a model go in parts of at most so many.
const RAW_PART: u32 = 16;

impl Bit {
    /// Nothing was met.
    pub const NEW: Self = Self { quick: 1 << 15, slow: 1 << 15, met: 0 };

    /// The part of a range that is a 0; above 0 and below the range.
    const fn zero(self, range: u32) -> u32 {
        let both = (self.quick as u32 + self.slow as u32) >> 1;
        (range >> 16) * both
    }

    const fn learn(&mut self, bit: bool) {
        let rate = (self.met + MET_BEFORE).ilog2();
        let quick = if rate < QUICK { rate } else { QUICK };
        self.met += (self.met < MOST_MET) as u16;
        if bit {
            self.quick -= self.quick >> quick;
            self.slow -= self.slow >> rate;
        } else {
            self.quick += (u16::MAX - self.quick) >> quick;
            self.slow += (u16::MAX - self.slow) >> rate;
        }
    }
}

/// Writes or reads: what is written is given back, what is read does not depend on what is given.
pub trait Coder {
    /// A bit by its model.
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool;

    /// The low `bits` bits of `value`, at most 60, each as likely 0 as 1.
    fn raw(&mut self, value: u64, bits: u32) -> u64;

    /// A number below 2^`BITS` by a tree of models, `SIZE` of them, which is 2^`BITS`.
    fn tree<const BITS: u32, const SIZE: usize>(&mut self, models: &mut [Bit; SIZE], value: usize) -> usize {
        let mut node = 1;
        for at in (0..BITS).rev() {
            let bit = self.bit(&mut models[node % SIZE], value >> at & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        node % SIZE
    }
}

/// Writes.
#[derive(Clone, Debug)]
pub struct RangeEncoder {
    bytes: Vec<u8>,
    low: u32,
    range: u32,
}

impl Default for RangeEncoder {
    fn default() -> Self {
        Self { bytes: Vec::new(), low: 0, range: u32::MAX }
    }
}

impl RangeEncoder {
    /// Begins anew, in the memory that there is.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.low, self.range) = (0, u32::MAX);
    }

    /// Ends; what was written.
    pub fn finish(&mut self) -> &[u8] {
        // The range is longer than this, so one byte says where in it, with zeros behind.
        self.add(LEAST_RANGE - 1);
        let [.., high] = self.low.to_le_bytes();
        self.bytes.push(high);
        &self.bytes
    }

    fn add(&mut self, part: u32) {
        let (low, carry) = self.low.overflowing_add(part);
        self.low = low;
        if carry {
            for byte in self.bytes.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
        }
    }

    fn shift(&mut self) {
        while self.range < LEAST_RANGE {
            let [.., high] = self.low.to_le_bytes();
            self.bytes.push(high);
            self.low <<= 8;
            self.range <<= 8;
        }
    }
}

impl Coder for RangeEncoder {
    #[inline]
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool {
        let zero = model.zero(self.range);
        if bit {
            self.add(zero);
            self.range -= zero;
        } else {
            self.range = zero;
        }
        model.learn(bit);
        self.shift();
        bit
    }

    fn raw(&mut self, value: u64, mut bits: u32) -> u64 {
        while bits > 0 {
            let part = bits.min(RAW_PART);
            bits -= part;
            let [low, high, ..] = (value >> bits).to_le_bytes();
            let digits = u32::from(u16::from_le_bytes([low, high])) & ((1 << part) - 1);
            self.range >>= part;
            self.add(digits * self.range);
            self.shift();
        }
        value
    }
}

/// Reads any bytes; behind their end it reads zeros.
#[derive(Clone, Debug)]
pub struct RangeDecoder<'a> {
    bytes: &'a [u8],
    /// Of the next byte, also behind the end.
    next: usize,
    code: u32,
    range: u32,
}

impl<'a> RangeDecoder<'a> {
    /// Begins.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { bytes, next: 0, code: 0, range: u32::MAX };
        (0..4).for_each(|_| decoder.take());
        decoder
    }

    /// Whether all bytes were read: to be asked at the end.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.next == self.bytes.len() + ZEROS_LEFT_OUT
    }

    /// Whether no more was read than was written.
    #[must_use]
    pub const fn is_fed(&self) -> bool {
        self.next <= self.bytes.len() + ZEROS_LEFT_OUT
    }

    fn take(&mut self) {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        self.code = self.code << 8 | u32::from(byte);
    }

    fn shift(&mut self) {
        while self.range < LEAST_RANGE {
            self.take();
            self.range <<= 8;
        }
    }
}

impl Coder for RangeDecoder<'_> {
    #[inline]
    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        let zero = model.zero(self.range);
        let bit = self.code >= zero;
        if bit {
            self.code -= zero;
            self.range -= zero;
        } else {
            self.range = zero;
        }
        model.learn(bit);
        self.shift();
        bit
    }

    fn raw(&mut self, _: u64, mut bits: u32) -> u64 {
        let mut value = 0;
        while bits > 0 {
            let part = bits.min(RAW_PART);
            bits -= part;
            self.range >>= part;
            let digits = (self.code / self.range).min((1 << part) - 1);
            self.code -= digits * self.range;
            value = value << part | u64::from(digits);
            self.shift();
        }
        value
    }
}
