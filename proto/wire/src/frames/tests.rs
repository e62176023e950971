use proptest::prelude::*;

use super::*;

#[test]
fn frames_come_back_as_they_went() {
    let end = ManifestEnd {
        entries: 3,
        bytes: 4,
        digest: [5; 32],
        issues: vec![TransferIssue { path: b"a\xff".to_vec(), reason: "X".into(), message: "y".into() }],
        issue_count: 1,
        contents: true,
        incomplete: true,
    };
    let file_end = FileEnd { file: 7, root: [8; 32], attempt: 1, entry: None };
    for frame in
        [SenderFrame::ManifestEnd(end), SenderFrame::FileEnd(file_end), SenderFrame::Finish { tree_digest: [9; 32] }]
    {
        assert_eq!(SenderFrame::decode(&frame.clone().encode()), Ok(frame));
    }
    let wanted = Wanted {
        files: vec![WantedFile { file: 1, held: vec![(2, [3; 32])], more: true, ..WantedFile::default() }],
        page_complete: true,
        equal_bytes: 4,
        equal_files: 5,
    };
    for frame in [
        ReceiverFrame::Wanted(wanted),
        ReceiverFrame::Published(vec![1, 2]),
        ReceiverFrame::Resend { file: 1, segment: 2 },
        ReceiverFrame::Abort(Abort { reason: "X".into(), message: "y".into(), temporary: true }),
    ] {
        assert_eq!(ReceiverFrame::decode(&frame.clone().encode()), Ok(frame));
    }
}

#[test]
fn lists_are_cut_so_that_the_frame_stays_in_its_bound() {
    let issue = TransferIssue { path: vec![0xff; 4000], reason: "UNREADABLE".into(), message: "m".repeat(500) };
    let finished = Finished {
        tree_digest: [0; 32],
        issues: vec![issue; 1000],
        issue_count: 1000,
        deleted: 0,
        planned_changes: Vec::new(),
    };
    let bytes = ReceiverFrame::Finished(finished).encode();
    assert!(bytes.len() <= MAX_FRAME_BYTES);
    assert!(matches!(ReceiverFrame::decode(&bytes), Ok(ReceiverFrame::Finished(f)) if f.issue_count == 1000));
}

proptest! {
    #[test]
    fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(SenderFrame::decode(&bytes));
        drop(ReceiverFrame::decode(&bytes));
    }
}
