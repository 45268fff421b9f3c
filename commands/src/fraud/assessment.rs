//! The fraud assessment of one payment: given once, and final.

use crate::{Aggregate, Refusal};
use events::fraud::{AssessmentEvent, FraudAssessed};
use std::convert::Infallible;

/// The aggregate.
#[derive(Debug)]
pub struct Assessment;

impl From<Infallible> for Refusal {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Aggregate for Assessment {
    const KIND: events::Aggregate = events::Aggregate::Assessment;
    const SCHEMA: &'static str = "assessment/1";
    type State = Option<FraudAssessed>;
    /// What the rules say.
    type Command = FraudAssessed;
    type Event = AssessmentEvent;
    type Rejection = Infallible;

    fn decide(state: &Self::State, assessed: FraudAssessed) -> Result<Vec<AssessmentEvent>, Infallible> {
        Ok(if state.is_none() { vec![assessed.into()] } else { vec![] })
    }

    fn evolve(_: Self::State, event: &AssessmentEvent) -> Self::State {
        let AssessmentEvent::Assessed(assessed) = event;
        Some(assessed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{eur, order, user},
    };
    use events::fraud::{Suspicion, Verdict};

    #[test]
    fn the_first_verdict_is_final() {
        let approved = FraudAssessed {
            order_id: order(1),
            user_id: user(1),
            amount: eur(900),
            verdict: Verdict::Approved,
            reasons: vec![],
        };
        let reasons = vec![Suspicion::Velocity];
        let declined = FraudAssessed { verdict: Verdict::Declined, reasons, ..approved.clone() };
        given::<Assessment>([]).when(approved.clone()).then([approved.clone().into()]);
        given::<Assessment>([approved.into()]).when(declined).then_nothing();
    }
}
