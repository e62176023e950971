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

fn read(columns: [&[u8]; 3], total: u32) -> Result<Vec<Op>, ContainerError> {
    let (mut reader, mut read) = (Columns::new(columns, total), Vec::new());
    while let Some(op) = reader.next_op()? {
        read.push(op);
    }
    Ok(read)
}

proptest! {
    #[test]
    fn reads_what_it_wrote(ops in prop::collection::vec(op(), 0..40)) {
        let total = ops.iter().map(|op| op.length()).sum();
        let mut writer = ColumnWriter::default();
        ops.iter().for_each(|op| writer.push(*op));
        prop_assert_eq!(read(writer.columns(), total), Ok(ops));
    }

    #[test]
    fn takes_any_columns_without_panic(columns in prop::array::uniform3(prop::collection::vec(any::<u8>(), 0..60)), total in 0..100_000_u32) {
        let [gaps, copies, moves] = &columns;
        if let Ok(ops) = read([gaps, copies, moves], total) {
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
            prop_assert!(streams.is_err() || body.len() >= 5);
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
    let mut writer = ColumnWriter::default();
    writer.push(Op::Literal { length: 6 });
    assert_eq!(read(writer.columns(), 7), Err(ContainerError::CutOff));
    assert_eq!(read(writer.columns(), 5), Err(ContainerError::Inconsistent));
}
