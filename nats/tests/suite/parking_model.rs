//! Parking against a model: whatever arrives, fails, is asked for and dies, in any order, every aggregate's messages are
//! handled in order, none is lost, and none is handled twice unless somebody died.
//!
//! Every step waits until the workers are at rest, so that with two of them the order is that of the model: what two
//! processes do with two messages that are under way at once is not promised (ADR 16). At rest means that the server
//! waits for no acknowledgement: what is as the model says before a request was looked at, or before a message was
//! acknowledged, would become something else with the next step.

use crate::{
    parking::{Running, World, add, at_rest, discard, letter, retry, start_at},
    rig::{DEADLINE, Rig, becomes, item, until},
};
use events::Subject;
use proptest::{prelude::*, sample::select};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use std::collections::BTreeSet;
use tokio::runtime::Runtime;

const KEYS: usize = 3;
const WORKERS: usize = 2;

/// What an operator asked for, and of which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Retry(u64),
    Discard(u64),
}

/// One aggregate as it should be.
#[derive(Clone, Debug, Default)]
struct Key {
    arrived: u64,
    poisoned: BTreeSet<u64>,
    parked: Option<u64>,
    asked: Vec<Asked>,
    /// Whether what was asked for may be in the hands of somebody who died: it comes again behind what is asked for later.
    taken: bool,
    done: u64,
    handled: Vec<u64>,
}

impl Key {
    /// What workers do until there is nothing left to do.
    fn run(&mut self) {
        self.taken = false;
        for asked in std::mem::take(&mut self.asked) {
            self.flow();
            match asked {
                Asked::Retry(version)
                    if self.parked == Some(version) && !self.poisoned.contains(&version) =>
                {
                    self.handled.push(version);
                    (self.done, self.parked) = (version, None);
                }
                Asked::Discard(version) if self.parked == Some(version) => {
                    (self.done, self.parked) = (version, None);
                }
                Asked::Retry(_) | Asked::Discard(_) => {}
            }
        }
        self.flow();
    }

    fn flow(&mut self) {
        while self.parked.is_none() && self.done < self.arrived {
            let next = self.done + 1;
            if self.poisoned.contains(&next) {
                self.parked = Some(next);
            } else {
                self.handled.push(next);
                self.done = next;
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    keys: [Key; KEYS],
    alive: [bool; WORKERS],
    /// Whether somebody may have died between doing something and saying so.
    died: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// A message arrives, perhaps one that cannot be handled.
    Arrive(usize, bool),
    /// What could not be handled now can be.
    Heal(usize),
    Retry(usize),
    Discard(usize),
    /// A worker is killed while nothing happens.
    Kill(usize),
    /// A worker is killed right after something was asked for.
    RetryAndKill(usize, usize),
    Start(usize),
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let key = || select((0..KEYS).collect::<Vec<_>>());
        let worker = || select((0..WORKERS).collect::<Vec<_>>());
        prop_oneof![
            12 => (key(), prop::bool::weighted(0.3)).prop_map(|(key, poisoned)| Step::Arrive(key, poisoned)),
            4 => key().prop_map(Step::Heal),
            4 => key().prop_map(Step::Retry),
            2 => key().prop_map(Step::Discard),
            1 => worker().prop_map(Step::Kill),
            1 => (key(), worker()).prop_map(|(key, worker)| Step::RetryAndKill(key, worker)),
            4 => worker().prop_map(Step::Start),
        ]
        .boxed()
    }

    fn preconditions(model: &Self, step: &Step) -> bool {
        match step {
            Step::Retry(key) => model.keys[*key].parked.is_some(),
            // Which of two comes first, the other being in dead hands, is not promised.
            Step::Discard(key) => model.keys[*key].parked.is_some() && !model.keys[*key].taken,
            Step::RetryAndKill(key, worker) => model.keys[*key].parked.is_some() && model.alive[*worker],
            Step::Kill(worker) => model.alive[*worker],
            Step::Start(worker) => !model.alive[*worker],
            Step::Arrive(..) | Step::Heal(_) => true,
        }
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        match *step {
            Step::Arrive(key, poisoned) => {
                let key = &mut model.keys[key];
                key.arrived += 1;
                if poisoned {
                    key.poisoned.insert(key.arrived);
                }
            }
            Step::Heal(key) => {
                model.keys[key].poisoned.pop_first();
            }
            Step::Retry(key) => model.ask(key, Asked::Retry),
            Step::Discard(key) => model.ask(key, Asked::Discard),
            Step::Kill(worker) => model.alive[worker] = false,
            Step::RetryAndKill(key, worker) => {
                model.ask(key, Asked::Retry);
                model.keys[key].taken = true;
                (model.alive[worker], model.died) = (false, true);
            }
            Step::Start(worker) => model.alive[worker] = true,
        }
        if model.alive.contains(&true) {
            model.keys.iter_mut().for_each(Key::run);
        }
        model
    }
}

impl Model {
    fn ask(&mut self, key: usize, asked: fn(u64) -> Asked) {
        let key = &mut self.keys[key];
        key.asked.extend(key.parked.map(asked));
    }
}

struct Real {
    runtime: Runtime,
    rig: Rig,
    world: World,
    items: [Subject; KEYS],
    workers: [Option<Worker>; WORKERS],
}

/// A worker in a runtime of its own, which dies as a process does: with everything that runs in it.
struct Worker(Runtime, #[expect(dead_code, reason = "runs as long as it is kept")] Running);

impl Real {
    /// What was handled of an aggregate, and the error with which it is parked.
    async fn seen(&self, key: usize, died: bool) -> (Vec<u64>, Option<String>) {
        let of = &self.items[key];
        let mut handled = self.world.handled(of);
        if died {
            let mut seen = BTreeSet::new();
            handled.retain(|version| seen.insert(*version));
        }
        (handled, letter(&self.rig, of).await.map(|letter| letter.failure.error))
    }

    fn ask(&self, key: usize, how: impl AsyncFnOnce(&Rig, &nats::DeadLetter)) {
        self.runtime.block_on(async {
            // While nobody works it may be asked for twice.
            if let Some(letter) = letter(&self.rig, &self.items[key]).await {
                how(&self.rig, &letter).await;
            }
        });
    }

    fn kill(&mut self, worker: usize) {
        if let Some(Worker(runtime, _)) = self.workers[worker].take() {
            // Its threads go on for some turns, and could handle what the next step brings: it is dead when they are.
            runtime.shutdown_timeout(DEADLINE);
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime = runtime();
        let rig = runtime.block_on(Rig::start());
        Self { runtime, rig, world: World::default(), items: [item(), item(), item()], workers: [None, None] }
    }

    fn apply(mut real: Self, model: &Model, step: Step) -> Self {
        match step {
            Step::Arrive(key, poisoned) => {
                let version = model.keys[key].arrived;
                if poisoned {
                    real.world.poison(&real.items[key], version);
                }
                real.runtime.block_on(add(&real.rig, &real.items[key], version..=version));
            }
            Step::Heal(key) => real.world.heal_all_but(&real.items[key], &model.keys[key].poisoned),
            Step::Retry(key) => real.ask(key, retry),
            Step::Discard(key) => real.ask(key, discard),
            Step::Kill(worker) => real.kill(worker),
            Step::RetryAndKill(key, worker) => {
                real.ask(key, retry);
                real.kill(worker);
            }
            Step::Start(worker) => {
                let own = runtime();
                let running = own.block_on(start_at(&real.rig.server.url(), &real.world, "park:2"));
                real.workers[worker] = Some(Worker(own, running));
            }
        }
        if model.alive.contains(&true) {
            real.runtime.block_on(async {
                until("the workers are at rest", async || at_rest(&real.rig).await).await;
                for (key, expected) in model.keys.iter().enumerate() {
                    let error = expected.parked.map(|version| format!("version {version} is poisoned"));
                    let (what, expected) =
                        (format!("{key} after {step:?}"), (expected.handled.clone(), error));
                    becomes(&what, &expected, async || real.seen(key, model.died).await).await;
                }
            });
        }
        real
    }

    fn teardown(mut real: Self, _: Model) {
        (0..WORKERS).for_each(|worker| real.kill(worker));
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parking_never_loses_or_reorders(sequential 10..30 => Real);
}
