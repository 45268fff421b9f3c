//! The configuration files of `conf/` for a server that trusts nobody: with accounts, with a password between the nodes,
//! with certificates.

use super::launch::{CLUSTER, SINGLE};
use std::fmt::Write;

/// What every file says of itself while nobody has to show who he is.
const OPEN: [&str; 2] = [
    "# Not secured: it answers only this machine.\n",
    "# Not secured: keep these ports on a private network.\n",
];

/// How a server that trusts nobody is set up.
#[derive(Clone, Debug, Default)]
pub struct Secured {
    /// Folder with `node.pem`, `node.key` and `ca.pem`, as the server sees it: then everything is TLS, and both sides
    /// show a certificate.
    pub certificates: Option<String>,
    /// The nodes of a cluster, each as `host:port` of its cluster port; none for one server alone.
    pub nodes: Vec<String>,
    /// What nodes say to each other.
    pub password: String,
    /// Of one server alone: where it listens.
    pub listen: Option<(String, u16)>,
}

impl Secured {
    /// The configuration file, beside which `accounts.conf` lies.
    pub fn render(&self) -> String {
        let mut text = if self.nodes.is_empty() { SINGLE } else { CLUSTER }.to_owned();
        for line in OPEN {
            text =
                text.replace(line, "# Secured: who comes shows a key, and may do what accounts.conf says.\n");
        }
        if let (Some((host, port)), true) = (&self.listen, self.nodes.is_empty()) {
            text = text.replace("host: 127.0.0.1\nport: 4222\n", &format!("host: {host:?}\nport: {port}\n"));
        }
        if !self.nodes.is_empty() {
            let mut inside =
                format!("cluster {{\n  authorization {{ user: waybill, password: {:?} }}\n", self.password);
            if let Some(folder) = &self.certificates {
                tls(&mut inside, folder, "  ");
            }
            text = text.replacen("cluster {\n", &inside, 1);
            let route = |node: &String| format!("\"nats://waybill:{}@{node}\"", self.password);
            let routes: Vec<_> = self.nodes.iter().map(route).collect();
            text = text.replace("$WAYBILL_NATS_ROUTES\n}", &format!("[{}]\n}}", routes.join(", ")));
        }
        text.push_str("\ninclude \"accounts.conf\"\n");
        if let Some(folder) = &self.certificates {
            text.push('\n');
            tls(&mut text, folder, "");
        }
        text
    }
}

fn tls(text: &mut String, folder: &str, indent: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{indent}tls {{ cert_file: \"{folder}/node.pem\", key_file: \"{folder}/node.key\", ca_file: \"{folder}/ca.pem\", verify: true }}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_asks_for_a_key_and_routes_for_a_password() {
        let single = Secured { listen: Some(("0.0.0.0".to_owned(), 4222)), ..Secured::default() }.render();
        assert!(
            single.contains("include \"accounts.conf\"") && single.contains("host: \"0.0.0.0\""),
            "{single}"
        );
        assert!(!single.contains("Not secured") && !single.contains("tls"), "{single}");
        let nodes = ["a:1", "b:2", "c:3"].map(str::to_owned).to_vec();
        let (certificates, password) = (Some("/tls".to_owned()), "s3cret".to_owned());
        let cluster = Secured { certificates, nodes, password, listen: None }.render();
        assert!(
            cluster.contains("nats://waybill:s3cret@b:2") && !cluster.contains("\n  routes: $"),
            "{cluster}"
        );
        assert_eq!(cluster.matches("verify: true").count(), 2, "{cluster}");
        assert!(cluster.contains("sync_interval: always") && !cluster.contains("Not secured"), "{cluster}");
    }
}
