//! Real values for each target: what the kept corpus is made of (`cargo run -p tests-parsers --bin seed`).

use chrono::{DateTime, TimeDelta, Utc};
use control_plane_audit::{Outcome, Record as AuditRecord};
use control_plane_pki::FleetCa;
use dataplane_dht::{FleetTag, Nat, NodeType, Record};
use dataplane_hde::{Algorithm, Encoder, Lean, Options, Signature, SmallEncoder, Typed, Version};
use foundation_merkle::{Checkpoint, leaf_hash};
use prost::Message;
use proto_model::{
    ByteCount, DirectRequest, Grant, GrantParty, Labels, NodeUid, PublicKey, RosterEntry, RosterHead, TransferId,
    TransferIssue, TransferOptions, config::DEFAULTS,
};
use proto_rpc::agent as rpc;
use proto_wire::{
    TreePath,
    frames::{
        Authority, FileAborted, FileEnd, Finished, ManifestEnd, Open, Opened, ReceiverFrame, SenderFrame, Wanted,
        WantedFile,
    },
    manifest::{Entry, Kind, Mtime, PageBuilder, Versions},
    piece::{AsRead, BundleRow, HEADER_BYTES, Header, Known, PieceKind, Source, write_bundle, write_known},
};
use uuid::Uuid;

use crate::signed::key;

type Seeds = Vec<(&'static str, Vec<Vec<u8>>)>;

/// The seeds of every target, by name.
///
/// # Panics
/// Where one of our own values cannot be made.
#[must_use]
pub fn seeds() -> Seeds {
    make().expect("our own values are valid")
}

type Made<T> = Result<T, Box<dyn std::error::Error>>;

fn amst_frames() -> Vec<Vec<u8>> {
    // Records of a lane over TCP: its use, a piece, answers.
    let records = [&[0, 1][..], &[7; 20], &[2, 3, 2]].concat();
    let over = [&[5, 3][..], &[9; 8]].concat();
    vec![vec![1; 41], vec![0; 24], vec![3, 5, 0, 0, 0, 0, 0, 0, 0], vec![1; 17], vec![7; 20], records, over]
}

fn make() -> Made<Seeds> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    Ok(vec![
        ("sender_frame", sender_frames()?),
        ("receiver_frame", receiver_frames()),
        ("manifest", vec![pages()?]),
        ("amst_frame", amst_frames()),
        ("piece", pieces()?),
        ("bundle", vec![[&[2][..], &bundle()].concat()]),
        ("known", vec![known()]),
        ("container", containers()?),
        ("decoder", containers()?.into_iter().map(|container| [&[4][..], &[9; 64], &container].concat()).collect()),
        ("signature", signatures()?),
        ("numbers", numbers()),
        ("small", small()),
        ("grant", vec![message(&rpc::Grant::from(grant()?)), proto_wire::grant::sign(&key(), &grant()?).to_bytes()]),
        ("roster", vec![message(&rpc::RosterEntry::from(entry()?)), message(&rpc::RosterHead::from(head()))]),
        ("dht_record", vec![record()?.encode()?]),
        ("checkpoint", vec![checkpoint()?]),
        ("certificate", certificates()?),
        ("config", configs()),
        ("audit_leaf", vec![audit_leaf(), br#"{"b":[1,2.5,"x"],"a":null}"#.to_vec()]),
        ("path", texts(&["a/b/c", "data:/in/x\\xff/", "..", "/etc/x", "data:/", "a//b", "x\u{202e}y\n"])),
        ("glob", texts(&["*.tmp\n/top/**/x\n{a,b}[!c]\na/b.tmp", "a\\*\nraw*"])),
        (
            "text",
            texts(&[
                "1h30m",
                "128MiB",
                "site-b",
                "nodes/site-b",
                "region=south",
                "[::1]:30906",
                "name=a* labels.x=y",
                "configs/node.a",
                "auto",
            ]),
        ),
        ("token", texts(&[ZEROS, "dwcpo1.AAAA", "bm9kZXMA"])),
        ("disk", disk()?),
    ])
}

/// No secret of anybody: zeros.
const ZEROS: &str = "dwcp1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn message(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn public_key() -> Made<PublicKey> {
    Ok(PublicKey::try_from(key().verifying_key())?)
}

fn time() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn grant() -> Made<Grant> {
    let party = |n: u128| Made::Ok(GrantParty { uid: NodeUid::new(Uuid::from_u128(n)), key: public_key()? });
    Ok(Grant {
        fleet: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse()?,
        epoch: 1.into(),
        transfer: TransferId::from_parts(1, &[1; 10]),
        source: party(1)?,
        destination: party(2)?,
        source_paths: vec!["data:/x".parse()?, "data:/y\\xff/".parse()?],
        destination_path: "in:/".parse()?,
        options: TransferOptions {
            exclude: vec!["*.tmp".parse()?],
            max_bytes: Some(ByteCount::new(9)),
            ..TransferOptions::default()
        },
        not_before: time(),
        not_after: time() + TimeDelta::days(7),
    })
}

fn entry() -> Made<RosterEntry> {
    Ok(RosterEntry {
        epoch: 1.into(),
        sequence: 7.into(),
        uid: NodeUid::new(Uuid::from_u128(5)),
        name: "site-b".parse()?,
        public_key: public_key()?,
        labels: Labels::from_pairs([("region", "north")])?,
        relay: true,
        revoked: false,
    })
}

fn head() -> RosterHead {
    RosterHead { epoch: 1.into(), sequence: 7.into(), members: 3, time: time() }
}

fn file(path: &str, kind: Kind) -> Made<Entry> {
    let mtime = Mtime { seconds: -1, nanos: 999_999_999 };
    Ok(Entry {
        path: TreePath::parse(path.as_bytes())?,
        kind,
        mode: 0o644,
        mtime,
        holes: 0,
        versions: Versions { baseline: 5, root: Some([6; 32]), sketch: Some([7; 8]) },
    })
}

fn pages() -> Made<Vec<u8>> {
    let mut builder = PageBuilder::default();
    let mut out = Vec::new();
    for entry in [
        file("a", Kind::File { size: 5 })?,
        file("d", Kind::Folder)?,
        file("d/link", Kind::Symlink { target: b"../\xff".to_vec() })?,
    ] {
        builder.push(&entry);
    }
    let mut first = builder.finish().ok_or("a page")?;
    out.extend(first.encode_length_delimited_to_vec());
    first.first_index = 3;
    first.entries.truncate(1);
    first.entries[0].path = b"e".to_vec();
    out.extend(first.encode_length_delimited_to_vec());
    Ok(out)
}

fn sender_frames() -> Made<Vec<Vec<u8>>> {
    let direct = DirectRequest {
        transfer: TransferId::from_parts(1, &[1; 10]),
        source_paths: vec!["data:/x".parse()?],
        destination_path: "in:/".parse()?,
        options: TransferOptions::default(),
    };
    let open = |authority| {
        let features = vec!["holes".to_owned()];
        SenderFrame::Open(Box::new(Open {
            transfer: direct.transfer,
            authority,
            traceparent: None,
            features,
            segment_bytes: 1 << 20,
            order: 0,
        }))
    };
    let mut builder = PageBuilder::default();
    builder.push(&file("a", Kind::File { size: 5 })?);
    let issues = vec![TransferIssue { path: b"a\xff".to_vec(), reason: "X".into(), message: "y".into() }];
    let frames = [
        open(Authority::Grant(proto_wire::grant::sign(&key(), &grant()?))),
        open(Authority::Direct(direct.clone())),
        SenderFrame::Page(builder.finish().ok_or("a page")?),
        SenderFrame::ManifestEnd(ManifestEnd {
            entries: 3,
            bytes: 4,
            digest: [5; 32],
            issues,
            issue_count: 1,
            contents: true,
            incomplete: false,
        }),
        SenderFrame::FileEnd(FileEnd {
            file: 7,
            root: [8; 32],
            attempt: 1,
            entry: Some(file("a", Kind::File { size: 9 })?),
        }),
        SenderFrame::FileAborted(FileAborted { file: 1, reason: "UNREADABLE".into(), message: "no\nway".into() }),
        SenderFrame::Finish { tree_digest: [9; 32] },
    ];
    Ok(frames.into_iter().map(SenderFrame::encode).collect())
}

fn receiver_frames() -> Vec<Vec<u8>> {
    let wanted = WantedFile {
        file: 1,
        held: vec![(2, [3; 32])],
        basis_bytes: 65_537,
        signature: vec![4; 64],
        more: true,
        ..WantedFile::default()
    };
    let known = WantedFile { file: 2, baseline: Some([5; 32]), made: true, ..WantedFile::default() };
    let frames = [
        ReceiverFrame::Opened(Opened { features: vec!["holes".into()], receive_window_bytes: 1 << 25, resuming: true }),
        ReceiverFrame::Wanted(Wanted {
            files: vec![wanted, known],
            page_complete: true,
            equal_bytes: 4,
            equal_files: 5,
        }),
        ReceiverFrame::Published(vec![1, 2, 300]),
        ReceiverFrame::Resend { file: 1, segment: 2 },
        ReceiverFrame::ResendFiles(vec![1, 2]),
        ReceiverFrame::Progress { bytes_verified: 1, files_published: 2 },
        ReceiverFrame::Finished(Finished {
            tree_digest: [1; 32],
            issues: Vec::new(),
            issue_count: 0,
            deleted: 2,
            planned_changes: Vec::new(),
        }),
    ];
    frames.into_iter().map(ReceiverFrame::encode).collect()
}

fn header(kind: PieceKind) -> Header {
    Header {
        kind,
        part: 0,
        parts: 1,
        attempt: 0,
        encoded_bytes: 0,
        decoded_bytes: 65_536,
        file: 3,
        segment: 9,
        file_bytes: 1 << 40,
        value: [8; 32],
    }
}

fn pieces() -> Made<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    for kind in [PieceKind::Segment, PieceKind::Bundle, PieceKind::Known, PieceKind::Leaning] {
        let room = [[0; HEADER_BYTES].as_slice(), b"contents"].concat();
        pieces.extend(header(kind).pieces(room)?.iter().map(|piece| piece.to_vec()));
    }
    Ok(pieces)
}

fn bundle() -> Vec<u8> {
    let as_read = AsRead { size: 3, mode: 0o644, mtime: Mtime { seconds: 5, nanos: 6 }, attempt: 1 };
    let rows = [
        BundleRow { file: 4, basis: true, as_read: None },
        BundleRow { file: 2, basis: false, as_read: Some(as_read) },
    ];
    let mut bundle = Vec::new();
    write_bundle(&rows, 0, &mut bundle);
    [bundle.as_slice(), b"abc"].concat()
}

fn known() -> Vec<u8> {
    let mut list = Vec::new();
    let of = |segment, source| Known { segment, count: 3, source, value: [segment.to_le_bytes()[0]; 32] };
    write_known(&[of(1, Source::Zeros), of(2, Source::Basis { offset: 1 << 20 })], &mut list);
    list
}

/// Numbers against older ones, and alone, in all widths.
fn numbers() -> Vec<Vec<u8>> {
    let weight = |n: u32, step: f32| (f32::from(u16::try_from(n % 977).unwrap_or(0)) * 0.001 + step).to_le_bytes();
    let step = |n: u32| if n.is_multiple_of(3) { 0.000_01 } else { 0.0 };
    let old: Vec<u8> = (0..2500).flat_map(|n| weight(n, 0.0)).collect();
    let new: Vec<u8> = (0..2500).flat_map(|n| weight(n, step(n))).collect();
    let mut seeds = vec![[&[0][..], &old, &new].concat()];
    for base in [&old[..], &[]] {
        if let Some(layout) = Typed::sample(&new, base) {
            let mut encoded = Vec::new();
            Typed::default().encode(&new[..500], base.get(..500).unwrap_or_default(), layout, &mut encoded);
            seeds.push([&[250][..], &old[..500], &encoded].concat());
        }
    }
    seeds
}

/// Frames of 100 and 1,000 bytes after nothing and after an old version.
fn small() -> Vec<Vec<u8>> {
    let object: Vec<u8> = (0..200).flat_map(|n: u32| format!("{} line\n", n.wrapping_mul(7919)).into_bytes()).collect();
    let (old, mut encoder) = (&object[50..450], SmallEncoder::new());
    let leans = [(0, Lean::Nothing), (200, Lean::Baseline(old))];
    let made = |(pairs, lean): (u8, Lean<'_>), length: usize, encoder: &mut SmallEncoder| {
        let before = &old[..usize::from(pairs) * 2];
        [&[pairs][..], before, encoder.compress(&object[..length], lean, 3).unwrap_or_default()].concat()
    };
    leans.into_iter().flat_map(|lean| [100, 1000].map(|length| made(lean, length, &mut encoder))).collect()
}

fn signatures() -> Made<Vec<Vec<u8>>> {
    let text: Vec<u8> = (0..900).flat_map(|n: u32| format!("{} line\n", n.wrapping_mul(7919)).into_bytes()).collect();
    let holes = [&[0; 3000], &text[..5000], &[0; 3000], &text[..]].concat();
    let made = |bytes: &[u8]| Signature::read(&mut &*bytes, 0).map(|(signature, _)| signature.into_bytes());
    Ok(vec![made(&[])?, made(&text)?, made(&holes)?, text])
}

fn containers() -> Made<Vec<Vec<u8>>> {
    let text = b"the same words, and the same words again; ".repeat(100);
    let mut all = Vec::new();
    for algorithm in [Algorithm::Zstd, Algorithm::Lz4, Algorithm::Snappy] {
        let mut packed = Vec::new();
        let version = Version::plain(Options { algorithm, ..Options::default() });
        Encoder::new().encode(&version, 0, &text, &mut packed)?;
        all.push(packed);
    }
    let mut zeros = Vec::new();
    Encoder::new().encode(&Version::plain(Options::default()), 0, &[0; 5000], &mut zeros)?;
    all.push(zeros);
    Ok(all)
}

fn record() -> Made<Record> {
    Ok(Record {
        issued_s: 1_790_000_000,
        ttl_s: 3600,
        fleet: FleetTag::of(&"0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse()?),
        addresses: vec!["10.0.0.1:30906".parse()?, "[2001:db8::1]:30906".parse()?],
        node_type: NodeType::Public,
        nat: Nat::Unknown,
        relays: Vec::new(),
    })
}

fn checkpoint() -> Made<Vec<u8>> {
    let checkpoint = Checkpoint { origin: "dwcp/audit".into(), size: 5, root: leaf_hash(b"x") };
    Ok(checkpoint.sign("fuzz", &key())?.into_bytes())
}

fn certificates() -> Made<Vec<Vec<u8>>> {
    let ca = FleetCa::generate("0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f", time())?;
    let node = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let request = rcgen::CertificateParams::default().serialize_request(&node)?.der().to_vec();
    let issued = ca.issue_node(Uuid::from_u128(7), &request, time())?;
    Ok(vec![request, issued.der.to_vec(), ca.certificate_der().to_vec()])
}

fn configs() -> Vec<Vec<u8>> {
    let short = "dwcp:\n  transfer: {segment_size: 2MiB}\n\0limits__receive_budget=1GiB";
    let hard = "a: &x [1, 2]\nb: *x\nc: !!str 5\n\"d\": |\n  text\n? e\n: f\n";
    vec![DEFAULTS.as_bytes().to_vec(), short.as_bytes().to_vec(), hard.as_bytes().to_vec()]
}

fn audit_leaf() -> Vec<u8> {
    AuditRecord {
        sequence: 3,
        time: time(),
        actor: "operator:anna".into(),
        action: "config.update".into(),
        resource: "configs/fleet".into(),
        outcome: Outcome::Ok,
        detail: [("revision".to_owned(), 4.into())].into_iter().collect(),
        trace_id: String::new(),
    }
    .leaf_bytes()
}

fn disk() -> Made<Vec<Vec<u8>>> {
    // An attempt, as the journal frames it: length, check, kind and number.
    let record = [[3].as_slice(), &1_u64.to_le_bytes()].concat();
    let journal = [&9_u16.to_le_bytes()[..], &blake3::hash(&record).as_bytes()[..8], &record].concat();
    let end = br#"{"state":"SUCCEEDED","tree_digest":null,"keep_until_ms":5}"#.to_vec();
    let note = br#"{"destination":"data:/in","not_after_ms":5,"sender":""}"#.to_vec();
    Ok(vec![journal, end, note, vec![1; 64], message(&rpc::Grant::from(grant()?))])
}
