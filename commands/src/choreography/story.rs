//! Random stories: clients, services and failures in any order. Whatever happens, every order ends once, nothing is
//! held for an order that was not completed, and neither goods nor money appear or disappear.

mod laws;

use super::world::{Outside, World};
use crate::{
    Key,
    fixtures::{account, address, currency, eur, order, sealed, sku, user},
    inventory::{self, Item, Product, ProductCommand, StockChange},
    orders::{Order, OrderCommand, OrderStatus, Placement},
    payments::{self, Account, AccountCommand, Refund},
    shipping::{self, Shipment, ShipmentCommand},
};
use events::{
    Fact, OrderId,
    inventory::ReservationEvent,
    orders::{Line, OrderEvent, Reason, UserSnapshot, Workflow},
    payments::PaymentEvent,
    shipping::ShipmentEvent,
};
use laws::{check_limits, ends};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

const SKUS: [&str; 3] = ["TEA", "CUP", "POT"];
/// Accounts 1 and 4 are user 1's, 2 is user 2's, 3 does not exist; 4 is in yen.
const ACCOUNTS: [u128; 4] = [1, 2, 3, 4];
const MAX_ORDERS: usize = 6;

/// An order that somebody will place.
#[derive(Clone, Debug)]
struct Plan {
    account: u128,
    quantities: [u32; 3],
    workflow: Workflow,
    /// As soon as this is recorded, the customer takes the order back.
    cancel_after: Option<Stage>,
    /// As soon as a parcel is scheduled, somebody tries to dispatch it.
    eager: bool,
}

/// How far an order has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Created,
    Reserved,
    Charged,
    Scheduled,
}

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Place(usize),
    Cancel(usize, usize),
    Dispatch(usize, usize),
    Deliver(usize, usize),
    Refund(usize, usize),
    Receive(usize, u32),
    Adjust(usize, i64),
    Credit(usize, i64),
    Begin(usize, usize, u8),
    Finish(usize),
    DieBefore(usize),
    DieAfter(usize),
    Redeliver(usize),
    Fire(usize),
}

#[derive(Clone, Debug)]
struct Story {
    orders: Vec<Plan>,
    stock: [u32; 3],
    balances: [i64; 2],
    steps: Vec<Step>,
    seed: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let account = prop_oneof![6 => Just(1), 4 => Just(2), 1 => Just(3), 1 => Just(4)];
    let workflow = prop_oneof![Just(Workflow::Choreography), Just(Workflow::Orchestration)];
    let quantities = [0_u32..4, 0_u32..4, 1_u32..3];
    let cancel_after = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Stage::Created)),
        1 => Just(Some(Stage::Reserved)),
        2 => Just(Some(Stage::Charged)),
        2 => Just(Some(Stage::Scheduled)),
    ];
    (account, quantities, workflow, cancel_after, any::<bool>()).prop_map(
        |(account, quantities, workflow, cancel_after, eager)| Plan {
            account,
            quantities,
            workflow,
            cancel_after,
            eager,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let (order, pick, lag) = (0..MAX_ORDERS, any::<u16>().prop_map(usize::from), 0_usize..3);
    prop_oneof![
        4 => order.clone().prop_map(Step::Place),
        1 => (order.clone(), lag.clone()).prop_map(|(order, lag)| Step::Cancel(order, lag)),
        2 => (order.clone(), lag.clone()).prop_map(|(order, lag)| Step::Dispatch(order, lag)),
        1 => (order.clone(), lag.clone()).prop_map(|(order, lag)| Step::Deliver(order, lag)),
        1 => (order, lag.clone()).prop_map(|(order, lag)| Step::Refund(order, lag)),
        1 => (0_usize..3, 0_u32..4).prop_map(|(sku, quantity)| Step::Receive(sku, quantity)),
        1 => (0_usize..3, -4_i64..4).prop_map(|(sku, delta)| Step::Adjust(sku, delta)),
        1 => (0_usize..4, 0_i64..3000).prop_map(|(account, amount)| Step::Credit(account, amount)),
        24 => (pick.clone(), lag, any::<u8>()).prop_map(|(fact, lag, dice)| Step::Begin(fact, lag, dice)),
        20 => pick.clone().prop_map(Step::Finish),
        2 => pick.clone().prop_map(Step::DieBefore),
        2 => pick.clone().prop_map(Step::DieAfter),
        3 => pick.clone().prop_map(Step::Redeliver),
        4 => pick.prop_map(Step::Fire),
    ]
}

fn story() -> impl Strategy<Value = Story> {
    (
        prop::collection::vec(plan(), 1..=MAX_ORDERS),
        [0_u32..20, 0_u32..20, 0_u32..20],
        [0_i64..40_000, 0_i64..40_000],
        prop::collection::vec(step(), 0..150),
        any::<u64>(),
    )
        .prop_map(|(orders, stock, balances, steps, seed)| Story {
            orders,
            stock,
            balances,
            steps,
            seed,
        })
}

fn item(index: usize) -> Key<Item> {
    Key::new(sku(SKUS[index]))
}

impl Story {
    fn ids(&self) -> impl Iterator<Item = OrderId> {
        (0..self.orders.len()).map(id)
    }

    /// The catalogue, the stock and the accounts there are before the first order.
    fn open(&self, world: &mut World) {
        for (index, name) in SKUS.into_iter().enumerate() {
            let add = ProductCommand::Add { sku: sku(name), name: name.to_owned(), price: eur(100) };
            world.ask(0, |d| d.apply(&Key::<Product>::new(sku(name)), add.clone())).unwrap();
            let _ = receive(world, index, self.stock[index]);
        }
        for (of, owner, code) in [(1, 1, "EUR"), (2, 2, "EUR"), (4, 1, "JPY")] {
            let (account_id, user_id, currency) = (account(of), user(owner), currency(code));
            let open = AccountCommand::Open { account_id, user_id, currency };
            world.ask(0, |d| d.apply(&Key::<Account>::new(account_id), open.clone())).unwrap();
        }
        for (of, balance) in [1, 2].into_iter().zip(self.balances) {
            let _ = credit(world, of, balance);
        }
    }

    /// Something happens. Clients may be refused; that is their affair.
    fn happen(&self, world: &mut World, step: &Step) {
        let index = |order: usize| order % self.orders.len();
        let asked = match *step {
            Step::Place(order) => self.place(world, index(order)),
            Step::Cancel(order, lag) => {
                let command = OrderCommand::Cancel { reason: None };
                world.ask(lag, |d| d.apply(&Key::<Order>::new(id(index(order))), command.clone()))
            }
            Step::Dispatch(order, lag) => world.ask(lag, |d| shipping::dispatch(d, id(index(order)))),
            Step::Deliver(order, lag) => {
                let order_id = id(index(order));
                let command = ShipmentCommand::Deliver { order_id };
                world.ask(lag, |d| d.apply(&Key::<Shipment>::new(order_id), command.clone()))
            }
            Step::Refund(order, lag) => {
                let order_id = id(index(order));
                let ended = world.state(&Key::<Order>::new(order_id)).map(|order| order.status);
                let carried = self.orders[index(order)].workflow == Workflow::Orchestration;
                // Whoever asks is told to cancel instead; what a saga waits for nobody else does.
                if carried && ended != Some(OrderStatus::Completed) {
                    return;
                }
                let (reason, workflow) = (Reason::Requested, Workflow::Choreography);
                let refund = Refund { order_id, reason, never_charge: None, workflow };
                world.ask(lag, |d| payments::refund(d, &refund))
            }
            Step::Receive(sku, quantity) => receive(world, sku, quantity),
            Step::Adjust(index, delta) => {
                let change = StockChange::Adjust { delta, reason: "count".to_owned() };
                world.ask(0, |d| inventory::change_stock(d, &sku(SKUS[index]), change.clone()))
            }
            Step::Credit(account, amount) => credit(world, ACCOUNTS[account], amount),
            Step::Begin(fact, lag, dice) => return world.begin(fact, lag, Outside::new(dice)),
            Step::Finish(flight) => return world.finish(flight, false),
            Step::DieBefore(flight) => return world.die(flight),
            Step::DieAfter(flight) => return world.finish(flight, true),
            Step::Redeliver(fact) => return world.redeliver(fact),
            Step::Fire(timer) => return world.fire(timer),
        };
        let _ = asked;
    }

    fn place(&self, world: &mut World, index: usize) -> Result<(), crate::Refusal> {
        let Plan { account: of, quantities, workflow, .. } = self.orders[index];
        let price = if of == 2 { 1100 } else { 1000 };
        let lines = SKUS.into_iter().zip(quantities).filter(|(_, quantity)| *quantity > 0);
        let line = |(name, quantity)| Line { sku: sku(name), quantity, unit_price: eur(price) };
        let placement = Placement {
            order_id: id(index),
            user_id: user(if of == 2 { 2 } else { 1 }),
            account_id: account(of),
            items: lines.map(line).collect(),
            shipping_address: sealed(&address()),
            workflow,
            user_snapshot: UserSnapshot::default(),
        };
        let command = OrderCommand::Place(Box::new(placement));
        world.ask(0, |d| d.apply(&Key::<Order>::new(id(index)), command.clone()))
    }

    /// What customers and operators do about what was just recorded.
    fn follow(&self, world: &mut World, seen: &mut usize) {
        while let Some(fact) = world.log.get(*seen) {
            *seen += 1;
            let Some((stage, order_id)) = stage(fact) else { continue };
            let Some(index) = self.ids().position(|of| of == order_id) else { continue };
            if self.orders[index].cancel_after == Some(stage) {
                self.happen(world, &Step::Cancel(index, 0));
            }
            if self.orders[index].eager && stage == Stage::Scheduled {
                self.happen(world, &Step::Dispatch(index, 0));
            }
        }
    }

    /// Tells the story to its end and checks the world at every step.
    fn tell(&self) -> World {
        let mut world = World::default();
        self.open(&mut world);
        let mut seen = 0;
        for step in &self.steps {
            self.happen(&mut world, step);
            self.follow(&mut world, &mut seen);
            check_limits(&mut world);
        }
        for index in 0..self.orders.len() {
            let _ = self.place(&mut world, index);
        }
        world.rest(self.seed, |world| self.follow(world, &mut seen));
        self.check(&mut world);
        for (index, order_id) in self.ids().enumerate() {
            if index % 2 == 0 {
                let _ = world.ask(0, |d| shipping::dispatch(d, order_id));
            }
        }
        world.rest(!self.seed, |_| ());
        self.check(&mut world);
        self.check_repetition(&mut world);
        world
    }
}

/// How far an order has got by a fact.
fn stage(fact: &Fact) -> Option<(Stage, OrderId)> {
    match fact {
        Fact::Order(OrderEvent::Created(fact)) => Some((Stage::Created, fact.order_id)),
        Fact::Reservation(ReservationEvent::Reserved(fact)) => Some((Stage::Reserved, fact.order_id)),
        Fact::Payment(PaymentEvent::Charged(fact)) => Some((Stage::Charged, fact.order_id)),
        Fact::Shipment(ShipmentEvent::Scheduled(fact)) => Some((Stage::Scheduled, fact.order_id)),
        _ => None,
    }
}

fn id(index: usize) -> OrderId {
    order(index as u128)
}

fn receive(world: &mut World, index: usize, quantity: u32) -> Result<(), crate::Refusal> {
    let change = StockChange::Receive { quantity };
    world.ask(0, |d| inventory::change_stock(d, &sku(SKUS[index]), change.clone()))
}

fn credit(world: &mut World, of: u128, amount: i64) -> Result<(), crate::Refusal> {
    let command = AccountCommand::Credit { amount: eur(amount) };
    world.ask(0, |d| d.apply(&Key::<Account>::new(account(of)), command.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_every_order_ends_once_and_nothing_is_lost(story in story()) {
        story.tell();
    }
}

/// Two processes had one `payment.charged`. One booked the parcel late, as it knew nothing of the cancellation, and died;
/// the other had called it off and acknowledged the fact.
#[test]
fn a_late_booking_of_a_process_that_dies_belongs_to_nobody() {
    let plan = |quantities, cancel_after| Plan {
        account: 1,
        quantities,
        workflow: Workflow::Choreography,
        cancel_after,
        eager: false,
    };
    let charged = Some(Stage::Charged);
    let orders = vec![
        plan([1, 1, 1], charged),
        plan([0, 0, 1], charged),
        plan([0, 0, 1], None),
        plan([0, 0, 1], None),
    ];
    let steps = vec![
        Step::Place(4),
        Step::Place(2),
        Step::Place(2),
        Step::Begin(14_809, 1, 0),
        Step::Finish(0),
        Step::Begin(884, 0, 0),
        Step::Finish(0),
        Step::Credit(0, 732),
        Step::Begin(0, 0, 0),
        Step::Finish(0),
        Step::Begin(0, 0, 8),
        Step::Begin(0, 0, 0),
        Step::Finish(0),
        Step::Begin(10_708, 0, 0),
        Step::Begin(28_499, 0, 0),
        Step::Finish(22_996),
        Step::Begin(30_748, 0, 128),
        Step::Begin(23_123, 0, 0),
        Step::DieAfter(26_198),
        Step::Finish(32_689),
        Step::Finish(14_017),
        Step::Begin(11_645, 2, 0),
        Step::DieBefore(41_023),
        Step::Place(0),
        Step::Finish(0),
        Step::Cancel(0, 1),
        Step::Finish(61_939),
        Step::Begin(63_053, 1, 114),
        Step::Finish(20_646),
    ];
    Story { orders, stock: [1, 1, 1], balances: [2268, 0], steps, seed: 14_167_087_109_289_187_728 }.tell();
}

/// The stories are worth telling: all the ways in which an order can end come up.
#[test]
fn every_end_comes_up() {
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..400 {
        let story = story().new_tree(&mut runner).unwrap().current();
        let world = story.tell();
        seen.extend(story.ids().flat_map(|order| ends(&world, order)));
    }
    let failures = [
        Reason::OutOfStock,
        Reason::InsufficientFunds,
        Reason::AccountUnknown,
        Reason::CurrencyMismatch,
        Reason::FraudDeclined,
        Reason::FraudUnavailable,
        Reason::CarrierRefused,
        Reason::HoldExpired,
    ];
    let failures = failures.map(|reason| (OrderStatus::Failed, Some(reason)));
    let others = [(OrderStatus::Completed, None), (OrderStatus::Cancelled, None)];
    for end in failures.into_iter().chain(others) {
        assert!(seen.contains(&end), "{end:?} is not among {seen:?}");
    }
}
