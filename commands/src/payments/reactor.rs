//! Carries out what payments do about the facts of others. Fraud is asked first, and its verdict recorded, before
//! money moves.

use super::{Effect, charge, react, refund};
use crate::{
    Executor, Key,
    fraud::{Assessment, Clearance, Fraud, Request},
    reactor,
};
use events::{Metadata, inventory::InventoryReserved};
use nats::{Handler, Recorded, Retry};
use service::Clock;
use std::sync::Arc;

/// What the reactions of payments share.
pub(super) struct Payments {
    pub(super) executor: Executor,
    pub(super) assessments: Executor,
    pub(super) fraud: Arc<Fraud>,
    pub(super) clock: Clock,
}

pub(super) fn handler(payments: Payments) -> Handler {
    let payments = Arc::new(payments);
    Arc::new(move |recorded| {
        let payments = Arc::clone(&payments);
        Box::pin(async move { payments.answer(recorded).await })
    })
}

impl Payments {
    async fn answer(&self, recorded: Recorded) -> Result<&'static str, Retry> {
        let metadata = reactor::answering(&recorded, "service:payments");
        match react(&recorded.fact) {
            None => Ok("ignored"),
            Some(Effect::Charge(order)) => {
                let assessing = reactor::answering(&recorded, "service:fraud");
                let clearance = self.clearance(&order, assessing).await?;
                let charging = move |decision: &mut crate::Decision| charge(decision, &order, &clearance);
                reactor::settle(self.executor.execute(vec![], metadata, charging).await)
            }
            Some(Effect::Refund(wanted)) => {
                let refunding = move |decision: &mut crate::Decision| refund(decision, &wanted);
                reactor::settle(self.executor.execute(vec![], metadata, refunding).await)
            }
        }
    }

    /// Asks the fraud rules. The first recorded verdict stands, also when the question comes again.
    async fn clearance(&self, order: &InventoryReserved, metadata: Metadata) -> Result<Clearance, Retry> {
        let InventoryReserved { order_id, user_id, total_amount, .. } = *order;
        let now = self.clock.now();
        let request = Request { order_id, user_id, amount: total_amount };
        let Some(assessed) = self.fraud.assess(&request, now).await else {
            return Ok(self.fraud.without_verdict(total_amount));
        };
        let key = Key::<Assessment>::new(order_id);
        let (keys, asking, verdict) =
            (vec![key.likely_new()], Key::<Assessment>::new(order_id), assessed.clone());
        let assessing = move |decision: &mut crate::Decision| decision.apply(&asking, verdict.clone());
        let retry = |error: crate::ExecuteError| Retry(error.to_string());
        let receipt = self.assessments.execute(keys, metadata, assessing).await.map_err(retry)?;
        let standing =
            if receipt.events > 0 { None } else { self.assessments.state(&key).await.map_err(retry)? };
        let standing = standing.unwrap_or(assessed);
        self.fraud.observe(&standing, now);
        Ok(Clearance::from(standing))
    }
}
