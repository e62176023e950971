//! Whether the pieces of a session go by TCP: a pure state machine over what they moved and what that cost. Time comes in; there is no
//! clock here.
//!
//! TCP is tried where nothing but processor time bounds a session: a short and clean path, threads of QUIC that are busy, pieces that wait.
//! Where it is the receiver whose threads are busy, it offers a lane, and the sender tries that.
//! It is kept where more arrives than before, or as much for clearly less processor time, and else it is long until the next try.

use std::time::Duration;

use proto_model::config::TcpLane as Policy;

/// A longer round trip is no local network, where QUIC's congestion control is the better one.
const SHORT: Duration = Duration::from_millis(3);
/// One that is kept is not given up for less than this.
const NOT_SHORT: Duration = Duration::from_millis(6);
/// More lost than this is no clean path. A busy receiver drops some datagrams for want of time.
const LOSS: f64 = 0.01;
/// The busiest thread is at work, or waits for a processor, for more than this part of the time.
const PRESSED: f64 = 0.85;
/// So many bytes a second make a receiver busy.
const MUCH: f64 = 20e6;
/// Pieces wait for a stream or for credit for more than this part of the time: there is enough to send.
const WAITING: f64 = 0.5;
/// So many samples in a row have to say so.
const EVIDENCE: u32 = 3;
/// Samples that are left out after a change, and samples that a try is judged by.
const SETTLE: u32 = 2;
const JUDGE: u32 = 4;
/// Kept where goodput grew by more than noise,
const GROWN: f64 = 1.08;
/// or did not fall by more, for so much of the processor time.
const AS_MUCH: f64 = 0.95;
const CHEAPER: f64 = 0.8;
/// One that is kept and moves less than this part of what QUIC did, for so many samples, is given up.
const FALLEN: f64 = 0.8;
const FALLEN_FOR: u32 = 10;
/// After a try that did not pay, could not be made or broke, so long passes before the next; doubled each time, up to the most.
const LEAST_PAUSE: Duration = Duration::from_secs(30);
const MOST_PAUSE: Duration = Duration::from_secs(3600);
/// The same where TCP is to be used always.
const ALWAYS_PAUSE: Duration = Duration::from_secs(5);

/// What was seen since the sample before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) elapsed: Duration,
    /// Bytes a second.
    pub(crate) goodput: f64,
    /// Bytes a second that arrive.
    pub(crate) arriving: f64,
    /// There is a lane: the peer offers it, or uses it for its own pieces.
    pub(crate) offered: bool,
    /// Processor seconds a second of the session's threads together.
    pub(crate) work: f64,
    /// The part of the time in which the busiest of them was at work, or waited for a processor.
    pub(crate) pressed: f64,
    /// Without a queue.
    pub(crate) round_trip: Duration,
    /// The part of what was sent that was lost.
    pub(crate) lost: f64,
    /// The part of the time in which pieces waited for a stream or for credit.
    pub(crate) waiting: f64,
    /// A bound of bandwidth concerns the session.
    pub(crate) bounded: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Pieces go by TCP, over a lane that may have to be dialled.
    Try,
    /// The peer may send by a lane that is to be dialled.
    Offer,
    /// They go on by it.
    Keep,
    /// They go by QUIC again.
    GiveUp(Why),
}

/// Why pieces go by QUIC again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It moved no more, and cost as much.
    NotPaid,
    /// A bound of bandwidth, or the path, makes it useless.
    NoUse,
    /// The settings say so.
    Off,
}

impl Why {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotPaid => "not_paid",
            Self::NoUse => "no_use",
            Self::Off => "off",
        }
    }
}

/// Decides for one end of a session.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    phase: Phase,
    /// Samples in a row that speak for a try, or against what is kept, and their sum.
    evidence: Sum,
    /// Samples in a row in which what arrives made this end busy.
    laden: u32,
    /// This end offered a lane, and does not use it.
    offering: bool,
    /// What QUIC moved before the try.
    before: Option<Rate>,
    pause: Duration,
    last_pause: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Without,
    /// A lane is being dialled.
    Opening,
    /// So many samples are to be left out yet.
    Judging(u32),
    With,
}

/// Bytes a second, and processor seconds a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    goodput: f64,
    work: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    samples: u32,
    rate: Rate,
}

impl Sum {
    fn add(&mut self, look: &Look) -> u32 {
        self.samples += 1;
        self.rate.goodput += look.goodput;
        self.rate.work += look.work;
        self.samples
    }

    fn take(&mut self) -> Rate {
        let Self { samples, rate } = std::mem::take(self);
        let samples = f64::from(samples.max(1));
        Rate { goodput: rate.goodput / samples, work: rate.work / samples }
    }
}

impl Choice {
    /// Whether pieces are to go by TCP.
    pub(crate) fn wants(&self) -> bool {
        self.phase != Phase::Without
    }

    /// Takes a sample; says what is to change.
    pub(crate) fn sample(&mut self, look: &Look, policy: Policy) -> Option<Step> {
        self.pause = self.pause.saturating_sub(look.elapsed);
        if policy == Policy::Always {
            self.pause = self.pause.min(ALWAYS_PAUSE);
        }
        match (policy, self.phase) {
            (_, Phase::Opening) | (Policy::Off, Phase::Without) => None,
            (Policy::Off, Phase::Judging(_) | Phase::With) => self.give_up(Why::Off),
            (Policy::Always, Phase::Without) => self.pause.is_zero().then(|| self.open(None)),
            (Policy::Always, Phase::Judging(_) | Phase::With) => None,
            (Policy::Auto, Phase::Without) => self.look_without(look),
            (Policy::Auto, Phase::Judging(settling)) => self.judge(look, settling),
            (Policy::Auto, Phase::With) => self.look_with(look),
        }
    }

    /// There is a lane, and pieces go by it from now on.
    pub(crate) fn opened(&mut self) {
        if self.phase == Phase::Opening {
            self.phase = if self.before.is_some() { Phase::Judging(SETTLE) } else { Phase::With };
        }
    }

    /// There is no lane: it could not be dialled, or broke. One that was ended because nobody used it is no failure.
    pub(crate) fn lost(&mut self, failed: bool, policy: Policy) {
        // One that was offered, and that nobody used any more.
        let declined = std::mem::take(&mut self.offering);
        (self.phase, self.evidence, self.before) = (Phase::Without, Sum::default(), None);
        if failed || declined {
            self.rest(policy);
        }
    }

    fn open(&mut self, before: Option<Rate>) -> Step {
        (self.phase, self.before, self.evidence) = (Phase::Opening, before, Sum::default());
        self.offering = false;
        Step::Try
    }

    fn rest(&mut self, policy: Policy) {
        self.last_pause = match policy {
            Policy::Always => ALWAYS_PAUSE,
            Policy::Auto | Policy::Off => (self.last_pause * 2).clamp(LEAST_PAUSE, MOST_PAUSE),
        };
        (self.pause, self.laden) = (self.last_pause, 0);
    }

    fn give_up(&mut self, why: Why) -> Option<Step> {
        (self.phase, self.evidence, self.before) = (Phase::Without, Sum::default(), None);
        if why == Why::NotPaid {
            self.rest(Policy::Auto);
        }
        Some(Step::GiveUp(why))
    }

    fn look_without(&mut self, look: &Look) -> Option<Step> {
        if self.pause.is_zero() && self.is_laden(look) {
            self.offering = true;
            return Some(Step::Offer);
        }
        let speaks = look.round_trip < SHORT
            && look.lost < LOSS
            && (look.pressed > PRESSED || look.offered)
            && look.waiting > WAITING
            && !look.bounded
            && self.pause.is_zero();
        if !speaks {
            self.evidence = Sum::default();
            return None;
        }
        if self.evidence.add(look) < EVIDENCE {
            return None;
        }
        let before = self.evidence.take();
        Some(self.open(Some(before)))
    }

    /// Whether this end has not enough processor time for what arrives, and no lane was offered yet.
    fn is_laden(&mut self, look: &Look) -> bool {
        let laden = look.round_trip < SHORT
            && look.pressed > PRESSED
            && look.arriving > MUCH
            && look.arriving > 2.0 * look.goodput
            && !look.offered;
        self.laden = if laden { self.laden + 1 } else { 0 };
        let enough = self.laden >= EVIDENCE;
        if enough {
            self.laden = 0;
        }
        enough
    }

    fn judge(&mut self, look: &Look, settling: u32) -> Option<Step> {
        if is_of_no_use(look) {
            return self.give_up(Why::NoUse);
        }
        if settling > 0 {
            self.phase = Phase::Judging(settling - 1);
            return None;
        }
        // Where there is not enough to send nothing can be found out.
        if look.waiting <= WAITING && look.goodput < self.before.unwrap_or_default().goodput {
            return None;
        }
        if self.evidence.add(look) < JUDGE {
            return None;
        }
        let (now, before) = (self.evidence.take(), self.before.unwrap_or_default());
        let cost = |rate: Rate| rate.work / rate.goodput.max(1.0);
        let grown = now.goodput >= before.goodput * GROWN;
        let cheaper = now.goodput >= before.goodput * AS_MUCH && cost(now) <= cost(before) * CHEAPER;
        if !(grown || cheaper) {
            return self.give_up(Why::NotPaid);
        }
        self.phase = Phase::With;
        self.last_pause = Duration::ZERO;
        Some(Step::Keep)
    }

    fn look_with(&mut self, look: &Look) -> Option<Step> {
        if is_of_no_use(look) {
            return self.give_up(Why::NoUse);
        }
        let before = self.before.unwrap_or_default().goodput;
        if look.waiting <= WAITING || look.goodput >= before * FALLEN {
            self.evidence = Sum::default();
        } else if self.evidence.add(look) >= FALLEN_FOR {
            return self.give_up(Why::NotPaid);
        }
        None
    }
}

fn is_of_no_use(look: &Look) -> bool {
    look.bounded || look.round_trip > NOT_SHORT
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A session on a fast path, whose threads are busy.
    const FAST: Look = Look {
        elapsed: SECOND,
        goodput: 300e6,
        arriving: 1e6,
        offered: false,
        work: 1.0,
        pressed: 0.97,
        round_trip: Duration::from_micros(200),
        lost: 0.0,
        waiting: 0.9,
        bounded: false,
    };

    fn steps(choice: &mut Choice, look: &Look, samples: usize) -> Vec<Step> {
        (0..samples).filter_map(|_| choice.sample(look, Policy::Auto)).collect()
    }

    fn tried() -> Choice {
        let mut choice = Choice::default();
        assert_eq!(steps(&mut choice, &FAST, 3), [Step::Try]);
        assert!(choice.wants());
        choice.opened();
        choice
    }

    #[test]
    fn it_is_tried_only_where_processor_time_alone_bounds_a_session() {
        let others = [
            Look { pressed: 0.8, ..FAST },
            Look { round_trip: Duration::from_millis(4), ..FAST },
            Look { lost: 0.02, ..FAST },
            Look { waiting: 0.2, ..FAST },
            Look { bounded: true, ..FAST },
        ];
        for look in others {
            assert_eq!(steps(&mut Choice::default(), &look, 100), [], "{look:?}");
        }
        tried();
        let offered = Look { pressed: 0.7, offered: true, ..FAST };
        assert_eq!(steps(&mut Choice::default(), &offered, 3), [Step::Try], "the peer is the busy one");
    }

    #[test]
    fn a_busy_receiver_offers_a_lane_and_ever_less_often_where_it_is_not_used() {
        let laden = Look { goodput: 1e5, arriving: 300e6, waiting: 0.0, ..FAST };
        let mut choice = Choice::default();
        assert_eq!(steps(&mut choice, &laden, 3), [Step::Offer]);
        assert!(!choice.wants());
        choice.opened();
        assert_eq!(steps(&mut choice, &Look { offered: true, ..laden }, 100), []);
        for pause in [30, 60, 120] {
            choice.lost(false, Policy::Auto);
            assert_eq!(steps(&mut choice, &laden, pause - 1), []);
            assert_eq!(steps(&mut choice, &laden, 4), [Step::Offer]);
        }
        for other in [Look { pressed: 0.5, ..laden }, Look { arriving: 1e6, ..laden }] {
            assert_eq!(steps(&mut Choice::default(), &other, 100), []);
        }
    }

    #[test]
    fn it_is_kept_where_more_arrives_or_as_much_for_less() {
        for look in [Look { goodput: 500e6, ..FAST }, Look { work: 0.5, pressed: 0.5, ..FAST }] {
            let mut choice = tried();
            assert_eq!(steps(&mut choice, &look, 6), [Step::Keep], "{look:?}");
            assert_eq!(steps(&mut choice, &look, 100), []);
            // A pause of what is sent changes nothing, a bound ends it, and it may be tried at once when that is gone.
            assert_eq!(steps(&mut choice, &Look { goodput: 0.0, waiting: 0.0, ..look }, 100), []);
            assert_eq!(steps(&mut choice, &Look { bounded: true, ..look }, 3), [Step::GiveUp(Why::NoUse)]);
            assert_eq!(steps(&mut choice, &FAST, 3), [Step::Try]);
        }
    }

    #[test]
    fn what_does_not_pay_is_given_up_and_tried_ever_less_often() {
        let mut choice = Choice::default();
        let (mut tries, mut seconds) = (Vec::new(), 0);
        for second in 0..7200 {
            match choice.sample(&FAST, Policy::Auto) {
                Some(Step::Try) => {
                    tries.push(second - seconds);
                    choice.opened();
                }
                Some(Step::GiveUp(Why::NotPaid)) => seconds = second,
                None => {}
                other => unreachable!("{other:?}"),
            }
        }
        assert!(tries.windows(2).all(|pair| pair[0] <= pair[1]), "{tries:?}");
        assert!(tries.len() <= 9 && tries[1] >= 30, "{tries:?}");
    }

    #[test]
    fn a_path_that_takes_no_tcp_costs_a_try_now_and_then() {
        let mut choice = Choice::default();
        let mut tries = 0;
        for _ in 0..3600 {
            if choice.sample(&FAST, Policy::Auto) == Some(Step::Try) {
                tries += 1;
                choice.lost(true, Policy::Auto);
            }
        }
        assert!((3..=8).contains(&tries), "{tries}");
    }

    #[test]
    fn one_that_falls_behind_or_whose_path_grows_long_is_given_up() {
        let kept = || {
            let mut choice = tried();
            assert_eq!(steps(&mut choice, &Look { goodput: 500e6, ..FAST }, 6), [Step::Keep]);
            choice
        };
        let slow = Look { goodput: 100e6, ..FAST };
        assert_eq!(steps(&mut kept(), &slow, 12), [Step::GiveUp(Why::NotPaid)]);
        let far = Look { round_trip: Duration::from_millis(20), ..FAST };
        assert_eq!(steps(&mut kept(), &far, 2), [Step::GiveUp(Why::NoUse)]);
        let mut choice = kept();
        choice.lost(false, Policy::Auto);
        assert_eq!(steps(&mut choice, &FAST, 3), [Step::Try], "who ended it because nobody used it need not wait");
    }

    #[test]
    fn always_and_off_are_obeyed_whatever_is_seen() {
        let mut choice = Choice::default();
        let slow = Look { goodput: 0.0, pressed: 0.0, bounded: true, waiting: 0.0, ..FAST };
        assert_eq!(choice.sample(&slow, Policy::Off), None);
        assert_eq!(choice.sample(&slow, Policy::Always), Some(Step::Try));
        choice.lost(true, Policy::Always);
        assert_eq!((0..5).filter_map(|_| choice.sample(&slow, Policy::Always)).count(), 1);
        choice.opened();
        assert_eq!(choice.sample(&slow, Policy::Always), None);
        assert_eq!(choice.sample(&FAST, Policy::Off), Some(Step::GiveUp(Why::Off)));
        assert!(!choice.wants());
    }
}
