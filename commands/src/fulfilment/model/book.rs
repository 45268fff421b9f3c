//! The book of all courses that were met: each is told by its number, and what comes of it is asked once.

use super::{
    Bounds, PRICE,
    course::{Course, Move},
    desk::{Standings, recorded, state, written},
    verdict::Verdict,
};
use crate::{
    Decision, Key, Stop,
    fixtures::{account, address, currency, eur, line, order, sealed, sku, user},
    inventory::{Item, ItemCommand, StockChange},
    orders::{Order, OrderCommand, Placement},
    payments::{Account, AccountCommand},
};
use events::orders::{UserSnapshot, Workflow};
use std::{collections::HashMap, sync::Arc};

/// The account and the stock that orders share, and what was in them at first.
#[derive(Clone)]
struct Shared {
    standings: Standings,
    money: i64,
    stock: u64,
}

/// What the properties ask of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shelf {
    pub(super) balance: i64,
    pub(super) on_hand: u64,
    pub(super) reserved: u64,
    pub(super) money: i64,
    pub(super) stock: u64,
}

struct Page {
    course: Arc<Course>,
    /// With whether it is a mishap.
    moves: Arc<[(Move, bool)]>,
    verdict: Arc<Verdict>,
}

type Question = (u32, u32, Move);

/// See the file's text.
pub(super) struct Book {
    pages: Vec<Page>,
    numbers: HashMap<Vec<u8>, u32>,
    shared: Vec<Shared>,
    shared_numbers: HashMap<Vec<u8>, u32>,
    /// Where it begins, by what there is.
    first: Vec<u32>,
    answers: HashMap<Question, Option<(u32, u32)>>,
}

impl Book {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let placement = Placement {
            order_id: order(1),
            user_id: user(1),
            account_id: account(1),
            items: vec![line("TEA", 1, PRICE)],
            shipping_address: sealed(&address()),
            workflow: Workflow::Orchestration,
            user_snapshot: UserSnapshot::default(),
        };
        let place = OrderCommand::Place(Box::new(placement));
        let placing = |d: &mut Decision| d.apply(&Key::<Order>::new(order(1)), place.clone());
        let (standings, facts) = recorded(bounds, &[&placing]);
        let mut book = Self {
            pages: Vec::new(),
            numbers: HashMap::new(),
            shared: Vec::new(),
            shared_numbers: HashMap::new(),
            first: Vec::new(),
            answers: HashMap::new(),
        };
        book.number(Course::placed(bounds, standings, &facts[0]), bounds);
        for &(paid, held) in &bounds.means {
            let (standings, _) = open(bounds, PRICE * paid, held);
            let number = book.share(Shared { standings, money: PRICE * paid, stock: held.into() });
            book.first.push(number);
        }
        book
    }

    /// What there is at first.
    pub(super) fn first(&self, index: usize) -> u32 {
        self.first[index]
    }

    pub(super) fn moves(&self, course: u32) -> Arc<[(Move, bool)]> {
        Arc::clone(&self.pages[course as usize].moves)
    }

    pub(super) fn verdict(&self, course: u32) -> Arc<Verdict> {
        Arc::clone(&self.pages[course as usize].verdict)
    }

    pub(super) fn shelf(&self, number: u32) -> Shelf {
        let Shared { standings, money, stock } = &self.shared[number as usize];
        let account = state(standings, &Key::<Account>::new(account(1)));
        let item = state(standings, &Key::<Item>::new(sku("TEA")));
        Shelf {
            balance: account.map_or(0, |account| account.balance.amount),
            on_hand: item.on_hand,
            reserved: item.reserved,
            money: *money,
            stock: *stock,
        }
    }

    /// What comes of a move; nothing where it changes nothing.
    pub(super) fn after(&mut self, course: u32, of: u32, what: Move, bounds: &Bounds) -> Option<(u32, u32)> {
        let asked = if what.shares() { of } else { 0 };
        let question = (course, asked, what);
        if let Some(known) = self.answers.get(&question) {
            return known.map(|(course, after)| (course, if what.shares() { after } else { of }));
        }
        let shared = self.shared[asked as usize].clone();
        let here = Arc::clone(&self.pages[course as usize].course);
        let after = here.after(&shared.standings, what, bounds);
        let answer = after.map(|(course, standings)| {
            (self.number(course, bounds), self.share(Shared { standings, ..shared }))
        });
        let answer = answer.filter(|after| *after != (course, asked));
        self.answers.insert(question, answer);
        self.after(course, of, what, bounds)
    }

    fn number(&mut self, course: Course, bounds: &Bounds) -> u32 {
        let key = course.written();
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = u32::try_from(self.pages.len()).unwrap();
        let moves = course.moves(bounds);
        let verdict = Arc::new(course.verdict(&moves));
        let moves: Vec<_> = moves.into_iter().map(|what| (what, course.is_mishap(what))).collect();
        self.pages.push(Page { course: Arc::new(course), moves: moves.into(), verdict });
        self.numbers.insert(key, number);
        number
    }

    fn share(&mut self, shared: Shared) -> u32 {
        let mut key = written(&shared.standings);
        key.extend(format!("{} {}", shared.money, shared.stock).as_bytes());
        let next = u32::try_from(self.shared.len()).unwrap();
        let number = *self.shared_numbers.entry(key).or_insert(next);
        if number == next {
            self.shared.push(shared);
        }
        number
    }

    /// Without mishaps no course comes to where it has been: it ends, and does not go round in circles. How many courses there
    /// are, and how many moves the longest has between mishaps.
    pub(super) fn no_way_leads_back(&self) -> (usize, usize) {
        let mut next = vec![Vec::new(); self.pages.len()];
        for ((from, _, what), answer) in &self.answers {
            if !self.pages[*from as usize].moves.contains(&(*what, true)) {
                next[*from as usize].extend(answer.map(|(to, _)| to as usize));
            }
        }
        let mut waits_for = vec![0; next.len()];
        next.iter().flatten().for_each(|to| waits_for[*to] += 1);
        let mut ready: Vec<_> = (0..next.len()).filter(|page| waits_for[*page] == 0).collect();
        let (mut length, mut seen) = (vec![0; next.len()], 0);
        while let Some(page) = ready.pop() {
            seen += 1;
            for &to in &next[page] {
                length[to] = length[to].max(length[page] + 1);
                waits_for[to] -= 1;
                if waits_for[to] == 0 {
                    ready.push(to);
                }
            }
        }
        assert_eq!(seen, next.len(), "an order can go round in circles");
        (seen, length.into_iter().max().unwrap_or_default())
    }
}

/// An account with so much money, and so many units in stock.
fn open(bounds: &Bounds, money: i64, stock: u32) -> (Standings, Vec<events::Fact>) {
    let (account_id, tea) = (account(1), sku("TEA"));
    let wallet = Key::<Account>::new(account_id);
    let opening = |d: &mut Decision| -> Result<(), Stop> {
        let (user_id, currency) = (user(1), currency("EUR"));
        d.apply(&wallet, AccountCommand::Open { account_id, user_id, currency })
    };
    let filling = |d: &mut Decision| -> Result<(), Stop> {
        if money > 0 { d.apply(&wallet, AccountCommand::Credit { amount: eur(money) }) } else { Ok(()) }
    };
    let receiving = |d: &mut Decision| -> Result<(), Stop> {
        let change = StockChange::Receive { quantity: stock };
        let command = ItemCommand { sku: tea.clone(), change };
        if stock > 0 { d.apply(&Key::<Item>::new(&tea), command) } else { Ok(()) }
    };
    recorded(bounds, &[&opening, &filling, &receiving])
}
