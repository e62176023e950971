//! Numbers of any size by models of bits.

use super::range::{Bit, Coder};

/// Larger binary logarithms follow as they are.
const LAST_LOG: u32 = 31;
/// Of numbers below 2^(this + 1) all bits have models …
const SMALL_LOG: u32 = 5;
/// … of larger ones so many below the highest.
const LEADING_BITS: u32 = 4;

/// 2^log models for each small logarithm, 2^[`LEADING_BITS`] for each other.
const DIGITS: usize = (2 << SMALL_LOG) + (31 - SMALL_LOG as usize) * (1 << LEADING_BITS);

/// The models of one kind of numbers, below 2^60.
#[derive(Clone, Debug)]
pub(super) struct Number {
    logs: [Bit; 32],
    /// By the logarithm, then by the bits so far.
    digits: [Bit; DIGITS],
}

impl Number {
    pub(super) const NEW: Self = Self { logs: [Bit::NEW; 32], digits: [Bit::NEW; DIGITS] };

    /// Writes `number`, or gives what is read.
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, number: u64) -> u64 {
        let one_more = number.saturating_add(1);
        let log = one_more.ilog2();
        let index = usize::try_from(log.min(LAST_LOG)).unwrap_or(0);
        let index = coder.tree::<5, 32>(&mut self.logs, index);
        let mut log_read = u32::try_from(index).unwrap_or(0);
        if log_read == LAST_LOG {
            let more = coder.raw(u64::from(log.saturating_sub(LAST_LOG)), 5);
            // At most 62.
            log_read += u32::try_from(more).unwrap_or(0);
        }
        let log = log_read;
        let (modelled, first) = if log <= SMALL_LOG {
            (log, 1 << log)
        } else {
            (LEADING_BITS, (2 << SMALL_LOG) + (index - 6) * (1 << LEADING_BITS))
        };
        let mut node = 1;
        for at in (log - modelled..log).rev() {
            let bit = coder.bit(&mut self.digits[first + node], one_more >> at & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        let rest = log - modelled;
        let low = coder.raw(one_more & ((1 << rest) - 1), rest);
        ((u64::try_from(node).unwrap_or(1) << rest) | low) - 1
    }
}
