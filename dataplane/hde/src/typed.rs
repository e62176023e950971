//! Fixed-width numbers against those at the same place of a baseline, or alone: what neither copies nor zstd can make small.
//!
//! A trained model changes all of its weights a little. Each number becomes its difference from the old one, zigzagged (a subtraction: XOR
//! was measured to be 4 to 25 % larger); the difference becomes a symbol (its magnitude: the length and the two bits behind the first) and raw
//! bits. Symbols are coded by rANS, with a table for each exponent of the *old* number, as the decoder knows it: how many units of its last
//! place a number moves is a matter of its exponent. Unchanged numbers are symbols like others, so there is no mask. Without a
//! baseline the symbol is the number's own exponent.
//!
//! ```text
//! 0      bits 0 and 1: binary logarithm of the width (1 to 3); bit 2: alone; bit 3: tables also by whether the fourth number before changed
//! 1      phase: so many bytes stand before the first number, as they are
//!        those bytes, and the last ones that are no whole number
//!        tables (see `tables.rs`), words of rANS: their number LEB128, four states u32 LE, then u16 LE each; raw bits to the end
//! ```

mod bits;
mod coder;
mod number;
mod tables;

use std::fmt;

use proto_wire::hde::MAX_SEGMENT_BYTES;

use self::{
    bits::BitWriter,
    coder::{STATES, Scratch},
    number::Split,
    tables::Counts,
};
use crate::cost::Permille;

/// A sample is so many pieces …
const PIECES: usize = 16;
/// … of so many bytes.
const PIECE_BYTES: usize = 2 << 10;
/// What is shorter costs more in tables than it saves.
const MIN_BYTES: usize = 8 << 10;
/// Unless one of so many bytes stands unchanged at its place, old and new are not the same numbers.
const MIN_EQUAL: usize = 6;
/// What is estimated to keep more than this is not tried.
const WORTH: Permille = Permille(900);

/// How numbers stand in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 2, 4 or 8.
    width: usize,
    /// Bytes before the first number.
    phase: usize,
    /// What a sample keeps, by its order-0 entropy.
    pub kept: Permille,
}

/// The bytes are no encoding of the expected length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encoded numbers are damaged")]
pub struct DamagedNumbers;

/// Codes numbers; keeps its buffers: at most 7 MiB, one a thread.
#[derive(Default)]
pub struct Typed {
    scratch: Scratch,
}

impl fmt::Debug for Typed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Typed").finish_non_exhaustive()
    }
}

impl Typed {
    /// Whether `new` looks like numbers, and like the same numbers as `base`, which is as long, or empty; by a sample.
    #[must_use]
    pub fn sample(new: &[u8], base: &[u8]) -> Option<Layout> {
        if new.len() < MIN_BYTES || !(base.is_empty() || base.len() == new.len()) {
            return None;
        }
        let starts: Vec<usize> = (0..PIECES).map(|piece| (new.len() - PIECE_BYTES) / PIECES * piece / 8 * 8).collect();
        if !base.is_empty() {
            let equal = |start: &usize| {
                let (new, old) = (&new[*start..start + PIECE_BYTES], &base[*start..start + PIECE_BYTES]);
                new.iter().zip(old).filter(|(new, old)| new == old).count()
            };
            let equal: usize = starts.iter().map(equal).sum();
            // All equal: a copy is shorter.
            if equal < PIECES * PIECE_BYTES / MIN_EQUAL || equal == PIECES * PIECE_BYTES {
                return None;
            }
        }
        let layouts = [2, 4, 8].into_iter().flat_map(|width| (0..width).map(move |phase| (width, phase)));
        let estimated =
            layouts.map(|(width, phase)| Layout { width, phase, kept: estimate(new, base, &starts, width, phase) });
        estimated.min_by_key(|layout| layout.kept).filter(|layout| layout.kept <= WORTH)
    }

    /// Appends `new`, which is at most a segment, against `base`, which is as long, or empty. The output may be longer than `new`.
    pub fn encode(&mut self, new: &[u8], base: &[u8], layout: Layout, out: &mut Vec<u8>) {
        match layout.width {
            2 => self.encode_width::<2>(new, base, layout.phase, out),
            4 => self.encode_width::<4>(new, base, layout.phase, out),
            _ => self.encode_width::<8>(new, base, layout.phase, out),
        }
    }

    fn encode_width<const W: usize>(&mut self, new: &[u8], base: &[u8], phase: usize, out: &mut Vec<u8>) {
        let alone = base.is_empty();
        let (before, rest) = new.split_at(phase.min(new.len()));
        let (numbers, behind) = rest.as_chunks::<W>();
        let old = base.get(before.len()..).unwrap_or_default().as_chunks::<W>().0;
        let scratch = &mut self.scratch;
        scratch.symbols.clear();
        scratch.counts.get_or_insert_default().clear();
        let counts = scratch.counts.get_or_insert_default();
        let mut raw = BitWriter::new(std::mem::take(&mut scratch.raw));
        let (mut changed, mut at) = ([false; STATES], 0);
        let mut count = |split: Split, context: usize| {
            counts.add(context, changed[at % STATES], split.symbol);
            changed[at % STATES] = split.symbol != 0;
            at += 1;
            scratch.symbols.push(split.symbol);
            raw.put(split.rest, split.bits);
        };
        if alone {
            numbers.iter().for_each(|new| count(number::split_alone::<W>(*new), 0));
        } else {
            numbers.iter().zip(old).for_each(|(new, old)| count(number::split(*new, *old), number::context(*old)));
        }
        let tables = counts.tables();
        let flags = u8::from(alone) << 2 | u8::from(tables.by_change()) << 3;
        let width_log = u8::try_from(W.ilog2()).expect("at most 3");
        out.extend_from_slice(&[width_log | flags, u8::try_from(phase).expect("less than the width")]);
        out.extend_from_slice(before);
        out.extend_from_slice(behind);
        tables.write(out);
        coder::encode::<W>(&scratch.symbols, old, &tables, &mut scratch.words, out);
        scratch.raw = raw.finish();
        out.extend_from_slice(&scratch.raw);
    }

    /// Fills `room` from what [`Typed::encode`] made with the same `base`.
    ///
    /// # Errors
    /// On bytes that are no encoding of so many; what is in `room` then is not said. Another base of the same length makes other numbers.
    pub fn decode(&mut self, encoded: &[u8], base: &[u8], room: &mut [u8]) -> Result<(), DamagedNumbers> {
        let (&[how, phase], rest) = encoded.split_first_chunk::<2>().ok_or(DamagedNumbers)?;
        let alone = how >> 2 & 1 == 1;
        let known = how < 16 && usize::from(phase) < 1 << (how & 3) && alone == base.is_empty();
        let most = usize::try_from(MAX_SEGMENT_BYTES).unwrap_or(usize::MAX);
        if !known || room.len() > most || !(alone || base.len() == room.len()) {
            return Err(DamagedNumbers);
        }
        match how & 3 {
            1 => self.decode_width::<2>(rest, base, (phase, how), room),
            2 => self.decode_width::<4>(rest, base, (phase, how), room),
            3 => self.decode_width::<8>(rest, base, (phase, how), room),
            _ => Err(DamagedNumbers),
        }
    }

    fn decode_width<const W: usize>(
        &mut self,
        rest: &[u8],
        base: &[u8],
        (phase, how): (u8, u8),
        room: &mut [u8],
    ) -> Result<(), DamagedNumbers> {
        let phase = usize::from(phase).min(room.len());
        let (before, numbers) = room.split_at_mut(phase);
        let (numbers, behind) = numbers.as_chunks_mut::<W>();
        let (plain, rest) = rest.split_at_checked(before.len() + behind.len()).ok_or(DamagedNumbers)?;
        let (plain_before, plain_behind) = plain.split_at(before.len());
        before.copy_from_slice(plain_before);
        behind.copy_from_slice(plain_behind);
        let old = base.get(phase..).unwrap_or_default().as_chunks::<W>().0;
        let rest = self.scratch.slots.read(rest, how >> 3 & 1 == 1)?;
        coder::decode::<W>(rest, &self.scratch.slots, old, numbers)
    }
}

/// What the sample keeps, by the entropy of its symbols and its raw bits.
fn estimate(new: &[u8], base: &[u8], starts: &[usize], width: usize, phase: usize) -> Permille {
    match width {
        2 => estimate_width::<2>(new, base, starts, phase),
        4 => estimate_width::<4>(new, base, starts, phase),
        _ => estimate_width::<8>(new, base, starts, phase),
    }
}

fn estimate_width<const W: usize>(new: &[u8], base: &[u8], starts: &[usize], phase: usize) -> Permille {
    let (mut counts, mut raw, mut total) = ([0_u32; 256], 0_u32, 0_u32);
    for start in starts {
        let piece = |bytes: &'_ [u8]| start + phase..(start + PIECE_BYTES).min(bytes.len());
        let numbers = new[piece(new)].as_chunks::<W>().0;
        let mut count = |split: Split| {
            counts[usize::from(split.symbol)] += 1;
            raw += split.bits;
            total += 1;
        };
        if base.is_empty() {
            numbers.iter().for_each(|new| count(number::split_alone::<W>(*new)));
        } else {
            let old = base[piece(base)].as_chunks::<W>().0;
            numbers.iter().zip(old).for_each(|(new, old)| count(number::split(*new, *old)));
        }
    }
    let bits = Counts::entropy(&counts) + f64::from(raw);
    let bytes = f64::from(total) * f64::from(u8::try_from(W).unwrap_or(8));
    // From 0 to a little above 1000; NaN for none becomes 0 by saturation, and there is always some.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let kept = (bits / 8.0 / bytes.max(1.0) * 1000.0).clamp(0.0, 2000.0) as u16;
    Permille(kept)
}

#[cfg(test)]
mod tests;
