//! Control frames, manifest pages, frames of AMST.

use prost::Message;
use proto_rpc::peer;
use proto_wire::{
    frames::{ReceiverFrame, SenderFrame},
    manifest::{MAX_PAGE_ENTRIES, Page, PageReader, TreeHasher},
};

pub(crate) fn sender_frame(bytes: &[u8]) {
    let Ok(frame) = SenderFrame::decode(bytes) else { return };
    assert!(SenderFrame::decode(&frame.encode()).is_ok(), "a frame that was read cannot be read again");
}

pub(crate) fn receiver_frame(bytes: &[u8]) {
    let Ok(frame) = ReceiverFrame::decode(bytes) else { return };
    assert!(ReceiverFrame::decode(&frame.encode()).is_ok(), "a frame that was read cannot be read again");
}

/// Pages with their lengths before them, as they come one after another.
pub(crate) fn manifest(mut bytes: &[u8]) {
    let (mut reader, mut hasher) = (PageReader::default(), TreeHasher::default());
    let mut last: Option<Vec<u8>> = None;
    while let Ok(page) = peer::ManifestPage::decode_length_delimited(&mut bytes) {
        // As it is read back from the disk: never without an error or whole.
        crate::tried(Page::trusted(page.clone()));
        let before = reader.entries();
        let Ok(page) = reader.next_page(page) else { return };
        assert!(page.entries.len() <= MAX_PAGE_ENTRIES && page.first_index == before);
        for entry in &page.entries {
            let path = entry.path.as_bytes();
            assert!(!path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(|part| part == b".."));
            assert!(last.as_deref() != Some(path), "a path came twice");
            last = Some(path.to_vec());
            hasher.push(entry, None);
        }
    }
    let _digest = (reader.digest(), hasher.finish());
}

pub(crate) fn amst_frame(bytes: &[u8]) {
    dataplane_amst::parsers::any_frame(bytes);
}
