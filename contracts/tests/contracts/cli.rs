//! `waybill dead-letters` and `waybill rebuild` ask the operations service: the real executable, and what it makes of the
//! answers.

use contracts::{Provider, agree};
use pact_consumer::{builders::InteractionBuilder, prelude::*};
use regex::Regex;
use tokio::process::Command;

const ID: &str = "0d6f5c0e-5a43-5f0b-9f6e-0f6a2f1f7a11";

fn asked(interaction: InteractionBuilder, method: &str, path: &str) -> InteractionBuilder {
    given("a message is parked", interaction, method, path)
}

fn given(state: &str, mut interaction: InteractionBuilder, method: &str, path: &str) -> InteractionBuilder {
    interaction.given(state);
    let example =
        path.replace("${id}", ID).replace("${fingerprint}", "9b2f1c04d1e7").replace("${service}", "orders");
    interaction.request.method(method).path_from_provider_state(path, example).header_from_provider_state(
        "Authorization",
        "Bearer ${token}",
        "Bearer token",
    );
    interaction
}

fn pact() -> PactBuilder {
    let mut pact = PactBuilder::new_v4("waybill-cli", "operations");
    pact.interaction("a request for what is parked", "", |interaction| {
        let mut interaction = asked(interaction, "GET", "/ops/dead-letters");
        let letter = json_pattern!({
            "id": like!(ID),
            "stream": like!("PAYMENTS"),
            "sequence": like!(42),
            "attempts": like!(12),
            "parkedAt": like!("2026-08-01T12:00:00Z"),
        });
        let group = json_pattern!({
            "fingerprint": like!("9b2f1c04d1e7"),
            "consumer": like!("shipping-payments"),
            "eventType": like!("payment.charged"),
            "error": like!("no carrier"),
            "count": like!(1),
            "letters": each_like!(letter),
        });
        interaction.response.status(200).json_body(json_pattern!({ "groups": each_like!(group) }));
        interaction
    })
    .interaction("a request for a dead letter", "", |interaction| {
        let mut interaction = asked(interaction, "GET", "/ops/dead-letters/${id}");
        interaction.response.status(200).json_body(json_pattern!({ "id": like!(ID) }));
        interaction
    })
    .interaction("a request to try a group again", "", |interaction| {
        let mut interaction = asked(interaction, "POST", "/ops/dead-letters/groups/${fingerprint}/retry");
        interaction.request.header("Content-Type", "application/json").json_body(json_pattern!({}));
        interaction.response.status(202).json_body(json_pattern!({ "count": like!(1) }));
        interaction
    });
    rebuilds(&mut pact);
    pact
}

/// How read models stand, and what is asked of them.
fn rebuilds(pact: &mut PactBuilder) {
    pact.interaction("a request for how all read models stand", "", |interaction| {
        let mut interaction = given("a read model serves", interaction, "GET", "/ops/projections");
        let generation = json_pattern!({
            "number": like!(1),
            "state": Term::new(Regex::new("^(building|live|kept)$").unwrap(), "live"),
            "version": like!(1),
            "begunAt": like!("2026-08-01T12:00:00Z"),
        });
        let model = json_pattern!({ "service": like!("users"), "generations": each_like!(generation) });
        interaction.response.status(200).json_body(json_pattern!({ "items": each_like!(model) }));
        interaction
    })
    .interaction("a request for how a read model stands", "", |interaction| {
        let state = "a read model was built again, and the tables that served before are removed";
        let mut interaction = given(state, interaction, "GET", "/ops/projections/${service}");
        let generation = json_pattern!({
            "number": like!(2),
            "state": "live",
            "version": like!(1),
            "begunAt": like!("2026-08-01T12:00:00Z"),
            // That of the request that it was built for.
            "asked": like!(12),
        });
        interaction.response.status(200).json_body(json_pattern!({
            "service": like!("orders"),
            "asked": like!(12),
            "generations": each_like!(generation),
        }));
        interaction
    });
    // To call a build off is asked in the same way; one that lasts for as long as it takes to ask cannot be brought about.
    let kept = "the tables that served before are kept";
    for (what, verb, state) in [
        ("to build a read model again", "rebuild", "a read model serves"),
        ("to go back to the tables that served before", "rollback", kept),
        ("to remove the tables that served before", "drop", kept),
    ] {
        pact.interaction(format!("a request {what}"), String::new(), |interaction| {
            let path = format!("/ops/projections/${{service}}/{verb}");
            let mut interaction = given(state, interaction, "POST", &path);
            interaction.request.header("Content-Type", "application/json").json_body(json_pattern!({}));
            let position = json_pattern!({ "position": { "sequence": like!(12) } });
            interaction.response.status(202).json_body(position);
            interaction
        });
    }
}

#[test]
fn the_pact_is_what_the_commands_ask_for() {
    agree(pact().build().as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_understand_every_answer() {
    let mut pact = pact();
    pact.with_output_dir(std::env::temp_dir().join("contracts"));
    let server = pact.start_mock_server(None, None);
    let url = server.url().to_string();
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(Provider::executable());
        command.args(arguments).args(["--url", &url, "--token", "token"]);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        run(&["dead-letters", "list"]).await,
        "9b2f1c04d1e7  1  shipping-payments  payment.charged: no carrier\n  \
         0d6f5c0e-5a43-5f0b-9f6e-0f6a2f1f7a11  PAYMENTS:42  12 attempts  since 2026-08-01T12:00:00Z\n"
    );
    assert!(run(&["dead-letters", "show", ID]).await.contains(ID));
    assert_eq!(run(&["dead-letters", "retry", "9b2f1c04d1e7"]).await, "retry: 1\n");
    let shown = run(&["rebuild", "--status"]).await;
    assert_eq!(shown, "users\n    1  live      version 1  since 2026-08-01T12:00:00Z\n");
    for arguments in [&["rebuild", "orders"][..], &["rebuild", "orders", "--rollback"]] {
        assert_eq!(run(arguments).await, "orders: generation 2 serves\n");
    }
    let dropped = "orders: the tables that served before are removed\n";
    assert_eq!(run(&["rebuild", "orders", "--drop"]).await, dropped);
}
