//! What the ends of a lane over TCP say to one another after their greeting: records of a kind and a body of fixed length, and after the
//! head of a piece its payload. Pure. The layout stands in `docs/protocol/amst-tcp-lane.md`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frames::{Malformed, PIECE_HEAD, PieceHead};

const USE: u8 = 0;
const PIECE: u8 = 1;
const TAKEN: u8 = 2;
const NOT_WANTED: u8 = 3;

/// One record, without a piece's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Who dialled the lane has it, from now on the other end may use it too: once, before all else.
    Use,
    /// A piece follows.
    Piece(PieceHead),
    /// The oldest piece that was not answered has come whole.
    Taken,
    /// The same, but nobody wanted it.
    NotWanted,
}

impl Record {
    /// Bytes of the body that follows a kind.
    pub(crate) const fn body(kind: u8) -> Result<usize, Malformed> {
        match kind {
            PIECE => Ok(PIECE_HEAD),
            USE | TAKEN | NOT_WANTED => Ok(0),
            _ => Err(Malformed),
        }
    }

    /// The record of this kind with this body.
    pub(crate) fn decode(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        match (kind, body.first_chunk::<PIECE_HEAD>()) {
            (PIECE, Some(head)) => Ok(Self::Piece(PieceHead::decode(head))),
            (USE, _) => Ok(Self::Use),
            (TAKEN, _) => Ok(Self::Taken),
            (NOT_WANTED, _) => Ok(Self::NotWanted),
            _ => Err(Malformed),
        }
    }

    /// As it stands on the wire.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + PIECE_HEAD);
        match self {
            Self::Use => out.put_u8(USE),
            Self::Piece(head) => {
                out.put_u8(PIECE);
                out.put_slice(&head.encode());
            }
            Self::Taken => out.put_u8(TAKEN),
            Self::NotWanted => out.put_u8(NOT_WANTED),
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_way_and_unknown_ones_are_refused() {
        let head = PieceHead { channel: 1, number: 2, length: 3 };
        for record in [Record::Use, Record::Piece(head), Record::Taken, Record::NotWanted] {
            let bytes = record.encode();
            assert_eq!(Record::body(bytes[0]), Ok(bytes.len() - 1));
            assert_eq!(Record::decode(bytes[0], &bytes[1..]), Ok(record));
        }
        assert_eq!(Record::decode(PIECE, &[0; PIECE_HEAD - 1]), Err(Malformed));
        assert_eq!(Record::body(4), Err(Malformed));
    }
}
