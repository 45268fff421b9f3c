//! Histories of every version of the definition that was ever released, kept as files: a process that is under way when
//! new code is deployed must go on as it began. Given, when and then of the process are told with them too.

use super::{Answer, Ask, Definition, Process, ProcessCommand, Times, Verb, process::begin};
use crate::{
    Aggregate, Refusal,
    fixtures::{created, line, order, user},
};
use events::{
    DomainEvent,
    fulfilment::{ProcessEvent, Step},
    orders::{Ordered, Reason, Workflow},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

/// A process and everything that was asked of it, with what it did about it.
struct Story {
    definition: &'static Definition,
    state: <Process as Aggregate>::State,
    now: Timestamp,
    sequence: u64,
    told: Vec<Value>,
}

impl Story {
    fn of(definition: &'static Definition) -> Self {
        Self { definition, state: None, now: Timestamp::UNIX_EPOCH, sequence: 0, told: vec![] }
    }

    /// Asks, and gives what was recorded in words.
    fn ask(&mut self, ask: Ask) -> Result<Vec<String>, Refusal> {
        self.now += SignedDuration::from_millis(10);
        let (now, times) = (self.now, Times::default());
        let asked = format!("{ask:?}");
        let events = match (&self.state, ask) {
            (None, Ask::Start(order)) if self.definition.version != Definition::CURRENT.version => {
                begin(self.definition, *order, now, times)
            }
            (state, ask) => {
                Process::decide(state, ProcessCommand { now, times, ask }).map_err(Refusal::from)?
            }
        };
        let body = |event: &ProcessEvent| -> Value {
            let mut body: Value = serde_json::from_slice(&event.to_json()).unwrap();
            // As long as the rest together, and always the same.
            for field in ["items", "shippingAddress", "totalAmount"] {
                body.as_object_mut().unwrap().remove(field);
            }
            json!({ "type": event.fact_type().name, "data": body })
        };
        // What an order says is in its facts; here it would only be long.
        let asked = asked
            .split_once(" {")
            .filter(|(what, _)| *what == "Start(Ordered")
            .map_or_else(|| asked.clone(), |_| "Start".to_owned());
        self.told
            .push(json!({ "now": now, "ask": asked, "then": events.iter().map(body).collect::<Vec<_>>() }));
        for event in &events {
            // As it is read from the log.
            let fact = event.fact_type();
            let read = ProcessEvent::from_json(fact.name, fact.version, &event.to_json()).unwrap();
            self.state = Process::evolve(self.state.take(), &read);
        }
        Ok(events.iter().map(|event| event.fact_type().name.to_owned()).collect())
    }

    fn start(&mut self) {
        let order = created(&[line("TEA", 2, 450)]);
        let order = Ordered { workflow: Workflow::Orchestration, ..Ordered::from(&order) };
        let told = self.ask(Ask::Start(Box::new(order))).unwrap();
        let all = ["process.started", "step.requested"];
        assert_eq!(told, if self.definition.together { &all[..1] } else { &all });
    }

    /// A step is done, and this follows from it.
    fn done(&mut self, step: Step, next: &str) {
        let told = self.answer(step, Answer::Done);
        let all = ["step.succeeded", next];
        assert_eq!(told, if self.definition.together { &all[1..] } else { &all });
    }

    /// The timer of a step that was done fires, and is set for the one that is not.
    fn wait(&mut self) {
        if self.definition.together {
            assert_eq!(self.due(), ["process.waiting"]);
        }
    }

    fn answer(&mut self, step: Step, answer: Answer) -> Vec<String> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.ask(Ask::Answer { step, answer, sequence }).unwrap()
    }

    /// The timer fires.
    fn due(&mut self) -> Vec<String> {
        let at = self.state.as_ref().unwrap().timer().unwrap();
        self.now = at;
        self.ask(Ask::Due(at)).unwrap()
    }

    fn operator(&mut self, verb: Verb) -> Result<Vec<String>, Refusal> {
        self.ask(Ask::Interfere(verb, "because".to_owned()))
    }

    fn cancel(&mut self) -> Vec<String> {
        self.ask(Ask::Cancel { order_id: order(1), user_id: user(1) }).unwrap()
    }
}

fn refused() -> Answer {
    Answer::Refused { reason: Reason::CarrierRefused, detail: "no".to_owned() }
}

/// Every way that a process can go, one after the other.
fn stories(definition: &'static Definition) -> Vec<(&'static str, Story)> {
    use Step::{Inventory, Payment, Shipping};
    let mut stories = Vec::new();
    let mut tell = |name, tell: fn(&mut Story)| {
        let mut story = Story::of(definition);
        tell(&mut story);
        stories.push((name, story));
    };
    tell("done", |story| {
        story.start();
        story.done(Payment, "step.requested");
        story.done(Inventory, "step.requested");
        story.done(Shipping, "process.completed");
        // Late, and twice.
        assert!(story.answer(Payment, Answer::Done).is_empty());
        assert!(story.ask(Ask::Due(story.now)).unwrap().is_empty());
        assert_eq!(story.operator(Verb::Compensate).unwrap_err().slug, "saga-ended");
        // The order let its customer go before it was told that all is done.
        assert_eq!(story.cancel(), ["compensation.requested"]);
    });
    tell("refused", |story| {
        story.start();
        story.answer(Payment, Answer::Done);
        story.answer(Inventory, Answer::Done);
        assert_eq!(story.answer(Shipping, refused()), ["step.failed", "compensation.requested"]);
        assert!(story.answer(Payment, Answer::Undone).is_empty(), "not its turn");
        let next = ["compensation.succeeded", "compensation.requested"];
        assert_eq!(story.answer(Inventory, Answer::Undone), next);
        assert_eq!(story.answer(Payment, Answer::Undone), ["compensation.succeeded", "process.failed"]);
        assert!(story.cancel().is_empty());
    });
    tell("silent", |story| {
        story.start();
        story.answer(Payment, Answer::Done);
        story.wait();
        for _ in 1..4 {
            assert_eq!(story.due(), ["step.timed_out"]);
            assert_eq!(story.due(), ["step.requested"]);
        }
        // Nobody knows whether it was done: it is undone first.
        assert_eq!(story.due(), ["step.timed_out", "compensation.requested"]);
        assert_eq!(
            story.answer(Inventory, Answer::Done),
            ["step.succeeded"],
            "late, and undone all the same"
        );
        story.answer(Inventory, Answer::Undone);
        assert_eq!(story.answer(Payment, Answer::Undone), ["compensation.succeeded", "process.failed"]);
        // Done after all, after it was undone.
        assert_eq!(story.answer(Inventory, Answer::Done), ["step.succeeded", "compensation.requested"]);
        assert_eq!(story.answer(Inventory, Answer::Undone), ["compensation.succeeded"]);
        assert!(story.state.as_ref().unwrap().timer().is_none());
    });
    tell("late", |story| {
        story.start();
        assert_eq!(story.due(), ["step.timed_out"]);
        // While it pauses, which leaves a timer.
        story.done(Payment, "step.requested");
        story.wait();
    });
    tell("cancelled", |story| {
        story.start();
        assert_eq!(story.cancel(), ["compensation.requested"]);
        assert_eq!(story.answer(Payment, refused()), ["compensation.succeeded", "process.failed"]);
    });
    tell("cancelled before it began", |story| {
        assert_eq!(story.cancel(), ["process.failed"]);
        let order = Ordered::from(&created(&[line("TEA", 2, 450)]));
        assert!(story.ask(Ask::Start(Box::new(order))).unwrap().is_empty());
    });
    tell("parked", |story| {
        story.start();
        story.cancel();
        for _ in 1..10 {
            assert_eq!(story.due(), ["compensation.failed"]);
            assert_eq!(story.due(), ["compensation.requested"]);
        }
        assert_eq!(story.due(), ["compensation.failed", "process.parked"]);
        assert!(story.state.as_ref().unwrap().parked);
        assert_eq!(story.operator(Verb::Resume).unwrap(), ["operator.resumed", "compensation.requested"]);
        assert_eq!(story.due(), ["compensation.failed"], "with attempts of its own");
        assert_eq!(story.operator(Verb::Retry).unwrap(), ["operator.retried", "compensation.requested"]);
        assert_eq!(story.operator(Verb::Resume).unwrap_err().slug, "saga-not-parked");
        assert_eq!(story.operator(Verb::Cancel).unwrap_err().slug, "saga-compensating");
        assert_eq!(story.operator(Verb::Skip).unwrap(), ["operator.skipped", "process.failed"]);
    });
    tell("helped", |story| {
        story.start();
        assert_eq!(story.operator(Verb::Skip).unwrap(), ["operator.skipped", "step.requested"]);
        story.answer(Inventory, Answer::Done);
        assert_eq!(story.operator(Verb::Cancel).unwrap(), ["operator.cancelled", "compensation.requested"]);
        for step in [Shipping, Inventory] {
            let next = ["compensation.succeeded", "compensation.requested"];
            assert_eq!(story.answer(step, Answer::Undone), next);
        }
        // What was skipped may have been done.
        assert_eq!(story.answer(Payment, Answer::Undone), ["compensation.succeeded", "process.failed"]);
    });
    stories
}

#[test]
fn every_way_a_process_can_go() {
    for definition in Definition::ALL {
        assert_eq!(stories(definition).len(), 8);
    }
    let refusal = Story::of(Definition::CURRENT).operator(Verb::Retry).unwrap_err();
    assert_eq!((refusal.slug, refusal.status), ("saga-not-found", 404));
}

/// The same asked again is answered the same, by every version that was ever released. A file that exists is never
/// written again.
#[test]
fn released_versions_go_on_as_they_began() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/process");
    let told = |definition| stories(definition).into_iter().map(move |story| (definition, story));
    for (definition, (name, story)) in Definition::ALL.into_iter().flat_map(told) {
        let folder = golden.join(definition.version.to_string());
        let file = folder.join(format!("{}.json", name.replace(' ', "-")));
        let told = Value::from(story.told);
        if !file.exists() {
            assert!(std::env::var_os("UPDATE_GOLDEN").is_some(), "{} is missing", file.display());
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, format!("{told:#}\n")).unwrap();
        }
        let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(told, kept, "{name} goes another way than the version that was released");
    }
}
