use proptest::prelude::*;

use super::*;

fn op() -> impl Strategy<Value = Op> {
    let source = prop_oneof![Just(Source::Basis), Just(Source::History)];
    prop_oneof![
        (1..5000_u32).prop_map(|length| Op::Literal { length }),
        (1..5000_u32).prop_map(|length| Op::Copy { length, source: Source::Zeros, offset: 0 }),
        (1..5000_u32, source.clone(), 0..1_u64 << 50).prop_map(|(length, source, offset)| Op::Copy {
            length,
            source,
            offset
        }),
        (1..5000_u32, source, 0..1_u64 << 50).prop_map(|(length, source, offset)| Op::Changed {
            length,
            source,
            offset
        }),
    ]
}

fn read(bytes: &[u8], total: u32) -> Result<Vec<Op>, ContainerError> {
    let (mut reader, mut read) = (Ops::new(bytes, total), Vec::new());
    while let Some(op) = reader.next_op()? {
        read.push(op);
    }
    Ok(read)
}

proptest! {
    #[test]
    fn reads_what_it_wrote(ops in prop::collection::vec(op(), 0..400)) {
        let total = ops.iter().map(|op| op.length()).sum();
        let mut writer = OpWriter::default();
        writer.push(Op::Literal { length: 9 });
        writer.clear();
        ops.iter().for_each(|op| writer.push(*op));
        prop_assert_eq!(read(writer.finish(), total), Ok(ops));
    }

    #[test]
    fn takes_any_operations_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), total in 0..4_200_000_u32) {
        if let Ok(ops) = read(&bytes, total) {
            prop_assert_eq!(ops.iter().map(|op| op.length()).sum::<u32>(), total);
        }
    }

    #[test]
    fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        if let [version, kind, flags, codec, ..] = bytes.as_mut_slice() {
            *version = 2;
            (*kind, *flags, *codec) = (*kind & 3, *flags & 15, *codec & 3);
        }
        if let Ok((head, body)) = Head::parse(&bytes) {
            prop_assert_eq!(&head.bytes()[..], &bytes[..HEAD_BYTES]);
            let streams = Streams::parse(body, head.segment_bytes);
            prop_assert!(streams.is_err() || body.len() >= 3);
        }
    }

    #[test]
    fn numbers_come_back(number in any::<u64>(), shift in 0..64_u32) {
        let mut bytes = Vec::new();
        put_varint(number >> shift, &mut bytes);
        prop_assert_eq!(take_varint(&mut bytes.as_slice()), Some(number >> shift));
    }
}

#[test]
fn refuses_operations_that_do_not_add_up() {
    let mut writer = OpWriter::default();
    writer.push(Op::Literal { length: 6 });
    let bytes = writer.finish().to_vec();
    assert!(read(&bytes, 4_000_000).is_err());
    assert_eq!(read(&bytes, 5), Err(ContainerError::Inconsistent));
    assert_eq!(read(&[&bytes[..], &[0]].concat(), 6), Err(ContainerError::Inconsistent));
    assert_eq!(read(&bytes[..bytes.len() - 1], 6), Err(ContainerError::CutOff));
}

#[test]
fn operations_are_bounded() {
    let mut writer = OpWriter::default();
    for at in 0..u64::try_from(MAX_OPS).unwrap() + 1 {
        writer.push(Op::Copy { length: 1, source: Source::Basis, offset: at * 3 });
    }
    let total = u32::try_from(MAX_OPS).unwrap();
    assert_eq!(read(writer.finish(), total + 1), Err(ContainerError::TooLarge));
}

#[test]
fn edits_of_one_kind_cost_little() {
    let mut writer = OpWriter::default();
    let mut from = 70_000;
    for edit in 0..1000_u32 {
        let length = 100 + edit * 7919 % 400;
        writer.push(Op::Copy { length, source: Source::Basis, offset: from });
        writer.push(Op::Literal { length: 6 + edit % 5 });
        from += u64::from(length + 6 + edit % 4);
    }
    // Nine bits of a copy's length, five of the others.
    let bytes = writer.finish().len();
    assert!(bytes < 2000, "{bytes}");
}

#[test]
fn what_repeats_costs_next_to_nothing() {
    let mut writer = OpWriter::default();
    for row in 0..5000_u64 {
        let at = row * 200;
        writer.push(Op::Copy { length: 150, source: Source::Basis, offset: at });
        writer.push(Op::Changed { length: 4, source: Source::Basis, offset: at + 150 });
        writer.push(Op::Copy { length: 44, source: Source::Basis, offset: at + 154 });
        writer.push(Op::Changed { length: 2, source: Source::Basis, offset: at + 198 });
    }
    let bytes = writer.finish().len();
    assert!(bytes < 600, "{bytes}");
}
