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
    for frame in [
        SenderFrame::ManifestEnd(end),
        SenderFrame::FileEnd(file_end),
        SenderFrame::Finish { tree_digest: [9; 32] },
        SenderFrame::Dictionaries(vec![(1, [2; 32]), (32, [3; 32])]),
        SenderFrame::Dictionary(DictionaryContents { number: 1, size: 9, container: vec![4; 20] }),
    ] {
        assert_eq!(SenderFrame::decode(&frame.clone().encode()), Ok(frame));
    }
    let wanted = Wanted {
        files: vec![
            WantedFile { file: 1, held: vec![(2, [3; 32])], more: true, ..WantedFile::default() },
            WantedFile { file: 1, basis_bytes: 9, signature: vec![7; 40], elsewhere: true, ..WantedFile::default() },
            WantedFile { file: 2, baseline: Some([4; 32]), made: true, ..WantedFile::default() },
        ],
        page_complete: true,
        equal_bytes: 4,
        equal_files: 5,
    };
    for frame in [
        ReceiverFrame::Wanted(wanted),
        ReceiverFrame::Published(vec![1, 2]),
        ReceiverFrame::ResendFiles(vec![1, 2]),
        ReceiverFrame::Dictionaries(HeldDictionaries { held: vec![1, 32], missing: vec![2] }),
        ReceiverFrame::Resend { file: 1, segment: 2 },
        ReceiverFrame::Abort(Abort { reason: "X".into(), message: "y".into(), temporary: true }),
    ] {
        assert_eq!(ReceiverFrame::decode(&frame.clone().encode()), Ok(frame));
    }
}

#[test]
fn dictionaries_have_numbers_and_sizes_within_their_bounds() {
    let contents = |number, size| SenderFrame::Dictionary(DictionaryContents { number, size, container: Vec::new() });
    let held = |number| ReceiverFrame::Dictionaries(HeldDictionaries { held: vec![number], missing: Vec::new() });
    for number in [0, 33] {
        assert!(SenderFrame::decode(&SenderFrame::Dictionaries(vec![(number, [0; 32])]).encode()).is_err());
        assert!(SenderFrame::decode(&contents(number, 1).encode()).is_err());
        assert!(ReceiverFrame::decode(&held(number).encode()).is_err());
    }
    for size in [0, MAX_DICTIONARY_BYTES + 1] {
        assert!(SenderFrame::decode(&contents(1, size).encode()).is_err());
    }
    assert!(SenderFrame::decode(&SenderFrame::Dictionaries(vec![(1, [0; 32]); 33]).encode()).is_err());
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

#[test]
fn a_frame_of_empty_values_is_refused_before_they_are_made() {
    // Half a million entries, files, held segments, issues: two bytes each here, a hundred once made.
    let empty = |tag: u8, count: usize| [tag, 0].repeat(count);
    let nest = |tag: u8, inner: Vec<u8>| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(u64::try_from(inner.len()).unwrap(), &mut out);
        out.extend(inner);
        out
    };
    let many = MAX_REPEATED + 1;
    for sent in [nest(0x12, empty(0x12, many)), nest(0x1a, empty(0x22, many)), nest(0x0a, empty(0x2a, many))] {
        assert_eq!(SenderFrame::decode(&sent), Err(BadFrame::TooMany));
    }
    let held = nest(0x12, nest(0x0a, empty(0x12, many)));
    for said in [nest(0x12, empty(0x0a, many)), held, nest(0x2a, empty(0x12, many)), nest(0x2a, empty(0x2a, many))] {
        assert_eq!(ReceiverFrame::decode(&said), Err(BadFrame::TooMany));
    }
    // The same said in two halves is one message.
    let half = nest(0x12, empty(0x12, MAX_REPEATED / 2 + 1));
    assert_eq!(SenderFrame::decode(&half.repeat(2)), Err(BadFrame::TooMany));
}

proptest! {
    #[test]
    fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(SenderFrame::decode(&bytes));
        drop(ReceiverFrame::decode(&bytes));
    }
}
