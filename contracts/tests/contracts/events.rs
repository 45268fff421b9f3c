//! Services read the events of each other: for everything that one answers, copies or shows a message, read by its own code.

use contracts::{
    agree,
    messages::{COPIES, pairs},
};
use events::{Aggregate, Context, FactType};
use pact_consumer::prelude::*;
use std::collections::BTreeSet;

/// The facts that orders copy are of what they follow, and of products they are all there are.
#[test]
fn what_orders_copy_is_what_they_follow() {
    let copied: Vec<_> = COPIES.iter().flat_map(|(_, kinds)| kinds.iter().copied()).collect();
    let of = |aggregate: Aggregate| FactType::of(aggregate).iter().map(|fact| fact.name);
    let followed =
        Aggregate::ALL.into_iter().filter(|aggregate| of(*aggregate).any(|kind| copied.contains(&kind)));
    let tokens =
        |all: &mut dyn Iterator<Item = Aggregate>| all.map(Aggregate::token).collect::<BTreeSet<_>>();
    assert_eq!(tokens(&mut followed.into_iter()), tokens(&mut commands::orders::FOLLOWS.into_iter()));
    assert!(of(Aggregate::Product).all(|kind| copied.contains(&kind)));
}

#[test]
fn the_pacts_are_what_consumers_read() {
    // What orders ask users is in one file with what they copy of them: it is compared there.
    let apart = |(consumer, context): (&str, Context)| (consumer, context) != ("orders", Context::Users);
    for (consumer, context, wanted) in pairs().into_iter().filter(|(who, of, _)| apart((who, *of))) {
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
    let mut expected: Vec<_> = pairs()
        .into_iter()
        .map(|(consumer, context, _)| (consumer.to_owned(), context.token().to_owned()))
        .collect();
    let of_gateway = crate::gateway::SERVICES.map(|(service, _)| ("gateway", service));
    let of_requests = [("orders", "users"), ("waybill-cli", "operations")].into_iter().chain(of_gateway);
    expected.extend(of_requests.map(|(consumer, provider)| (consumer.to_owned(), provider.to_owned())));
    expected.sort();
    // Orders read of users what they ask, and what they copy.
    expected.dedup();
    let mut found: Vec<_> =
        contracts::files().into_iter().map(|(_, consumer, provider)| (consumer, provider)).collect();
    found.sort();
    assert_eq!(found, expected);
}
