//! What `dev` says when it is ready.

use super::{catalogue::DemoAccount, state::DevFile};
use crate::api::Cart;
use commands::notifications::Post;
use std::{fmt::Write, path::Path};

/// Where everything is, and commands that work as they stand. The token is that of the demo's customer.
pub(super) fn text(file: &DevFile, account: &DemoAccount, token: &str, mail: &Post, data: &Path) -> String {
    let gateway = &file.gateway;
    let mut text = format!("\nWaybill is ready: {gateway}\n\n");
    for (service, url) in &file.services {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "  {service:<14} {url}");
    }
    let (nats, durability) = (&file.nats_url, &file.durability);
    let _ = writeln!(text, "  {:<14} {nats} (durability: {durability}, data: {})", "nats", data.display());

    // What is sent to customers while nobody has said how.
    if let Post::Outbox(folder) = mail {
        let _ = writeln!(text, "  {:<14} is put into {} (--smtp sends it)", "mail", folder.display());
    }

    let items = vec![("TEA".to_owned(), 2), ("CUP".to_owned(), 1)];
    let (user_id, account_id) = (account.user_id, account.account_id);
    let order = Cart { user_id, account_id, items, country: "DE".to_owned() }.body();
    let _ = write!(
        text,
        "\nPlace an order as the customer of the demo, see what became of it, and what is left:\n\n  \
         token='{token}'\n  \
         curl -s {gateway}/api/orders -H \"Authorization: Bearer $token\" -H 'Content-Type: application/json' -d '{order}'\n  \
         curl -s '{gateway}/api/orders?limit=5' -H \"Authorization: Bearer $token\"\n  \
         curl -s {gateway}/api/inventory/TEA -H \"Authorization: Bearer $token\"\n\n\
         The token is good for a day. Others: waybill token --role operator.\n\
         In another terminal: waybill demo, or waybill replay --follow. Ctrl-C stops everything.\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nats::Durability;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    #[test]
    fn the_commands_stand_alone() {
        let services = ["orders", "inventory"].map(|name| (name.to_owned(), format!("http://{name}")));
        let file = DevFile::new(
            "nats://n".to_owned(),
            "http://gateway".to_owned(),
            BTreeMap::from(services),
            Durability::Always,
        );
        let account = DemoAccount { user_id: Uuid::from_u128(1), account_id: Uuid::from_u128(2) };
        let outbox = Post::Outbox(".waybill/outbox".into());
        let text = text(&file, &account, "a.b.c", &outbox, Path::new(".waybill"));
        assert!(text.contains("is put into .waybill/outbox"), "{text}");
        let commands: Vec<_> = text.lines().filter(|line| line.contains("curl -s")).collect();
        assert_eq!(commands.len(), 3);
        assert!(commands.iter().all(|command| command.contains("http://gateway/api/")));
        assert!(commands.iter().all(|command| command.contains("-H \"Authorization: Bearer $token\"")));
        assert!(text.contains("token='a.b.c'\n"));
        let body = commands[0].split('\'').nth(3).unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["accountId"], "00000000-0000-0000-0000-000000000002");
    }
}
