//! Up to where everything is told once some moves are, and what is missing for that.

use super::pending::Work;
use events::{Context, Position};

/// A part of a stream whose facts changed rows that nobody has told: behind `from`, up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) context: Context,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Gap {
    pub(super) fn length(&self) -> u64 {
        self.to - self.from
    }
}

/// Where these positions are in one stream.
pub(super) fn sequence(positions: &[Position], context: Context) -> u64 {
    positions.iter().find(|one| one.context == context).map_or(0, |one| one.sequence)
}

/// Where the mark goes from `told` once the rows of `work` and of the gaps are told.
pub(super) fn advance(told: &[Position], work: &Work) -> (Vec<Position>, Vec<Gap>) {
    let mut gaps = Vec::new();
    let found = work.found.as_ref().map_or(&[][..], |(_, positions)| positions);
    let reached = work.at.iter().map(|at| {
        let context = at.context;
        let mut reached = sequence(told, context);
        let mut moves: Vec<_> =
            work.commits.iter().flatten().filter(|step| step.context == context).collect();
        moves.sort_by_key(|step| step.from);
        for step in moves {
            if step.from > reached {
                gaps.push(Gap { context, from: reached, to: step.from });
            }
            reached = reached.max(step.to);
        }
        let found = sequence(found, context);
        if found > reached {
            gaps.push(Gap { context, from: reached, to: found });
            reached = found;
        }
        Position { context, sequence: reached }
    });
    let reached: Vec<_> = reached.collect();
    if work.is_torn(told) {
        let all =
            reached.iter().map(|&Position { context, sequence: to }| (context, sequence(told, context), to));
        gaps = all
            .filter(|(_, from, to)| from < to)
            .map(|(context, from, to)| Gap { context, from, to })
            .collect();
    }
    (reached, gaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Move;
    use std::time::Instant;

    const fn at(context: Context, sequence: u64) -> Position {
        Position { context, sequence }
    }

    fn orders(told: u64, moves: &[(u64, u64)], found: Option<u64>) -> (u64, Vec<(u64, u64)>) {
        let context = Context::Orders;
        let moves: Vec<_> = moves.iter().map(|&(from, to)| Move { context, from, to }).collect();
        let end = moves.iter().map(|step| step.to).chain(found).max().unwrap_or(told);
        let work = Work {
            commits: moves.into_iter().map(|step| vec![step]).collect(),
            at: vec![at(context, end), at(Context::Payments, 9)],
            found: found.map(|found| (Instant::now(), vec![at(context, found)])),
            ..Work::default()
        };
        let (reached, gaps) = advance(&[at(context, told), at(Context::Payments, 9)], &work);
        assert_eq!(reached[1], at(Context::Payments, 9), "the other stream stays");
        (reached[0].sequence, gaps.into_iter().map(|gap| (gap.from, gap.to)).collect())
    }

    #[test]
    fn what_nobody_told_is_a_gap() {
        assert_eq!(orders(5, &[(5, 7), (7, 9)], None), (9, vec![]));
        assert_eq!(orders(5, &[], None), (5, vec![]));
        assert_eq!(orders(5, &[(3, 5)], None), (5, vec![]), "told by somebody else");
        assert_eq!(orders(6, &[(5, 7), (7, 9)], None), (9, vec![(6, 9)]), "in part");
        assert_eq!(orders(5, &[(7, 9)], None), (9, vec![(5, 7)]), "a commit between was not ours");
        assert_eq!(orders(5, &[(12, 14), (7, 9)], None), (14, vec![(5, 7), (9, 12)]));
        assert_eq!(orders(5, &[], Some(8)), (8, vec![(5, 8)]), "whoever committed it has died");
        assert_eq!(orders(5, &[(5, 7)], Some(8)), (8, vec![(7, 8)]));
        assert_eq!(orders(9, &[(5, 7)], Some(8)), (9, vec![]));
    }
}
