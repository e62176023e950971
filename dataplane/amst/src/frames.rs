//! What two endpoints say to one another besides the contents of channels: fixed binary, little-endian, bounded. Pure.
//!
//! Each frame is preceded by its length as u16, and longer than known is fine: what a later version appends is skipped.
//! Control frames of channels are preceded by their length as u32, and a piece by [`PieceHead`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A frame between endpoints, without its length: the longest known one has 43 bytes.
pub(crate) const MAX_FRAME: usize = 1024;

/// Bits of the optional features that this version has.
pub(crate) const FEATURES: u64 = TCP_LANES | LANES_END | EARLY;

/// Takes lanes over TCP (`docs/protocol/amst-tcp-lane.md`), and says how many pieces it took of one that is over.
pub(crate) const TCP_LANES: u64 = 1;

/// Lanes may end while their session goes on (`docs/protocol/amst-lanes.md`).
pub(crate) const LANES_END: u64 = 2;

/// What follows the opening of a channel may come before it is answered, also what is said to the program above; who says this has a
/// program that takes it so.
pub const EARLY: u64 = 4;

/// Bytes before a piece's payload.
pub(crate) const PIECE_HEAD: usize = 20;

/// The bytes are not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed frame")]
pub(crate) struct Malformed;

/// Opens a connection, by who dialled, as the first frame of its first stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Of the session; lanes carry the same.
    pub(crate) session: [u8; 16],
    /// Of this run of the dialler's program.
    pub(crate) instance: [u8; 16],
    /// 0 opens a session, others join it.
    pub(crate) lane: u8,
    /// Bits of optional features that the dialler has.
    pub(crate) features: u64,
}

/// The answer to [`Hello`]: only with it does who dialled know that its certificate was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// Of this run of the program.
    pub(crate) instance: [u8; 16],
    /// Bits of the features that both have.
    pub(crate) features: u64,
}

/// Opens a channel, as the first frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenChannel {
    /// Even from who dialled the session, odd from the other.
    pub(crate) channel: u64,
    /// Credit for pieces to who opens.
    pub(crate) credit: u64,
}

/// The answer to [`OpenChannel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelOpened {
    /// With credit for pieces to the other end.
    Taken {
        /// In bytes of cost.
        credit: u64,
    },
    /// There is no room now.
    Busy,
}

/// On the session's own stream, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionFrame {
    /// The sum of all credit that was ever granted on a channel.
    Credit {
        /// The channel.
        channel: u64,
        /// In bytes of cost.
        total: u64,
    },
    /// No more pieces on this channel.
    NotWanted {
        /// The channel.
        channel: u64,
    },
    /// Asks for a pong.
    Ping(u64),
    /// The same number back.
    Pong(u64),
    /// A lane over TCP is over for who says it; never sent without [`TCP_LANES`].
    LaneOver {
        /// Its number.
        lane: u8,
        /// Pieces that came whole over it: what was sent besides did not arrive, and its credit is free.
        taken: u64,
    },
    /// Who was dialled wants so many lanes.
    WantLanes(u32),
    /// Nothing more is sent on this lane, and all that was sent is acknowledged; never said without [`LANES_END`].
    RetireLane {
        /// Its number.
        lane: u8,
    },
    /// All that came on a lane that the other end retired was read; never said without [`LANES_END`].
    LaneDrained {
        /// Its number.
        lane: u8,
    },
    /// Of a later version.
    Unknown,
}

/// Stands before a piece's payload in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PieceHead {
    /// The channel.
    pub(crate) channel: u64,
    /// The sender's number.
    pub(crate) number: u64,
    /// Bytes that follow.
    pub(crate) length: u32,
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        framed(|out| {
            out.put_slice(&self.session);
            out.put_slice(&self.instance);
            out.put_u8(self.lane);
            out.put_u64_le(self.features);
        })
    }

    pub(crate) fn decode(mut frame: &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            session: array(&mut frame)?,
            instance: array(&mut frame)?,
            lane: frame.try_get_u8().map_err(malformed)?,
            features: frame.try_get_u64_le().map_err(malformed)?,
        })
    }
}

impl Welcome {
    pub(crate) fn encode(&self) -> Bytes {
        framed(|out| {
            out.put_slice(&self.instance);
            out.put_u64_le(self.features);
        })
    }

    pub(crate) fn decode(mut frame: &[u8]) -> Result<Self, Malformed> {
        Ok(Self { instance: array(&mut frame)?, features: frame.try_get_u64_le().map_err(malformed)? })
    }
}

impl OpenChannel {
    pub(crate) fn encode(&self) -> Bytes {
        framed(|out| {
            out.put_u64_le(self.channel);
            out.put_u64_le(self.credit);
        })
    }

    pub(crate) fn decode(mut frame: &[u8]) -> Result<Self, Malformed> {
        let channel = frame.try_get_u64_le().map_err(malformed)?;
        Ok(Self { channel, credit: frame.try_get_u64_le().map_err(malformed)? })
    }
}

impl ChannelOpened {
    pub(crate) fn encode(&self) -> Bytes {
        framed(|out| match *self {
            Self::Taken { credit } => {
                out.put_u8(0);
                out.put_u64_le(credit);
            }
            Self::Busy => out.put_u8(1),
        })
    }

    pub(crate) fn decode(mut frame: &[u8]) -> Result<Self, Malformed> {
        match frame.try_get_u8().map_err(malformed)? {
            0 => Ok(Self::Taken { credit: frame.try_get_u64_le().map_err(malformed)? }),
            1 => Ok(Self::Busy),
            _ => Err(Malformed),
        }
    }
}

impl SessionFrame {
    pub(crate) fn encode(&self) -> Bytes {
        framed(|out| match *self {
            Self::Credit { channel, total } => {
                out.put_u8(1);
                out.put_u64_le(channel);
                out.put_u64_le(total);
            }
            Self::NotWanted { channel } => {
                out.put_u8(2);
                out.put_u64_le(channel);
            }
            Self::Ping(number) => {
                out.put_u8(3);
                out.put_u64_le(number);
            }
            Self::Pong(number) => {
                out.put_u8(4);
                out.put_u64_le(number);
            }
            Self::LaneOver { lane, taken } => {
                out.put_u8(5);
                out.put_u8(lane);
                out.put_u64_le(taken);
            }
            Self::WantLanes(lanes) => {
                out.put_u8(6);
                out.put_u64_le(u64::from(lanes));
            }
            Self::RetireLane { lane } => {
                out.put_u8(7);
                out.put_u64_le(u64::from(lane));
            }
            Self::LaneDrained { lane } => {
                out.put_u8(8);
                out.put_u64_le(u64::from(lane));
            }
            Self::Unknown => out.put_u8(0),
        })
    }

    pub(crate) fn decode(mut frame: &[u8]) -> Result<Self, Malformed> {
        let kind = frame.try_get_u8().map_err(malformed)?;
        let lane = if kind == 5 { frame.try_get_u8().map_err(malformed)? } else { 0 };
        let mut number = || frame.try_get_u64_le().map_err(malformed);
        Ok(match kind {
            1 => Self::Credit { channel: number()?, total: number()? },
            2 => Self::NotWanted { channel: number()? },
            3 => Self::Ping(number()?),
            4 => Self::Pong(number()?),
            5 => Self::LaneOver { lane, taken: number()? },
            6 => Self::WantLanes(u32::try_from(number()?).map_err(|_large| Malformed)?),
            7 => Self::RetireLane { lane: u8::try_from(number()?).map_err(|_large| Malformed)? },
            8 => Self::LaneDrained { lane: u8::try_from(number()?).map_err(|_large| Malformed)? },
            _ => Self::Unknown,
        })
    }
}

impl PieceHead {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(PIECE_HEAD);
        out.put_u64_le(self.channel);
        out.put_u64_le(self.number);
        out.put_u32_le(self.length);
        out.freeze()
    }

    pub(crate) fn decode(head: &[u8; PIECE_HEAD]) -> Self {
        let mut head = head.as_slice();
        Self { channel: head.get_u64_le(), number: head.get_u64_le(), length: head.get_u32_le() }
    }
}

fn framed(body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u16_le(0);
    body(&mut out);
    let length = u16::try_from(out.len() - 2).expect("our own frames are short");
    out[..2].copy_from_slice(&length.to_le_bytes());
    out.freeze()
}

fn array<const N: usize>(frame: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (head, rest) = frame.split_first_chunk::<N>().ok_or(Malformed)?;
    *frame = rest;
    Ok(*head)
}

fn malformed(_short: bytes::TryGetError) -> Malformed {
    Malformed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_way_and_short_ones_are_refused() {
        let hello = Hello { session: [1; 16], instance: [2; 16], lane: 3, features: 4 };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes[2..]), Ok(hello));
        assert_eq!(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
        for end in 2..bytes.len() {
            assert_eq!(Hello::decode(&bytes[2..end]), Err(Malformed));
        }
        let longer = [&bytes[2..], b"later"].concat();
        assert_eq!(Hello::decode(&longer), Ok(hello));

        let frames = [
            SessionFrame::Credit { channel: 1, total: u64::MAX },
            SessionFrame::NotWanted { channel: 7 },
            SessionFrame::Ping(1),
            SessionFrame::Pong(2),
            SessionFrame::LaneOver { lane: 9, taken: 10 },
            SessionFrame::WantLanes(3),
            SessionFrame::RetireLane { lane: 255 },
            SessionFrame::LaneDrained { lane: 1 },
            SessionFrame::Unknown,
        ];
        for frame in frames {
            assert_eq!(SessionFrame::decode(&frame.encode()[2..]), Ok(frame));
        }
        assert_eq!(SessionFrame::decode(&[99, 1]), Ok(SessionFrame::Unknown));
        assert_eq!(SessionFrame::decode(&[]), Err(Malformed));
        for opened in [ChannelOpened::Taken { credit: 5 }, ChannelOpened::Busy] {
            assert_eq!(ChannelOpened::decode(&opened.encode()[2..]), Ok(opened));
        }
        let head = PieceHead { channel: 1, number: 2, length: 3 };
        assert_eq!(PieceHead::decode(head.encode().as_ref().try_into().unwrap()), head);
    }
}
