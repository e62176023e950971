use super::*;

const BUDGET: u64 = 256 * 1024 * 1024;

/// The first keys there are: about every second number is the height of a point.
fn peer(number: usize) -> PublicKey {
    let mut candidates = (2..=u8::MAX).filter_map(|byte| {
        let mut bytes = [7; 32];
        bytes[0] = byte;
        PublicKey::from_bytes(&bytes).ok()
    });
    candidates.nth(number).expect("a key")
}

/// Of a reader that keeps up with anything.
fn open(budget: &Budget, from: usize) -> Option<(Window, ControlRoom)> {
    let (mut window, room) = budget.open_window(peer(from))?;
    window.pace = Pace::unbounded();
    Some((window, room))
}

fn release(window: &mut Window, cost: u64) -> Option<u64> {
    window.release(cost, foundation_runtime::Clock::system().now(), || Duration::ZERO)
}

/// All that a peer can have in each part.
fn take_all(budget: &Budget, from: usize) -> (Vec<(Window, ControlRoom)>, Vec<LaneRoom>) {
    let mut channels = Vec::new();
    while let Some(mut channel) = open(budget, from) {
        assert!(channel.0.settle().unwrap() >= GUARANTEE);
        channels.push(channel);
        assert!(budget.promised() <= budget.bytes());
    }
    let lanes: Vec<_> = (0..32).map_while(|_| budget.open_lane(peer(from))).collect();
    lanes.iter().for_each(|lane| lane.resize(u64::MAX, 0, |_| ()));
    assert!(budget.promised() <= budget.bytes());
    (channels, lanes)
}

#[test]
fn one_channel_gets_three_quarters_of_the_shared_part_and_its_guarantee() {
    let budget = Budget::new(BUDGET);
    let (mut window, room) = open(&budget, 1).unwrap();
    let most = GUARANTEE + BUDGET / 16 * 5 / 4 * 3;
    assert_eq!(window.settle(), Some(most));
    assert_eq!(window.settle(), None);
    assert_eq!(window.admit(BUDGET), Err(NoCredit));
    window.admit(GUARANTEE).unwrap();
    assert_eq!(release(&mut window, GUARANTEE), Some(most + GUARANTEE));
    drop((window, room));
    assert_eq!(budget.promised(), 0);
}

#[test]
fn a_peer_that_takes_all_it_can_leaves_a_share_to_each_of_the_others() {
    for bytes in [16 << 20, 64 << 20, BUDGET, 1 << 30] {
        let budget = Budget::new(bytes);
        let mut held = vec![take_all(&budget, 1)];
        let first = held[0].0.len();
        assert!(first >= 1, "{bytes}");
        // Before this one peer had all 62 guarantees of a budget of 128 MiB.
        let (mut window, room) = open(&budget, 2).expect("a channel for the second");
        assert!(window.settle().unwrap() > GUARANTEE + bytes / 16 * 5 / 32, "{bytes}: a second peer gets a share");
        let mut told = 0;
        let lane = budget.open_lane(peer(2)).unwrap();
        lane.resize(u64::MAX, 0, |window| told = window);
        assert!(told > bytes / 32, "{bytes}: {told}");
        drop((window, room, lane));
        if bytes == BUDGET {
            assert_eq!((first, take_all(&budget, 2).0.len()), (20, 10));
        }
        for other in 3..60 {
            held.push(take_all(&budget, other));
        }
        held.clear();
        assert_eq!(budget.promised(), 0);
    }
}

#[test]
fn a_channel_that_had_all_falls_back_to_its_share_as_its_pieces_go() {
    let budget = Budget::new(BUDGET);
    let mut first = open(&budget, 1).unwrap();
    first.0.settle().unwrap();
    let _others: Vec<_> = (2..12).map(|other| open(&budget, other).unwrap()).collect();
    for _ in 0..40 {
        while first.0.admit(GUARANTEE).is_ok() {}
        let held = first.0.held;
        release(&mut first.0, held);
    }
    assert!(first.0.shared <= BUDGET / 16 * 5 / 10);
}

#[test]
fn a_reader_that_keeps_everything_is_granted_no_more() {
    let budget = Budget::new(BUDGET);
    let (mut window, room) = open(&budget, 1).unwrap();
    let granted = window.settle().unwrap();
    let mut arrived = 0;
    while window.admit(GUARANTEE).is_ok() {
        arrived += GUARANTEE;
    }
    assert!(arrived <= granted && granted - arrived < GUARANTEE);
    assert_eq!(window.settle(), None);
    window.close();
    assert!(budget.promised() >= arrived, "what a reader holds is still counted");
    let held = window.held;
    release(&mut window, held);
    assert_eq!(budget.promised(), CONTROL);
    drop(room);
    assert_eq!(budget.promised(), 0);
}

#[test]
fn a_smaller_window_of_a_connection_is_given_back_as_data_is_read() {
    const MIB: u64 = 1024 * 1024;
    let budget = Budget::new(BUDGET);
    let lane = budget.open_lane(peer(1)).unwrap();
    let mut told = 0;
    lane.resize(32 * MIB, 0, |window| told = window);
    assert_eq!((told, budget.promised()), (32 * MIB, 32 * MIB));
    // It may have been told so much already: until that is used up, it counts.
    lane.resize(16 * MIB, 4 * MIB, |window| told = window);
    assert_eq!((told, budget.promised()), (16 * MIB, 32 * MIB));
    lane.resize(16 * MIB, 4 * MIB, |_| unreachable!("nothing is new"));
    assert_eq!(budget.promised(), 28 * MIB);
    lane.resize(20 * MIB, 100 * MIB, |window| told = window);
    assert_eq!((told, budget.promised()), (20 * MIB, 20 * MIB));
    lane.close();
    drop(lane);
    assert_eq!(budget.promised(), 0);
}
