//! Any input in any state: never a panic, never a broken invariant; and proof that each pair of
//! a state and a kind of input was tried.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use windlass_core::run_store::{AttemptEnd, Resolution};
use windlass_core::{
    Failure, FailureClass, FencingToken, Slot, StepOutput, StepState, TimeoutKind, Timestamp,
};

use super::plan::{Plan, any_plan};
use super::player::{Mood, Player, any_value};
use super::world::{World, kind_of, looked};
use crate::decide::Input;

/// Bits for one input, right or wrong.
type Bits = (u8, u8, u8, u16);

fn any_bits() -> impl Strategy<Value = Vec<Bits>> {
    vec(any::<Bits>(), 1..120)
}

/// Returns a slot that mostly exists.
fn slot(w: &World, bits: u8) -> Slot {
    let known = w.slots();
    match bits {
        0 => Slot::step(u32::MAX),
        1 => Slot::item(0, u32::MAX),
        2 => Slot::item(u32::MAX, 0),
        _ => known[bits as usize % known.len()],
    }
}

/// Returns a token that is often the right one.
fn token(w: &World, slot: Slot, bits: u8) -> FencingToken {
    match bits % 4 {
        0 => FencingToken::new(u64::from(bits / 4)),
        1 => FencingToken::new(u64::MAX),
        _ => w.live.get(&slot).copied().unwrap_or_default(),
    }
}

fn end(bits: u16) -> AttemptEnd {
    match bits % 6 {
        0 | 1 => AttemptEnd::Succeeded,
        2 => AttemptEnd::Failed(Failure::permanent("bad input")),
        3 => AttemptEnd::Cancelled,
        4 => AttemptEnd::Unknown("nobody answers".to_owned()),
        _ => {
            let classes = FailureClass::ALL;
            AttemptEnd::Failed(Failure::new(
                classes[bits as usize / 6 % classes.len()],
                "broken",
            ))
        }
    }
}

fn input(w: &World, (kind, which, tokens, rest): Bits) -> Input {
    let slot = slot(w, which);
    let token = token(w, slot, tokens);
    match kind % 30 {
        0 => Input::Start,
        1..=4 => Input::Evaluated {
            slot,
            value: any_value(rest as usize),
        },
        5..=8 => Input::Admitted { slot },
        9 | 10 => Input::Started { slot, token },
        11 if rest % 2 == 0 => Input::Beat { slot, token },
        11 => Input::NotKept {
            slot,
            token,
            why: String::new(),
        },
        12..=15 => Input::Ended {
            slot,
            token,
            end: end(rest),
            output: StepOutput::empty(),
            usage: None,
        },
        16 => Input::NeverStarted { slot, token },
        17 | 18 => Input::Wake { slot },
        19 | 20 => {
            let kind = TimeoutKind::ALL[rest as usize % TimeoutKind::ALL.len()];
            Input::Timeout { slot, kind, token }
        }
        21 if rest < 6_000 => Input::Deadline,
        22 if rest < 9_000 => Input::Cancel {
            reason: String::new(),
        },
        23 => Input::Pause,
        24 => Input::Resume,
        25 => Input::Recover {
            started: (rest % 2 == 0).then_some(Timestamp::from_micros(i64::from(rest))),
        },
        26 | 27 => Input::Resolve {
            slot,
            resolution: resolution(rest),
        },
        28 | 29 => looked(slot, rest % 2 == 0),
        _ => Input::Wake { slot },
    }
}

const fn resolution(bits: u16) -> Resolution {
    match bits % 3 {
        0 => Resolution::Succeeded,
        1 => Resolution::Failed,
        _ => Resolution::Retry,
    }
}

/// Feeds garbage between the moves of an ordinary run, at times that jump either way.
fn play_garbage(
    plan: &Plan,
    choices: &[u16],
    garbage: &[Bits],
) -> BTreeSet<(StepState, &'static str)> {
    let mut player = Player::new(plan, Mood::Rough);
    player.world.garbage = true;
    let rounds = choices.chunks(4).chain(std::iter::repeat(&[][..]));
    for (bits, choices) in garbage.iter().zip(rounds) {
        player.nudge(choices);
        let w = &mut player.world;
        let now = w.now;
        w.now = match bits.3 % 16 {
            0 => Timestamp::from_micros(i64::MIN),
            1 => Timestamp::from_micros(i64::MAX),
            2 => Timestamp::from_micros(now.as_micros() - 5_000_000),
            _ => now.after(std::time::Duration::from_secs(u64::from(bits.3 % 16))),
        };
        w.random = u64::MAX / (u64::from(bits.3) + 1);
        let input = input(w, *bits);
        w.event(input);
        w.now = now;
    }
    player.world.seen.clone()
}

proptest! {
    #![proptest_config(super::random::config())]

    #[test]
    fn no_input_in_any_state_panics_or_breaks_an_invariant(
        plan in any_plan(true), choices in vec(any::<u16>(), 0..200), garbage in any_bits()
    ) {
        play_garbage(&plan, &choices, &garbage);
    }
}

#[test]
fn every_pair_of_a_state_and_an_input_was_tried() {
    let mut runner = TestRunner::deterministic();
    let strategy = (any_plan(true), vec(any::<u16>(), 0..200), any_bits());
    let mut seen = BTreeSet::new();
    for _ in 0..2_500 {
        let (plan, choices, garbage) = strategy.new_tree(&mut runner).unwrap().current();
        seen.extend(play_garbage(&plan, &choices, &garbage));
    }
    let slot = Slot::step(0);
    let token = FencingToken::new(0);
    let kinds = [
        Input::Start,
        Input::Evaluated {
            slot,
            value: any_value(0),
        },
        looked(slot, true),
        Input::Admitted { slot },
        Input::Started { slot, token },
        Input::Beat { slot, token },
        Input::NotKept {
            slot,
            token,
            why: String::new(),
        },
        Input::Ended {
            slot,
            token,
            end: AttemptEnd::Succeeded,
            output: StepOutput::empty(),
            usage: None,
        },
        Input::NeverStarted { slot, token },
        Input::Wake { slot },
        Input::Timeout {
            slot,
            kind: TimeoutKind::Run,
            token,
        },
        Input::Deadline,
        Input::Cancel {
            reason: String::new(),
        },
        Input::Pause,
        Input::Resume,
        Input::Resolve {
            slot,
            resolution: Resolution::Retry,
        },
        Input::Recover { started: None },
    ];
    let mut missing = Vec::new();
    for state in StepState::ALL {
        for kind in kinds.iter().map(|k| kind_of(k).0) {
            if !seen.contains(&(*state, kind)) {
                missing.push((*state, kind));
            }
        }
    }
    assert!(missing.is_empty(), "never tried: {missing:?}");
}
