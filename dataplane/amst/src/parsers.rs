//! The parsers of this crate that meet bytes from a peer, for whoever tries them with any bytes (`tests/parsers`).

use crate::frames::{ChannelOpened, Hello, OpenChannel, PIECE_HEAD, PieceHead, SessionFrame, Welcome};

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
    if let Some(head) = bytes.first_chunk::<PIECE_HEAD>() {
        assert_eq!(PieceHead::decode(head).encode(), head.as_slice());
    }
}
