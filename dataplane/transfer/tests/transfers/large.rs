//! Files that are large enough for longer segments.

use std::{fs::File, os::unix::fs::FileExt};

use dataplane_transfer::Settings;
use proto_model::{TransferOptions, TransferState};

use crate::bed::{Bed, Faults, noise, settings, tree};

/// Bytes that nothing compresses: four segments.
const NOISE: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_travels_in_segments_of_several_parts_and_goes_on_where_it_broke() {
    let mut bed = Bed::new();
    bed.a.settings = Settings { segment_bytes: 1 << 20, ..settings() };
    bed.a.restart().await;
    let text: Vec<u8> =
        (0..300_000_u64).flat_map(|line| format!("line {line} of {}\n", line % 977).into_bytes()).collect();
    let file = File::create(bed.a.root.join("large")).unwrap();
    file.write_all_at(&noise(1, NOISE), 0).unwrap();
    // A hole between them, so that the file is large.
    file.write_all_at(&text, 64 << 20).unwrap();
    let grant = bed.grant(&["data:/large"], "data:/", TransferOptions::default());
    // Four parts a segment: the first link ends in the midst of some, on the second parts overtake one another and one is spoiled.
    let faults = vec![
        Faults { cut_after: Some(6), ..Faults::default() },
        Faults { shuffle: Some(7), spoil: Some(5), ..Faults::default() },
    ];
    let (report, wires) = bed.send_job(bed.job(&grant), faults).await;
    assert_eq!(report.state, TransferState::Succeeded, "{report:?}");
    assert_eq!(tree(&bed.a.root), tree(&bed.b.root));
    let bytes = wires.bytes();
    let noise = u64::try_from(NOISE).unwrap();
    // The text takes little; of the noise a segment came again.
    assert!(bytes.len() == 2 && bytes[0] < noise && bytes.iter().sum::<u64>() < 2 * noise + (5 << 20), "{bytes:?}");
    assert!(bed.a.leftovers().is_empty() && bed.b.leftovers().is_empty());
}
