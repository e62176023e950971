//! Encodes segments.

use std::{fmt, time::Instant};

use proto_wire::hde::{Flags, HEAD_BYTES, Head, Kind, LiteralCodec, MAX_SEGMENT_BYTES};

use crate::{
    encoding::{Encoding, SegmentTooLong, Stands, codec, counts},
    meter::Meter,
    version::Version,
    work::{Tools, Work},
};

/// By how much an encoded segment may be longer than the segment.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES;
/// The longest encoded segment.
pub const MAX_ENCODED_BYTES: usize = MAX_SEGMENT_BYTES as usize + OVERHEAD_BYTES;

/// Encodes segments, one after another; keeps its contexts and buffers (at most 25 MB).
#[derive(Default)]
pub struct Encoder {
    tools: Tools,
    /// The version that the tools have read of.
    version: Option<u64>,
    meter: Option<Meter>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder that nothing measures.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, measured.
    #[must_use]
    pub fn metered(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Appends the encoded segment to `out`: at most [`OVERHEAD_BYTES`] more than the segment has. `number` counts the
    /// segments of the version from 0; each is encoded once.
    ///
    /// # Errors
    /// Only for a segment that is too long.
    pub fn encode(
        &mut self,
        version: &Version,
        number: u64,
        segment: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Encoding, SegmentTooLong> {
        let started = self.meter.as_ref().map(Meter::now);
        let (encoding, raw) = self.make(version, number, segment)?;
        if let Some(head) = raw {
            out.reserve(OVERHEAD_BYTES + segment.len());
            out.extend_from_slice(&head.bytes());
            out.extend_from_slice(segment);
        } else {
            out.extend_from_slice(&self.tools.container);
        }
        self.record(&encoding, started);
        Ok(encoding)
    }

    /// The same for a segment that stands in `room` after [`OVERHEAD_BYTES`] of any contents: where it travels as it is, the room
    /// is what is sent, without a copy of it, and nothing is appended to `out`.
    ///
    /// # Errors
    /// For a segment that is too long.
    pub fn encode_in_room(
        &mut self,
        version: &Version,
        number: u64,
        room: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(Encoding, Stands), SegmentTooLong> {
        let started = self.meter.as_ref().map(Meter::now);
        let (place, segment) = room.split_at_mut_checked(OVERHEAD_BYTES).ok_or(SegmentTooLong(0))?;
        let (encoding, raw) = self.make(version, number, segment)?;
        let stands = if let Some(head) = raw {
            place.copy_from_slice(&head.bytes());
            Stands::InRoom
        } else {
            out.extend_from_slice(&self.tools.container);
            Stands::Appended
        };
        self.record(&encoding, started);
        Ok((encoding, stands))
    }

    /// How many bytes the encoded segment would have; for a version without a history, which this does not count in its meter.
    ///
    /// # Errors
    /// Only for a segment that is too long.
    pub fn measure(&mut self, version: &Version, number: u64, segment: &[u8]) -> Result<u64, SegmentTooLong> {
        self.make(version, number, segment).map(|(encoding, _)| encoding.output_bytes)
    }

    /// Fills the container, or gives the head of a segment that travels as it is.
    fn make(
        &mut self,
        version: &Version,
        number: u64,
        segment: &[u8],
    ) -> Result<(Encoding, Option<Head>), SegmentTooLong> {
        let length = u32::try_from(segment.len()).ok().filter(|length| *length <= MAX_SEGMENT_BYTES);
        let length = length.ok_or(SegmentTooLong(segment.len()))?;
        if self.version != Some(version.id()) {
            self.tools.matcher.forget();
            self.version = Some(version.id());
        }
        self.tools.container.clear();
        let raw = Head { kind: Kind::Plain(LiteralCodec::Raw), flags: Flags::default(), segment_bytes: length };
        let mut work = Work::begin(&mut self.tools, version, number, segment);
        let kind = if version.options().enabled {
            // What cannot be read is not referred to.
            work.plan().and_then(|()| work.refine()).unwrap_or_else(|_unreadable| work.nothing());
            let kind = work.choose(length);
            work.decide(kind);
            kind
        } else {
            work.nothing();
            None
        };
        if kind == Some(Kind::Typed) {
            // What is told of later segments are bytes, not numbers.
            work.tools.matcher.plan.clear();
        }
        work.remember();
        let mut encoding = counts(&self.tools.matcher.plan, segment.len());
        encoding.why = self.tools.why;
        if kind == Some(Kind::Typed) {
            (encoding.referenced_bytes, encoding.changed_bytes, encoding.whole) =
                (wide(segment.len()), wide(segment.len()), None);
        }
        let raw = kind.is_none().then_some(raw);
        encoding.codec = codec(&encoding, kind.unwrap_or(Kind::Plain(LiteralCodec::Raw)));
        encoding.output_bytes =
            wide(if raw.is_some() { HEAD_BYTES + segment.len() } else { self.tools.container.len() });
        Ok((encoding, raw))
    }

    fn record(&self, encoding: &Encoding, started: Option<Instant>) {
        if let (Some(meter), Some(started)) = (&self.meter, started) {
            meter.record(encoding, started);
        }
    }
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
