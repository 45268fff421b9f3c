//! Carries out what shipping does about the facts of others: asks the carrier, records its answer.

use super::{CarrierError, CarrierGateway, Effect, Parcel, Shipment, cancel, give_up, react, schedule};
use crate::{Decision, Executor, Key, reactor};
use events::{
    Metadata, OrderId,
    orders::{Ordered, Workflow},
};
use nats::{Handler, KeyRing, Retry};
use service::{Clock, crash_point};
use std::sync::Arc;

/// What the reactions of shipping share.
pub(super) struct Shipping {
    pub(super) executor: Executor,
    pub(super) carrier: Arc<dyn CarrierGateway>,
    pub(super) keys: KeyRing,
    pub(super) clock: Clock,
}

pub(super) fn handler(shipping: Shipping) -> Handler {
    let shipping = Arc::new(shipping);
    Arc::new(move |recorded| {
        let shipping = Arc::clone(&shipping);
        Box::pin(async move {
            let over = reactor::is_over(&recorded, &shipping.clock);
            let metadata = reactor::answering(&recorded, "service:shipping");
            match react(&recorded.fact) {
                None => Ok("ignored"),
                Some(Effect::Schedule(_)) if over => Ok("over"),
                Some(Effect::Schedule(order)) => shipping.schedule(order, metadata).await,
                Some(Effect::Cancel { order_id, reason, workflow }) => {
                    if workflow == Workflow::Orchestration && !shipping.is_called_off(order_id).await? {
                        if over {
                            return Ok("over");
                        }
                        // The saga takes the record for the deed, so the deed comes first.
                        shipping.call_off(order_id).await?;
                    }
                    let cancelling =
                        move |decision: &mut Decision| cancel(decision, order_id, reason, workflow);
                    let settled =
                        reactor::settle(shipping.executor.execute(vec![], metadata, cancelling).await)?;
                    shipping.call_off(order_id).await?;
                    Ok(settled)
                }
            }
        })
    })
}

impl Shipping {
    async fn schedule(&self, order: Box<Ordered>, metadata: Metadata) -> Result<&'static str, Retry> {
        let (order_id, key) = (order.order_id, Key::<Shipment>::new(order.order_id));
        // A parcel booked again after its shipment was called off would belong to nobody.
        match self.executor.state(&key).await?.parcel() {
            Some(Parcel::Wanted) => return Ok("unchanged"),
            Some(Parcel::Unwanted) => return self.call_off(order_id).await,
            None => {}
        }
        // Opened no earlier than this, and kept nowhere.
        let address = self.keys.reveal(&order.shipping_address).await?;
        let Some(address) = address else {
            let giving_up = move |decision: &mut Decision| give_up(decision, order_id, order.workflow);
            return reactor::settle(self.executor.execute(vec![key.likely_new()], metadata, giving_up).await);
        };
        crash_point("carrier.book.before", "shipping");
        let booked = self.carrier.book(order_id, &address, &order.items).await;
        crash_point("carrier.book.after", "shipping");
        let answer = booked?;
        let scheduling = move |decision: &mut Decision| schedule(decision, &order, &answer);
        let result = self.executor.execute(vec![key.likely_new()], metadata, scheduling).await;
        let nothing_recorded = matches!(&result, Ok(receipt) if receipt.events == 0);
        // Somebody decided meanwhile, and may have called it off.
        if nothing_recorded && self.executor.state(&key).await?.parcel() == Some(Parcel::Unwanted) {
            return self.call_off(order_id).await;
        }
        reactor::settle(result)
    }

    /// Whether it is recorded that the parcel of an order is not wanted any more.
    async fn is_called_off(&self, order: OrderId) -> Result<bool, Retry> {
        let state = self.executor.state(&Key::<Shipment>::new(order)).await?;
        Ok(state.parcel() == Some(Parcel::Unwanted))
    }

    async fn call_off(&self, order: OrderId) -> Result<&'static str, Retry> {
        crash_point("carrier.cancel.before", "shipping");
        self.carrier.cancel(order).await?;
        crash_point("carrier.cancel.after", "shipping");
        Ok("called off")
    }
}

impl From<CarrierError> for Retry {
    fn from(error: CarrierError) -> Self {
        match error {
            CarrierError::Unavailable => Self::world(error),
            CarrierError::Garbled => Self::message(error),
        }
    }
}
