//! The parsers of this crate that meet bytes from a peer, for whoever tries them with any bytes (`tests/parsers`).

use crate::{
    frames::{ChannelOpened, Hello, OpenChannel, PIECE_HEAD, PieceHead, SessionFrame, Welcome},
    tcp::Record,
};

/// Reads the bytes as each of the frames there are; what was read is written, and read again as it was.
///
/// # Panics
/// Where a frame is not what it was.
pub fn any_frame(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()[2..]), Ok(hello));
    }
    if let Ok(welcome) = Welcome::decode(bytes) {
        assert_eq!(Welcome::decode(&welcome.encode()[2..]), Ok(welcome));
    }
    if let Ok(open) = OpenChannel::decode(bytes) {
        assert_eq!(OpenChannel::decode(&open.encode()[2..]), Ok(open));
    }
    if let Ok(opened) = ChannelOpened::decode(bytes) {
        assert_eq!(ChannelOpened::decode(&opened.encode()[2..]), Ok(opened));
    }
    if let Ok(frame) = SessionFrame::decode(bytes) {
        assert_eq!(SessionFrame::decode(&frame.encode()[2..]), Ok(frame));
    }
    // Of a lane over TCP: one after the other, as they come.
    let mut records = bytes;
    while let Some((kind, rest)) = records.split_first() {
        let Ok(length) = Record::body(*kind) else { break };
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        if let Ok(record) = Record::decode(*kind, body) {
            assert_eq!(record.encode(), records[..1 + length]);
        }
        records = rest;
    }
    if let Some(head) = bytes.first_chunk::<PIECE_HEAD>() {
        assert_eq!(PieceHead::decode(head).encode(), head.as_slice());
    }
}
