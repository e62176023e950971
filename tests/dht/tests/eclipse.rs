//! R30 for seconds; `tests/dht/run eclipse` does it with more, and prints at how many made-up nodes the DHT alone fails.

use anyhow::Result;
use tests_dht::{
    eclipse::{Eclipse, Row, row},
    sybils::Lie,
};

fn world(lie: Lie, sybils: u16) -> Result<Row> {
    let seed = tests_harness::seed();
    let options = Eclipse {
        ring: 50,
        listed: 5,
        sybils: vec![sybils],
        lies: vec![lie.clone()],
        lookups: 4,
        lookers: 2,
        before: 30,
        seed,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let row = runtime.block_on(row(&options, sybils, &lie))?;
    eprintln!("{row:?}");
    Ok(row)
}

/// By the control plane, or by what was kept: always the newest, never an older one.
fn is_right(row: &Row) {
    for tally in [&row.with_control_plane, &row.with_kept] {
        assert_eq!((tally.right, tally.older, tally.of), (4, 0, 4), "R30: {row:?}");
    }
}

#[test]
fn made_up_nodes_around_a_record_hide_it_from_nobody_who_has_another_source() -> Result<()> {
    is_right(&world(Lie::Empty, 60)?);
    is_right(&world(Lie::Junk, 60)?);
    Ok(())
}

#[test]
fn an_older_record_told_by_made_up_nodes_is_not_taken_and_raises_the_alarm() -> Result<()> {
    let row = world(Lie::Old, 60)?;
    is_right(&row);
    // Where the DHT alone says the older one, it is said; an honest one raises no alarm.
    assert!(row.alarms > 0 || row.alone.right == row.alone.of, "R30: {row:?}");
    let honest = world(Lie::Old, 0)?;
    is_right(&honest);
    assert_eq!((honest.alarms, honest.alone.older), (0, 0), "{honest:?}");
    Ok(())
}
