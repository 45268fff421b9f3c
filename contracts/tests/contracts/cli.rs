//! `waybill dead-letters` asks the operations service: the real executable, and what it makes of the answers.

use contracts::{Provider, agree};
use pact_consumer::{builders::InteractionBuilder, prelude::*};
use tokio::process::Command;

const ID: &str = "0d6f5c0e-5a43-5f0b-9f6e-0f6a2f1f7a11";

fn asked(mut interaction: InteractionBuilder, method: &str, path: &str) -> InteractionBuilder {
    interaction.given("a message is parked");
    let example = path.replace("${id}", ID).replace("${fingerprint}", "9b2f1c04d1e7");
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
    pact
}

#[test]
fn the_pact_is_what_the_command_asks_for() {
    agree(pact().build().as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_understands_every_answer() {
    let mut pact = pact();
    pact.with_output_dir(std::env::temp_dir().join("contracts"));
    let server = pact.start_mock_server(None, None);
    let url = server.url().to_string();
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(Provider::executable());
        command.arg("dead-letters").args(arguments).args(["--url", &url, "--token", "token"]);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        run(&["list"]).await,
        "9b2f1c04d1e7  1  shipping-payments  payment.charged: no carrier\n  \
         0d6f5c0e-5a43-5f0b-9f6e-0f6a2f1f7a11  PAYMENTS:42  12 attempts  since 2026-08-01T12:00:00Z\n"
    );
    assert!(run(&["show", ID]).await.contains(ID));
    assert_eq!(run(&["retry", "9b2f1c04d1e7"]).await, "retry: 1\n");
}
