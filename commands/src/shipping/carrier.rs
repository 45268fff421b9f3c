//! The carrier: the world outside, behind a port, with a simulation that can refuse, be slow and be down.

use crate::behaviour;
use events::{Address, OrderId, orders::Line};
use futures::{FutureExt, future::BoxFuture};
use lru::LruCache;
use std::{
    collections::HashSet,
    num::NonZeroUsize,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Parcels called off that the simulation remembers. (The compiler evaluates the `expect`.)
const CALLED_OFF: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// A carrier. Everything asked of it may be asked again: the order names the parcel. Its words are recorded as they are,
/// so they must not repeat the address.
pub trait CarrierGateway: Send + Sync {
    /// Books a parcel. Asked again for the same order, the same booking.
    fn book<'a>(
        &'a self,
        order: OrderId,
        address: &'a Address,
        items: &'a [Line],
    ) -> BoxFuture<'a, Result<Answer, CarrierError>>;

    /// Calls a parcel off, for ever: a booking of the same order that arrives later is refused. Two processes may be at work
    /// on one order, and one of them may book late and die before it learns that the parcel is not wanted. Nothing else
    /// happens where none is booked.
    fn cancel(&self, order: OrderId) -> BoxFuture<'_, Result<(), CarrierError>>;
}

/// A carrier's final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes the parcel.
    Booked(Booking),
    /// It does not, for this reason.
    Refused(String),
}

/// A parcel that a carrier takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    /// Who carries it.
    pub carrier: String,
    /// The carrier's number for it.
    pub tracking_number: String,
}

/// Nobody knows what the carrier did. It may have acted all the same: ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarrierError {
    /// It gave no answer, to nobody.
    #[error("the carrier does not answer")]
    Unavailable,
    /// It gave one that says nothing of this parcel.
    #[error("the carrier's answer cannot be understood")]
    Garbled,
}

/// How the simulated carrier behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// It takes every parcel for a country that it serves.
    #[default]
    Accept,
    /// It takes none.
    Refuse,
    /// It takes them, and its time.
    Slow(Duration),
    /// It does not answer.
    Down,
    /// It answers, and nobody understands it.
    Garbled,
}

impl FromStr for Behaviour {
    type Err = behaviour::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "accept" => Ok(Self::Accept),
            "refuse" => Ok(Self::Refuse),
            "down" => Ok(Self::Down),
            "garbled" => Ok(Self::Garbled),
            _ => behaviour::slow(text)
                .map(Self::Slow)
                .ok_or(behaviour::ParseError("accept, refuse, slow:200ms, down or garbled")),
        }
    }
}

/// A carrier that exists only here. Its clones are the same carrier.
#[derive(Clone, Debug)]
pub struct SimulatedCarrier {
    behaviour: Arc<Mutex<Behaviour>>,
    unserved: Arc<HashSet<String>>,
    called_off: Arc<Mutex<LruCache<OrderId, ()>>>,
}

impl Default for SimulatedCarrier {
    /// Accepts parcels for everywhere but Antarctica.
    fn default() -> Self {
        Self::new(Behaviour::Accept, ["AQ".to_owned()])
    }
}

impl SimulatedCarrier {
    /// A carrier that refuses parcels for the countries `unserved`.
    pub fn new(behaviour: Behaviour, unserved: impl IntoIterator<Item = String>) -> Self {
        Self {
            behaviour: Arc::new(Mutex::new(behaviour)),
            unserved: Arc::new(unserved.into_iter().collect()),
            called_off: Arc::new(Mutex::new(LruCache::new(CALLED_OFF))),
        }
    }

    /// Changes how it behaves, for all its clones.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// Waits as long as it takes to answer; gives what it does then.
    async fn answer(&self) -> Result<Behaviour, CarrierError> {
        let behaviour = *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
        match behaviour {
            Behaviour::Down => return Err(CarrierError::Unavailable),
            Behaviour::Garbled => return Err(CarrierError::Garbled),
            Behaviour::Slow(delay) => tokio::time::sleep(delay).await,
            Behaviour::Accept | Behaviour::Refuse => {}
        }
        Ok(behaviour)
    }
}

impl CarrierGateway for SimulatedCarrier {
    fn book<'a>(
        &'a self,
        order: OrderId,
        address: &'a Address,
        _items: &'a [Line],
    ) -> BoxFuture<'a, Result<Answer, CarrierError>> {
        async move {
            if self.answer().await? == Behaviour::Refuse {
                return Ok(Answer::Refused("the carrier takes no parcels".to_owned()));
            }
            if self.unserved.contains(&address.country) {
                return Ok(Answer::Refused("the carrier does not serve that country".to_owned()));
            }
            if self.called_off.lock().unwrap_or_else(PoisonError::into_inner).contains(&order) {
                return Ok(Answer::Refused("the parcel was called off".to_owned()));
            }
            let (_, number) = order.uuid().as_u64_pair();
            let tracking_number = format!("SIM-{number:016X}");
            Ok(Answer::Booked(Booking { carrier: "simulated".to_owned(), tracking_number }))
        }
        .boxed()
    }

    fn cancel(&self, order: OrderId) -> BoxFuture<'_, Result<(), CarrierError>> {
        async move {
            self.answer().await?;
            self.called_off.lock().unwrap_or_else(PoisonError::into_inner).put(order, ());
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{address, order};

    async fn book(carrier: &SimulatedCarrier, behaviour: &str) -> Result<Answer, CarrierError> {
        carrier.set_behaviour(behaviour.parse().unwrap());
        carrier.book(order(1), &address(), &[]).await
    }

    #[tokio::test]
    async fn it_behaves_as_it_is_told() {
        let carrier = SimulatedCarrier::default();
        let tracking_number = "SIM-00000000000D0001".to_owned();
        let booked = Answer::Booked(Booking { carrier: "simulated".to_owned(), tracking_number });
        let handle = carrier.clone();
        assert_eq!(book(&handle, "accept").await, Ok(booked.clone()));
        assert_eq!(carrier.book(order(1), &address(), &[]).await, Ok(booked.clone()), "the same booking");
        assert_eq!(book(&handle, "slow:1ms").await, Ok(booked));
        assert!(matches!(book(&handle, "refuse").await, Ok(Answer::Refused(_))));
        assert_eq!(book(&handle, "down").await, Err(CarrierError::Unavailable));
        assert_eq!(carrier.cancel(order(1)).await, Err(CarrierError::Unavailable));
        assert_eq!(book(&handle, "garbled").await, Err(CarrierError::Garbled));
    }

    #[tokio::test]
    async fn a_parcel_that_was_called_off_cannot_be_booked_late() {
        let carrier = SimulatedCarrier::default();
        carrier.cancel(order(1)).await.unwrap();
        let answer = carrier.book(order(1), &address(), &[]).await;
        assert_eq!(answer, Ok(Answer::Refused("the parcel was called off".to_owned())));
        assert!(matches!(carrier.book(order(2), &address(), &[]).await, Ok(Answer::Booked(_))));
    }

    #[tokio::test]
    async fn it_refuses_where_it_does_not_go() {
        let antarctica = Address { country: "AQ".to_owned(), ..address() };
        let answer = SimulatedCarrier::default().book(order(1), &antarctica, &[]).await;
        assert_eq!(answer, Ok(Answer::Refused("the carrier does not serve that country".to_owned())));
    }

    #[test]
    fn its_behaviour_can_be_written() {
        assert_eq!("slow:2s".parse(), Ok(Behaviour::Slow(Duration::from_secs(2))));
        for bad in ["", "Accept", "slow", "slow:-1ms", "refuse:1s"] {
            let error = bad.parse::<Behaviour>().unwrap_err();
            assert_eq!(error.to_string(), "expected accept, refuse, slow:200ms, down or garbled");
        }
    }
}
