//! A sender that has the right to send, and lies: it gets one clear refusal.

use std::collections::VecDeque;

use bytes::Bytes;
use dataplane_transfer::{Link, Received};
use proto_model::{Grant, PublicKey, TransferOptions, TransferState};
use proto_rpc::peer as rpc;
use proto_wire::{
    TreePath,
    frames::{Authority, FileEnd, ManifestEnd, Open, ReceiverFrame, SenderFrame},
    manifest::{Entry, Kind, Mtime, PageBuilder, PageReader, TreeHasher, Versions},
    piece::{AsRead, BundleRow, HEADER_BYTES, Header, Known, PieceKind, Source, write_bundle, write_known},
};

use crate::bed::{Bed, Faults, PATIENCE, noise, pair, tree};

/// An end of a link that says what it likes.
pub(crate) struct Liar {
    link: Link,
    outcome: tokio::task::JoinHandle<Received>,
    /// What the receiver said and nobody waited for yet.
    heard: VecDeque<ReceiverFrame>,
}

/// What the liar does.
pub(crate) enum Step {
    Frame(Vec<u8>),
    /// Waits until the receiver has asked for something.
    Wanted,
    Piece(Header, Vec<u8>),
    /// The same; others send it too.
    #[allow(dead_code, reason = "only bombs are so large")]
    Shared(Header, Bytes),
    /// Only one part of it.
    Part(Header, Vec<u8>, usize),
    /// A piece, whatever its bytes.
    Raw(Vec<u8>),
    /// Waits until the receiver has put something in place.
    Published,
    /// Waits until the receiver says how far it is.
    Verified,
    /// Waits until the receiver has asked for a segment again.
    Resent,
    /// Does something to the receiver's host.
    Do(Box<dyn FnOnce() + Send>),
    /// Goes away without a word.
    HangUp,
}

pub(crate) fn opening(bed: &Bed, grant: &Grant) -> Step {
    let open = Open {
        transfer: grant.transfer,
        authority: Authority::Grant(bed.sign(grant)),
        traceparent: None,
        features: Vec::new(),
        segment_bytes: 64 << 10,
        order: 0,
    };
    Step::Frame(SenderFrame::Open(Box::new(open)).encode())
}

impl Liar {
    pub(crate) fn dial(bed: &Bed, key: PublicKey) -> Self {
        let (link, theirs, _) = pair(key, bed.b.identity.public_key(), Faults::default());
        let to = bed.b.transfers.clone();
        #[allow(clippy::disallowed_methods, reason = "the test waits for it")]
        let outcome = tokio::spawn(async move { Box::pin(to.receive(theirs, |_reports| {})).await });
        Self { link, outcome, heard: VecDeque::new() }
    }

    /// Does all steps, hears the receiver's last word, and hangs up.
    pub(crate) async fn run(mut self, steps: Vec<Step>) -> Received {
        let whole = |header: Header, encoded: &[u8]| header.pieces([&[0; HEADER_BYTES], encoded].concat()).unwrap();
        for step in steps {
            let goes_on = match step {
                Step::Frame(frame) => self.say(Some(frame), None).await,
                Step::Wanted => self.until(|frame| matches!(frame, ReceiverFrame::Wanted(_))).await,
                Step::Published => self.until(|frame| matches!(frame, ReceiverFrame::Published(_))).await,
                Step::Verified => self.until(|frame| matches!(frame, ReceiverFrame::Progress { .. })).await,
                Step::Resent => self.until(|frame| matches!(frame, ReceiverFrame::Resend { .. })).await,
                Step::Piece(header, encoded) => self.say(None, Some(whole(header, &encoded)[0].clone())).await,
                Step::Shared(header, encoded) => self.say(None, Some(whole(header, &encoded)[0].clone())).await,
                Step::Part(header, encoded, part) => self.say(None, Some(whole(header, &encoded)[part].clone())).await,
                Step::Raw(bytes) => self.say(None, Some(bytes.into())).await,
                Step::Do(act) => {
                    act();
                    true
                }
                Step::HangUp => false,
            };
            if !goes_on {
                return self.hang_up().await;
            }
        }
        self.until(|frame| matches!(frame, ReceiverFrame::Finished(_))).await;
        self.hang_up().await
    }

    async fn hang_up(self) -> Received {
        drop(self.link);
        tokio::time::timeout(PATIENCE, self.outcome).await.unwrap().unwrap()
    }

    /// Says a frame or sends a piece, with an ear for the receiver; false once it has given up.
    async fn say(&mut self, frame: Option<Vec<u8>>, piece: Option<Bytes>) -> bool {
        let Link { control_out, control_in, pieces_out, .. } = &mut self.link;
        let send = async {
            match (frame, piece) {
                (Some(frame), _) => control_out.send(&frame).await,
                (None, Some(piece)) => pieces_out.send(0, piece).await,
                (None, None) => Ok(()),
            }
        };
        tokio::pin!(send);
        loop {
            tokio::select! {
                sent = &mut send => return sent.is_ok(),
                frame = control_in.recv() => {
                    let Ok(Some(frame)) = frame else { return false };
                    let frame = ReceiverFrame::decode(&frame).unwrap();
                    if matches!(frame, ReceiverFrame::Abort(_)) {
                        return false;
                    }
                    self.heard.push_back(frame);
                }
            }
        }
    }

    /// Waits for a frame; false where the receiver gives up before.
    async fn until(&mut self, wanted: fn(&ReceiverFrame) -> bool) -> bool {
        let hear = async {
            loop {
                let frame = match self.heard.pop_front() {
                    Some(frame) => frame,
                    None => match self.link.control_in.recv().await {
                        Ok(Some(frame)) => ReceiverFrame::decode(&frame).unwrap(),
                        Ok(None) | Err(_) => return false,
                    },
                };
                if wanted(&frame) {
                    return true;
                }
                if matches!(frame, ReceiverFrame::Abort(_)) {
                    return false;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.unwrap()
    }
}

pub(crate) const FILE_BYTES: u64 = 200_000;

pub(crate) fn entry(path: &str, size: u64) -> Entry {
    let path = TreePath::parse(path.as_bytes()).unwrap();
    Entry {
        path,
        kind: Kind::File { size },
        mode: 0o644,
        mtime: Mtime { seconds: 1, nanos: 0 },
        holes: 0,
        versions: Versions::default(),
    }
}

pub(crate) fn page(entries: &[Entry]) -> rpc::ManifestPage {
    let mut builder = PageBuilder::default();
    entries.iter().for_each(|entry| assert!(builder.push(entry).is_none()));
    builder.finish().unwrap()
}

pub(crate) fn page_frame(page: &rpc::ManifestPage) -> Step {
    Step::Frame(SenderFrame::Page(page.clone()).encode())
}

pub(crate) fn manifest_end(page: &rpc::ManifestPage) -> Step {
    let mut reader = PageReader::default();
    reader.next_page(page.clone()).unwrap();
    let end = ManifestEnd {
        entries: reader.entries(),
        bytes: reader.bytes(),
        digest: reader.digest(),
        issues: Vec::new(),
        issue_count: 0,
        contents: false,
        incomplete: false,
    };
    Step::Frame(SenderFrame::ManifestEnd(end).encode())
}

pub(crate) fn segment(file: u64, segment: u64) -> Step {
    let bytes = noise(segment, 65_536);
    let mut encoded = Vec::new();
    let plain = dataplane_hde::Version::plain(dataplane_hde::Options::default());
    dataplane_hde::Encoder::new().encode(&plain, 0, &bytes, &mut encoded).unwrap();
    let offset = segment * 65_536;
    use blake3::hazmat::HasherExt;
    let value = blake3::Hasher::new().set_input_offset(offset).update(&bytes).finalize_non_root();
    let header = header(file, segment, value);
    Step::Piece(header, encoded)
}

pub(crate) fn header(file: u64, segment: u64, value: [u8; 32]) -> Header {
    Header {
        kind: PieceKind::Segment,
        part: 0,
        parts: 1,
        attempt: 0,
        encoded_bytes: 0,
        decoded_bytes: 65_536,
        file,
        segment,
        file_bytes: FILE_BYTES,
        value,
    }
}

/// Opens rightly, then does these steps; gives the reason of the refusal.
pub(crate) async fn refusal(steps: Vec<Step>) -> String {
    let bed = Bed::new();
    refusal_on(&bed, TransferOptions::default(), steps).await
}

/// The same, between these hosts and with these options.
pub(crate) async fn refusal_on(bed: &Bed, options: TransferOptions, steps: Vec<Step>) -> String {
    let grant = bed.grant(&["data:/x"], "data:/", options);
    let mut all = vec![opening(bed, &grant)];
    all.extend(steps);
    refusal_opened(bed, all).await
}

/// The same; the opening is among the steps.
pub(crate) async fn refusal_opened(bed: &Bed, all: Vec<Step>) -> String {
    let outcome = Liar::dial(bed, bed.a.identity.public_key()).run(all).await;
    let error = match outcome {
        Received::Ended(report) | Received::Interrupted(report) => report.error,
        Received::Refused(error) => Some(error),
    };
    // What may go on later is hidden; nothing else is there.
    let shown: Vec<_> = tree(&bed.b.root).into_keys().filter(|name| !name.starts_with(b".dwcp-")).collect();
    assert!(shown.is_empty(), "{shown:?}");
    let Some(error) = error else { return "none".to_owned() };
    if error.reason == "PROTOCOL_VIOLATION" {
        assert!(error.message.starts_with("a does not keep to the protocol: "), "{}", error.message);
    }
    error.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere_are_refused() {
    let long = "n".repeat(300);
    let deep = "d/".repeat(300) + "d";
    let ours = ".dwcp-00000000000000000000000000000000-5.part";
    let bad = ["../x", "/etc/x", "a/../../x", "a/..", "..", "", ".", "./a", "a/", "a//b", "a\0b", &long, &deep, ours];
    for path in bad {
        let mut page = page(&[entry("placeholder", 5)]);
        page.entries[0].path = path.as_bytes().to_vec();
        assert_eq!(refusal(vec![page_frame(&page)]).await, "PROTOCOL_VIOLATION", "{path:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_orders_and_ends_that_do_not_fit_are_refused() {
    let honest = page(&[entry("a", 5), entry("b", 5)]);
    let mut gap = honest.clone();
    gap.first_index = 7;
    assert_eq!(refusal(vec![page_frame(&gap)]).await, "PROTOCOL_VIOLATION");
    let mut disorder = honest.clone();
    disorder.entries.reverse();
    assert_eq!(refusal(vec![page_frame(&disorder)]).await, "PROTOCOL_VIOLATION");
    // The end is of another page.
    let other = manifest_end(&page(&[entry("a", 5)]));
    assert_eq!(refusal(vec![page_frame(&honest), other]).await, "PROTOCOL_VIOLATION");
    assert_eq!(refusal(vec![Step::Frame(vec![0xff; 100])]).await, "PROTOCOL_VIOLATION");
    let early = SenderFrame::Finish { tree_digest: [0; 32] }.encode();
    assert_eq!(refusal(vec![Step::Frame(early)]).await, "PROTOCOL_VIOLATION");
    let end = FileEnd { file: 9, root: [0; 32], attempt: 0, entry: None };
    assert_eq!(refusal(vec![Step::Frame(SenderFrame::FileEnd(end).encode())]).await, "PROTOCOL_VIOLATION");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_nobody_asked_for_are_refused() {
    let tree = page(&[entry("a", FILE_BYTES)]);
    let asked = |steps: Vec<Step>| {
        let mut all = vec![page_frame(&tree), manifest_end(&tree), Step::Wanted];
        all.extend(steps);
        all
    };
    // Before anything was asked for, and of an entry that there is not.
    assert_eq!(refusal(vec![segment(0, 0)]).await, "PROTOCOL_VIOLATION");
    assert_eq!(refusal(asked(vec![segment(5, 0)])).await, "PROTOCOL_VIOLATION");
    // Beyond the end, twice, of another size than the manifest's, and not a piece at all.
    assert_eq!(refusal(asked(vec![segment(0, 9)])).await, "PROTOCOL_VIOLATION");
    assert_eq!(refusal(asked(vec![segment(0, 1), segment(0, 1)])).await, "PROTOCOL_VIOLATION");
    let Step::Piece(good, encoded) = segment(0, 1) else { unreachable!() };
    let larger = Step::Piece(Header { file_bytes: 1 << 50, ..good }, encoded.clone());
    assert_eq!(refusal(asked(vec![larger])).await, "PROTOCOL_VIOLATION");
    let garbage = Step::Piece(good, vec![0xee; 500]);
    assert_eq!(refusal(asked(vec![garbage])).await, "PROTOCOL_VIOLATION");
    let mut list = Vec::new();
    write_known(&[Known { segment: 1 << 60, count: 1, source: Source::Zeros, value: [0; 32] }], &mut list);
    let value = *blake3::hash(&list).as_bytes();
    let known = Header { kind: PieceKind::Known, value, decoded_bytes: 48, ..good };
    assert_eq!(refusal(asked(vec![Step::Piece(known, list)])).await, "PROTOCOL_VIOLATION");
}

/// A bundle of these rows and contents, whatever they are.
pub(crate) fn bundle(rows: &[BundleRow], contents: &[u8]) -> (Header, Vec<u8>) {
    let first = rows.first().map_or(0, |row| row.file);
    let mut bytes = Vec::new();
    write_bundle(rows, first, &mut bytes);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[4..]).update(contents);
    let value = *hasher.finalize().as_bytes();
    let plain = dataplane_hde::Version::plain(dataplane_hde::Options::default());
    dataplane_hde::Encoder::new().encode(&plain, 0, contents, &mut bytes).unwrap();
    let header = Header {
        kind: PieceKind::Bundle,
        decoded_bytes: u32::try_from(contents.len()).unwrap(),
        file_bytes: 0,
        ..header(first, u64::try_from(rows.len()).unwrap(), value)
    };
    (header, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_lies_about_its_files_is_refused() {
    let tree = page(&[entry("a", 5)]);
    let asked = |(header, bytes): (Header, Vec<u8>)| {
        vec![page_frame(&tree), manifest_end(&tree), Step::Wanted, Step::Piece(header, bytes)]
    };
    let row = BundleRow { file: 0, basis: false, as_read: None };
    let read = AsRead { size: 6, mode: 0o644, mtime: Mtime { seconds: 1, nanos: 0 }, attempt: 0 };
    let wrong = |as_read, contents: &[u8]| asked(bundle(&[BundleRow { as_read, ..row }], contents));
    assert_eq!(refusal(asked(bundle(&[BundleRow { file: 3, ..row }], b"12345"))).await, "PROTOCOL_VIOLATION");
    assert_eq!(refusal(wrong(Some(read), b"123456")).await, "PROTOCOL_VIOLATION");
    assert_eq!(
        refusal(wrong(Some(AsRead { size: u32::MAX, attempt: 1, ..read }), b"123456")).await,
        "PROTOCOL_VIOLATION"
    );
    assert_eq!(refusal(wrong(None, b"12345 and more")).await, "PROTOCOL_VIOLATION");
    assert_eq!(refusal(asked(bundle(&[row, row], b"1234512345"))).await, "PROTOCOL_VIOLATION");
    let (header, bytes) = bundle(&[row], b"12345");
    assert_eq!(refusal(asked((Header { value: [1; 32], ..header }, bytes.clone()))).await, "CORRUPTED");
    assert_eq!(refusal(asked((Header { segment: 2, ..header }, bytes.clone()))).await, "PROTOCOL_VIOLATION");
    assert_eq!(refusal(asked((header, bytes[..7].to_vec()))).await, "PROTOCOL_VIOLATION");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_its_root_says_is_never_seen() {
    let small = page(&[entry("a", 65_536 * 2)]);
    let end = FileEnd { file: 0, root: [3; 32], attempt: 0, entry: None };
    let of_size = |step| match step {
        Step::Piece(header, encoded) => Step::Piece(Header { file_bytes: 65_536 * 2, ..header }, encoded),
        other => other,
    };
    let bed = Bed::new();
    let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
    let steps = vec![
        opening(&bed, &grant),
        page_frame(&small),
        manifest_end(&small),
        Step::Wanted,
        of_size(segment(0, 0)),
        of_size(segment(0, 1)),
        Step::Frame(SenderFrame::FileEnd(end).encode()),
    ];
    let outcome = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await;
    assert!(matches!(outcome, Received::Ended(_) | Received::Interrupted(_)));
    assert!(!bed.b.root.join("a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_left_out_hides_no_difference_elsewhere() {
    let entries = page(&[entry("a", 0), entry("b", 0)]);
    let digest = |b: u64| {
        let mut hasher = TreeHasher::default();
        hasher.push(&entry("a", 0), None);
        hasher.push(&entry("b", b), None);
        hasher.finish()
    };
    for (tree_digest, state, reason) in [
        (digest(0), TransferState::SucceededInPart, None),
        (digest(1), TransferState::Failed, Some("TREE_MISMATCH".to_owned())),
    ] {
        let bed = Bed::new();
        // A folder stands where one of the files should.
        std::fs::create_dir(bed.b.root.join("a")).unwrap();
        std::fs::write(bed.b.root.join("b"), b"").unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::options().write(true).open(bed.b.root.join("b")).unwrap().set_modified(time).unwrap();
        let grant = bed.grant(&["data:/x"], "data:/", TransferOptions::default());
        let finish = Step::Frame(SenderFrame::Finish { tree_digest }.encode());
        let steps = vec![opening(&bed, &grant), page_frame(&entries), manifest_end(&entries), Step::Wanted, finish];
        let Received::Ended(report) = Liar::dial(&bed, bed.a.identity.public_key()).run(steps).await else {
            panic!("it did not end");
        };
        assert_eq!((report.state, report.error.map(|error| error.reason)), (state, reason));
    }
}
