//! Carries out what payments do about the facts of others. Fraud is asked first, and its verdict recorded, before
//! money moves. The log tells each charge from its beginning to its end; the payment's id is that of its order.

use super::{Effect, charge, expire, react, refund};
use crate::{
    Decision, Executor, Key,
    decision::Decided,
    fraud::{Assessment, Clearance, Fraud, Request},
    reactor,
};
use events::{Context, Metadata, Money, orders::Ordered};
use nats::{Handler, Recorded, Retry};
use service::{
    Clock,
    telemetry::{Cause, KeyValue, Span, SpanKind, semconv},
};
use std::sync::{Arc, Mutex, PoisonError};

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
        if reactor::is_over(&recorded, &self.clock) {
            return Ok("over");
        }
        let metadata = reactor::answering(&recorded, "service:payments");
        match react(&recorded.fact) {
            None => Ok("ignored"),
            Some(Effect::Charge(order)) => {
                let assessing = reactor::answering(&recorded, "service:fraud");
                self.charge(order, metadata, assessing).await
            }
            Some(Effect::Refund(wanted)) => {
                let refunding = move |decision: &mut Decision| refund(decision, &wanted);
                reactor::settle(self.executor.execute(vec![], metadata, refunding).await)
            }
            Some(Effect::Expire(order, account)) => {
                let expiring = move |decision: &mut Decision| expire(decision, order, account);
                reactor::settle(self.executor.execute(vec![], metadata, expiring).await)
            }
        }
    }

    /// Charges an order, and says so.
    async fn charge(
        &self,
        order: Box<Ordered>,
        metadata: Metadata,
        assessing: Metadata,
    ) -> Result<&'static str, Retry> {
        let Ordered { order_id, user_id, total_amount, .. } = *order;
        let Money { amount, currency } = total_amount;
        tracing::info!(target: "payment", transactionId = %order_id, userId = %user_id, amount, %currency, "Processing payment");
        let clearance = self.clearance(&order, assessing).await?;
        // What the last run decided: the one that is recorded.
        let refused = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&refused);
        let charging = move |decision: &mut Decision| {
            let mark = decision.decided.len();
            charge(decision, &order, &clearance)?;
            let failure = decision.decided[mark..].iter().find_map(Decided::failure);
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = failure;
            Ok(())
        };
        let result = self.executor.execute(vec![], metadata, charging).await;
        if result.as_ref().is_ok_and(|receipt| receipt.events > 0) {
            let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            match refused {
                None => {
                    tracing::info!(target: "payment", transactionId = %order_id, userId = %user_id, amount, %currency, "Payment processed successfully");
                }
                Some(error) => {
                    tracing::error!(target: "payment", transactionId = %order_id, userId = %user_id, amount, %currency, error, "Payment processing failed");
                }
            }
        }
        reactor::settle(result)
    }

    /// Asks the fraud rules. The first recorded verdict stands, also when the question comes again.
    async fn clearance(&self, order: &Ordered, mut metadata: Metadata) -> Result<Clearance, Retry> {
        let (fraud, cause) = (Context::Fraud.token(), Cause::Parent(metadata.traceparent.as_deref()));
        let span = Span::start(fraud, SpanKind::Internal, cause, || "assess payment".to_owned());
        metadata.traceparent = span.traceparent().or(metadata.traceparent);
        let Ordered { order_id, user_id, total_amount, .. } = *order;
        let now = self.clock.now();
        let request = Request { order_id, user_id, amount: total_amount };
        let Some(assessed) = self.fraud.assess(&request, now).await else {
            span.fail(|| "the fraud rules did not answer in time".to_owned());
            return Ok(self.fraud.without_verdict(total_amount));
        };
        span.describe(|| [KeyValue::new(semconv::OUTCOME, format!("{:?}", assessed.verdict).to_lowercase())]);
        let key = Key::<Assessment>::new(order_id);
        let (keys, asking, verdict) =
            (vec![key.likely_new()], Key::<Assessment>::new(order_id), assessed.clone());
        let assessing = move |decision: &mut Decision| decision.apply(&asking, verdict.clone());
        let receipt = self.assessments.execute(keys, metadata, assessing).await?;
        let standing = if receipt.events > 0 { None } else { self.assessments.state(&key).await? };
        let standing = standing.unwrap_or(assessed);
        self.fraud.observe(&standing, now);
        Ok(Clearance::from(standing))
    }
}
