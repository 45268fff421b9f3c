//! Services read the events of each other: for every interest a message, read by the service's own code.

use contracts::{
    agree,
    messages::{CONSUMERS, Wanted},
};
use events::Context;
use pact_consumer::prelude::*;

/// What a consumer reads of a context.
fn wanted(consumer: &'static str, context: Context, kinds: &[&str]) -> Vec<Wanted> {
    kinds.iter().map(|kind| Wanted::new(consumer, context, kind)).collect()
}

fn pairs() -> impl Iterator<Item = (&'static str, Context, Vec<Wanted>)> {
    CONSUMERS.into_iter().flat_map(|(consumer, interests)| {
        interests.iter().map(move |(context, kinds)| (consumer, *context, wanted(consumer, *context, kinds)))
    })
}

#[test]
fn the_pacts_are_what_consumers_read() {
    for (consumer, context, wanted) in pairs() {
        let mut pact = PactBuilder::new_v4(consumer, context.token());
        for message in &wanted {
            pact.push_interaction(&message.interaction());
        }
        agree(pact.build().as_ref());
    }
}

#[test]
fn every_consumer_does_something_about_what_it_reads() {
    let mut read = 0;
    for (consumer, _, wanted) in pairs() {
        for message in wanted {
            // A saga begins with the payment, and says so to all whom it may ask.
            let for_payments = message.description().starts_with("process.started") && consumer != "payments";
            let answered = message.consume(&message.interaction());
            assert!(answered || for_payments, "{consumer} ignores {}", message.description());
            read += 1;
        }
    }
    assert!(read > 30, "{read}");
}

#[test]
fn nothing_is_left_over_in_the_folder() {
    let mut expected: Vec<_> =
        pairs().map(|(consumer, context, _)| (consumer.to_owned(), context.token().to_owned())).collect();
    let of_gateway = crate::gateway::SERVICES.map(|(service, _)| ("gateway", service));
    let of_requests = [("orders", "users"), ("waybill-cli", "operations")].into_iter().chain(of_gateway);
    expected.extend(of_requests.map(|(consumer, provider)| (consumer.to_owned(), provider.to_owned())));
    expected.sort();
    let mut found: Vec<_> =
        contracts::files().into_iter().map(|(_, consumer, provider)| (consumer, provider)).collect();
    found.sort();
    assert_eq!(found, expected);
}
