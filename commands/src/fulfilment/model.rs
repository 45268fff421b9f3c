//! Everything that can happen to orders that sagas carry, walked through to its end by stateright: messages that come twice,
//! late or never, answers after their deadline, services that die before and after what they do, customers and operators
//! at any moment.
//!
//! What happens is decided by the code of the services: `react`, the decisions behind it and the folds (`course`). The model
//! adds what lies between them. Courses are numbered as they are met (`book`): so each question is asked of the code once,
//! and a state of the whole is three numbers. Orders are alike, so two of them are taken without regard to which is which.
//!
//! What is left out: decisions on old states, which the guard of every append refuses, and messages of one kind for the same
//! service beside each other, which are the same command.

mod book;
mod course;
mod desk;
mod fault;
mod verdict;

use super::{Definition, definition::IMPATIENT};
use crate::orders::OrderStatus;
use book::{Book, Shelf};
use course::Move;
use events::{DomainEvent, Fact};
use fault::Fault;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};
use verdict::Verdict;

/// What an order costs; it asks for one unit.
const PRICE: i64 = 450;

/// How much can happen.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    definition: &'static Definition,
    orders: usize,
    /// For so many orders there is money and stock.
    means: Vec<(i64, u32)>,
    /// How many mishaps there are at most, over all orders.
    mishaps: u8,
    /// Whether operators do more than to bring back what is parked. Each time is a mishap too.
    verbs: bool,
    fault: Option<Fault>,
}

/// Two orders, with means for both or for one of them.
fn two() -> Bounds {
    let means = vec![(2, 2), (1, 2), (2, 1)];
    Bounds { definition: &IMPATIENT, orders: 2, means, mishaps: 2, verbs: false, fault: None }
}

/// One order that operators meddle with, with more that goes wrong.
fn one() -> Bounds {
    let means = vec![(1, 1), (0, 1), (1, 0)];
    Bounds { definition: &IMPATIENT, orders: 1, means, mishaps: 3, verbs: true, fault: None }
}

/// Where the orders are, by the numbers of the book, and what they share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    courses: [u32; 2],
    shelf: u32,
    /// How many mishaps there may still be.
    mishaps: u8,
}

struct Sagas {
    bounds: Bounds,
    book: Mutex<Book>,
}

impl Sagas {
    fn new(bounds: Bounds) -> Self {
        Self { book: Mutex::new(Book::new(&bounds)), bounds }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn of(&self, state: &State) -> (Vec<Arc<Verdict>>, Shelf) {
        let book = self.book();
        let courses = &state.courses[..self.bounds.orders];
        (courses.iter().map(|course| book.verdict(*course)).collect(), book.shelf(state.shelf))
    }
}

impl Model for Sagas {
    type State = State;
    /// Of which order, what, and whether it is a mishap.
    type Action = (usize, Move, bool);

    fn init_states(&self) -> Vec<State> {
        let book = self.book();
        let courses = [0; 2];
        (0..self.bounds.means.len())
            .map(|shelf| State { courses, shelf: book.first(shelf), mishaps: self.bounds.mishaps })
            .collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Self::Action>) {
        let book = self.book();
        // What the one can do the other can do, where they are at the same place.
        let alike = self.bounds.orders == 1 || state.courses[0] == state.courses[1];
        for place in 0..if alike { 1 } else { 2 } {
            let moves = book.moves(state.courses[place]);
            let may = moves.iter().filter(|(_, mishap)| !mishap || state.mishaps > 0);
            actions.extend(may.map(|(what, mishap)| (place, *what, *mishap)));
        }
    }

    fn next_state(&self, state: &State, (place, what, mishap): Self::Action) -> Option<State> {
        let (course, shared) = self.book().after(state.courses[place], state.shelf, what, &self.bounds)?;
        let mut courses = state.courses;
        courses[place] = course;
        if self.bounds.orders == 2 {
            courses.sort_unstable();
        }
        Some(State { courses, shelf: shared, mishaps: state.mishaps - u8::from(mishap) })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = LAWS.map(|(name, law)| Property::always(name, law)).to_vec();
        properties.extend(WITNESSES.map(|(name, witness)| Property::sometimes(name, witness)));
        properties
    }
}

type Condition = fn(&Sagas, &State) -> bool;

const PAID_BACK: &str = "an order that failed has cost nothing";
const MONEY: &str = "money is neither lost nor made";
const STOCK: &str = "stock is neither lost nor made";
const WHOLE: &str = "an order is completed only with everything done";
const ONCE: &str = "an order ends once";
const REVERSE: &str = "what was done is undone once, in the reverse order";
const ENDS: &str = "whatever comes to rest has ended";
const PARCELS: &str = "the carrier has a parcel only for an order that is completed, or under way";

const LAWS: [(&str, Condition); 8] = [
    (PAID_BACK, |m, s| {
        m.each(s, |it| it.status != OrderStatus::Failed || !(it.charged || it.reserved || it.scheduled))
    }),
    (MONEY, |m, s| {
        let (verdicts, shelf) = m.of(s);
        let charged = verdicts.iter().filter(|it| it.charged).count();
        shelf.balance + PRICE * i64::try_from(charged).unwrap() == shelf.money
    }),
    (STOCK, |m, s| {
        let (verdicts, shelf) = m.of(s);
        let held = verdicts.iter().filter(|it| it.reserved).count();
        (shelf.on_hand, shelf.reserved) == (shelf.stock, held as u64)
    }),
    (WHOLE, |m, s| {
        m.each(s, |it| it.status != OrderStatus::Completed || (it.charged && it.reserved && it.scheduled))
    }),
    (ONCE, |m, s| m.each(s, |it| it.ends <= 1)),
    (REVERSE, |m, s| m.each(s, |it| it.undone.is_sorted_by(|one, next| one > next))),
    (ENDS, |m, s| m.each(s, |it| !it.rests || (it.ends == 1 && it.settled))),
    (PARCELS, |m, s| m.each(s, |it| !it.rests || it.parcel == (it.status == OrderStatus::Completed))),
];

/// What has to come up, or the model is too small to tell anything.
const WITNESSES: [(&str, Condition); 7] = [
    ("completed", |m, s| m.any(s, |it| it.status == OrderStatus::Completed)),
    ("failed", |m, s| m.any(s, |it| it.status == OrderStatus::Failed)),
    ("cancelled", |m, s| m.any(s, |it| it.status == OrderStatus::Cancelled)),
    ("everything undone", |m, s| m.any(s, |it| it.rests && it.undone.len() == 3)),
    ("paid back", |m, s| m.any(s, |it| it.refunded)),
    ("parked", |m, s| m.any(s, |it| it.parked)),
    ("brought back", |m, s| m.any(s, |it| it.parked && it.rests)),
];

impl Sagas {
    fn each(&self, state: &State, holds: fn(&Verdict) -> bool) -> bool {
        self.of(state).0.iter().all(|verdict| holds(verdict))
    }

    fn any(&self, state: &State, holds: fn(&Verdict) -> bool) -> bool {
        self.of(state).0.iter().any(|verdict| holds(verdict))
    }
}

/// The type of a fact.
fn kind(fact: &Fact) -> &'static str {
    match fact {
        Fact::Order(it) => it.fact_type().name,
        Fact::Reservation(it) => it.fact_type().name,
        Fact::Payment(it) => it.fact_type().name,
        Fact::Shipment(it) => it.fact_type().name,
        Fact::Process(it) => it.fact_type().name,
        other => panic!("no saga hears of {other:?}"),
    }
}

/// Walks through everything; gives how many states there are.
fn check(name: &str, bounds: Bounds) -> usize {
    let begun = Instant::now();
    let checker = Sagas::new(bounds).checker().spawn_dfs().join();
    checker.assert_properties();
    let (courses, longest) = checker.model().book().no_way_leads_back();
    let (states, took) = (checker.unique_state_count(), begun.elapsed());
    println!("{name}: {states} states of {courses} courses of up to {longest} moves, {took:?}");
    states
}

#[test]
fn whatever_happens_to_two_orders_nothing_is_lost_and_both_end() {
    assert!(check("two orders", two()) > 100_000);
}

#[test]
fn whatever_happens_to_an_order_that_operators_meddle_with_it_ends() {
    assert!(check("one order", one()) > 10_000);
}

/// The laws can be broken: each of these faults is told of by its law.
#[test]
fn every_law_tells_of_its_breach() {
    let broken = [
        (Fault::RefundsNothing, PAID_BACK),
        (Fault::SilenceIsRefusal, PAID_BACK),
        (Fault::ForgetsPayments, MONEY),
        (Fault::KeepsStock, STOCK),
        (Fault::HoldsNothing, WHOLE),
        (Fault::ForgetsEnds, ONCE),
        (Fault::UndoesAtOnce, REVERSE),
        (Fault::NoTimer, ENDS),
        (Fault::CarrierForgets, PARCELS),
    ];
    let covered: BTreeSet<_> = broken.iter().map(|(_, law)| *law).collect();
    assert_eq!(covered, LAWS.iter().map(|(name, _)| *name).collect(), "no law is left out");
    for (fault, law) in broken {
        let bounds = Bounds { means: vec![(2, 2)], fault: Some(fault), ..two() };
        let told = HasDiscoveries::AllOf([law].into());
        let checker = Sagas::new(bounds).checker().finish_when(told).spawn_dfs().join();
        let path = checker.discovery(law).unwrap_or_else(|| panic!("nobody tells of {fault:?}"));
        println!("{fault:?} after {} moves: {law}", path.into_actions().len());
    }
}
