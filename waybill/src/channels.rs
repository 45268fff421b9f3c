//! How notifications are sent, by flags, environment and files: the mail server, templates, endpoints of webhooks.

use crate::{failure::Failure, settings::Flag};
use commands::notifications::{Channels, Mail, Post, Sender, Smtp, SmtpTls, TIMEOUT, Templates, Webhook};
use secrecy::SecretString;
use serde::Deserialize;
use service::config::{Settings, Span};
use std::{
    collections::HashSet,
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The variable that holds the password for the mail server. There is no such flag, for every user of the machine would
/// see it.
const PASSWORD: &str = "WAYBILL_SMTP_PASSWORD";

/// Flags of notifications.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Notifications")]
pub(crate) struct ChannelArgs {
    /// The mail server, with a port where it is not the usual one [default: none, mail goes into the outbox]
    #[arg(long, value_name = "HOST[:PORT]", env = "WAYBILL_SMTP")]
    smtp: Option<String>,
    /// How the connection to the mail server is protected: none, starttls or tls [default: starttls]
    #[arg(long, value_name = "MODE", env = "WAYBILL_SMTP_TLS")]
    smtp_tls: Option<String>,
    /// Certificates (PEM) that may vouch for the mail server, besides those of the machine
    #[arg(long, value_name = "FILE", env = "WAYBILL_SMTP_CA_FILE")]
    smtp_ca_file: Option<PathBuf>,
    /// The name to log in with at the mail server
    #[arg(long, value_name = "NAME", env = "WAYBILL_SMTP_USER")]
    smtp_user: Option<String>,
    /// File with the password for the mail server; or the password itself in the variable `WAYBILL_SMTP_PASSWORD`
    #[arg(long, value_name = "FILE", env = "WAYBILL_SMTP_PASSWORD_FILE")]
    smtp_password_file: Option<PathBuf>,
    /// Who mail is from [default: Waybill <waybill@localhost>]
    #[arg(long, value_name = "ADDRESS", env = "WAYBILL_MAIL_FROM")]
    mail_from: Option<String>,
    /// Folder that mail is put into where there is no mail server [default: outbox in the data folder]
    #[arg(long, value_name = "DIR", env = "WAYBILL_OUTBOX")]
    outbox: Option<PathBuf>,
    /// Folder with templates in the place of those that come with Waybill
    #[arg(long, value_name = "DIR", env = "WAYBILL_TEMPLATES")]
    templates: Option<PathBuf>,
    /// File that names the endpoints of webhooks
    #[arg(long, value_name = "FILE", env = "WAYBILL_WEBHOOKS")]
    webhooks: Option<PathBuf>,
    /// How old an event may be to be told [default: 72h]
    #[arg(long, value_name = "TIME", env = "WAYBILL_NOTIFY_WITHIN")]
    notify_within: Option<String>,
    /// What is waited before the second attempt to tell, and twice as long before each further one [default: 5s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_NOTIFY_RETRY")]
    notify_retry: Option<String>,
}

impl ChannelArgs {
    /// The flags by name, to be read together with those of the command.
    pub(crate) fn flags(&self) -> [Flag; 5] {
        [
            ("--smtp", self.smtp.clone()),
            ("--smtp-tls", self.smtp_tls.clone()),
            ("--mail-from", self.mail_from.clone()),
            ("--notify-within", self.notify_within.clone()),
            ("--notify-retry", self.notify_retry.clone()),
        ]
    }

    /// The channels as the flags want them; whatever is wrong is noted as a fault.
    pub(crate) fn read(&self, flags: &mut Settings, data: &Path) -> Channels {
        let outbox = self.outbox.clone().unwrap_or_else(|| data.join("outbox"));
        let mut channels = Channels::outbox(outbox);
        let within = flags.optional("--notify-within").map(|Span(time)| time);
        channels.give_up_after = within.unwrap_or(channels.give_up_after);
        if let Some(Span(first)) = flags.optional("--notify-retry") {
            channels.first_retry = first;
            channels.last_mail_retry = channels.last_mail_retry.max(first);
            channels.last_webhook_retry = channels.last_webhook_retry.max(first);
        }
        let from = flags.optional::<Sender>("--mail-from").unwrap_or_else(|| channels.mail.from.clone());
        let server = flags.optional::<Place>("--smtp");
        let post = match server {
            Some(place) => Post::Smtp(self.smtp(place, flags)),
            None => channels.mail.post,
        };
        channels.mail = Mail { from, post };
        if let Some(folder) = &self.templates {
            match Templates::with(folder) {
                Ok(templates) => channels.templates = templates,
                Err(error) => flags.faults().add("--templates", error),
            }
        }
        if let Some(file) = &self.webhooks {
            match webhooks(file) {
                Ok(webhooks) => channels.webhooks = webhooks,
                Err(error) => flags.faults().add("--webhooks", error),
            }
        }
        channels
    }

    /// The folder that mail goes into and no further, where nobody said that this is meant.
    pub(crate) fn dead_end<'a>(&self, channels: &'a Channels) -> Option<&'a Path> {
        match &channels.mail.post {
            Post::Outbox(folder) if self.outbox.is_none() => Some(folder),
            _ => None,
        }
    }

    fn smtp(&self, Place { host, port }: Place, flags: &mut Settings) -> Smtp {
        let tls = flags.optional::<SmtpTls>("--smtp-tls").unwrap_or_default();
        let mut file = |name, file: &Option<PathBuf>| {
            let read = file.as_ref().map(fs::read).transpose();
            read.map_err(|error| flags.faults().add(name, error)).ok().flatten()
        };
        let authorities = file("--smtp-ca-file", &self.smtp_ca_file);
        let password = file("--smtp-password-file", &self.smtp_password_file);
        let password =
            password.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned());
        let password = password.or_else(|| env::var(PASSWORD).ok()).map(SecretString::from);
        let login = self.smtp_user.clone().zip(password);
        if self.smtp_user.is_some() && login.is_none() {
            flags.faults().add("--smtp-user", format!("needs --smtp-password-file or {PASSWORD}"));
        }
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if login.is_some() && tls == SmtpTls::None && !here {
            flags.faults().add("--smtp-tls", "a password is sent to another machine only under TLS");
        }
        Smtp { host, port, tls, authorities, login }
    }
}

/// `mail.example.com:587`.
struct Place {
    host: String,
    port: Option<u16>,
}

impl std::str::FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| "expected HOST or HOST:PORT")?)),
            None => (text, None),
        };
        let named =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        named.then(|| Self { host: host.to_owned(), port }).ok_or("expected HOST or HOST:PORT")
    }
}

/// The file of webhooks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookFile {
    #[serde(default)]
    webhook: Vec<WebhookTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WebhookTable {
    name: String,
    url: String,
    /// Each `file:<path>` or `env:<variable>`.
    secrets: Vec<String>,
    #[serde(default)]
    events: Vec<String>,
    timeout: Option<String>,
    #[serde(default)]
    allow_private: bool,
}

/// The channels of the webhooks that a file names; what else it says is not looked at.
pub(crate) fn webhook_channels(file: &Path) -> Result<Vec<String>, Failure> {
    let tables: WebhookFile =
        toml::from_str(&fs::read_to_string(file)?).map_err(|error| error.message().to_owned())?;
    Ok(tables.webhook.iter().map(|table| commands::notifications::webhook_channel(&table.name)).collect())
}

fn webhooks(file: &Path) -> Result<Vec<Webhook>, Failure> {
    let text = fs::read_to_string(file)?;
    // Its own words would show the line at fault, which may hold what was meant to be a secret.
    let tables: WebhookFile = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    let mut names = HashSet::new();
    let mut webhooks = Vec::new();
    for table in tables.webhook {
        let name = table.name.clone();
        if !names.insert(name.clone()) {
            return Err(format!("{name}: the name is taken").into());
        }
        let webhook = webhook(table, folder).map_err(|why| format!("{name}: {why}"))?;
        webhook.check().map_err(|why| format!("{name}: {why}"))?;
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

fn webhook(table: WebhookTable, folder: &Path) -> Result<Webhook, String> {
    let WebhookTable { name, url, secrets, events, timeout, allow_private } = table;
    let secrets = secrets.iter().map(|place| secret(place, folder)).collect::<Result<_, _>>()?;
    let timeout = timeout.map(|text| text.parse::<Span>()).transpose();
    let timeout = timeout.map_err(|error| format!("timeout: {error}"))?.map_or(TIMEOUT, |Span(time)| time);
    if timeout.is_zero() || timeout > Duration::from_secs(25) {
        return Err("timeout: expected up to 25s".to_owned());
    }
    Ok(Webhook { name, url, secrets, events, timeout, allow_private })
}

/// Reads a secret from where it is; files are found beside the file that names them. Where it is not one is said without it.
fn secret(place: &str, folder: &Path) -> Result<SecretString, String> {
    let text = match place.split_once(':') {
        Some(("file", path)) => {
            fs::read_to_string(folder.join(path)).map_err(|error| format!("secrets: {path}: {error}"))?
        }
        Some(("env", name)) => env::var(name).map_err(|_| format!("secrets: {name} is missing"))?,
        _ => return Err("secrets: each is file:<path> or env:<variable>, never the secret itself".to_owned()),
    };
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        channels: ChannelArgs,
    }

    fn read(line: &[&str]) -> Result<Channels, String> {
        let line = Line::parse_from(["waybill"].iter().chain(line));
        let mut flags = settings::flags(line.channels.flags());
        let channels = line.channels.read(&mut flags, Path::new("data"));
        flags.finish(Some(channels)).map_err(|faults| faults.to_string())
    }

    fn put(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    const HOOK: &str = "[[webhook]]\nname = \"erp\"\nurl = \"https://erp.example.com/in\"\nsecrets = [\"file:erp.secret\"]\n";

    #[test]
    fn without_a_mail_server_mail_goes_into_the_outbox() {
        let channels = read(&[]).unwrap();
        let Post::Outbox(folder) = channels.mail.post else { panic!("an outbox") };
        assert_eq!(folder, Path::new("data/outbox"));
        assert!(channels.webhooks.is_empty());
    }

    #[test]
    fn a_mail_server_and_endpoints_are_read_from_flags_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let password = put(folder, "password", "sesame\n");
        put(folder, "erp.secret", "whsec_0123456789abcdef\n");
        let hooks =
            put(folder, "hooks.toml", &format!("{HOOK}events = [\"order.failed\"]\ntimeout = \"3s\"\n"));
        let channels = read(&[
            "--smtp",
            "mx.example.com:2525",
            "--smtp-tls",
            "tls",
            "--smtp-user",
            "shop",
            "--smtp-password-file",
            &password,
            "--mail-from",
            "Shop <shop@example.com>",
            "--webhooks",
            &hooks,
            "--notify-within",
            "24h",
            "--notify-retry",
            "1s",
        ])
        .unwrap();
        let Post::Smtp(smtp) = &channels.mail.post else { panic!("a mail server") };
        assert_eq!((smtp.host.as_str(), smtp.port, smtp.tls), ("mx.example.com", Some(2525), SmtpTls::Tls));
        assert!(smtp.login.is_some());
        let [hook] = &channels.webhooks[..] else { panic!("one endpoint") };
        assert_eq!((hook.name.as_str(), hook.timeout), ("erp", Duration::from_secs(3)));
        assert_eq!(channels.give_up_after, Duration::from_hours(24));
        let shown = format!("{channels:?}");
        assert!(!shown.contains("sesame") && !shown.contains("whsec"), "{shown}");
    }

    #[test]
    fn every_fault_is_named_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let password = put(folder, "password", "sesame");
        put(folder, "erp.secret", "whsec_0123456789abcdef");
        let faults = read(&[
            "--smtp",
            "mx.example.com",
            "--smtp-tls",
            "perhaps",
            "--mail-from",
            "me",
            "--notify-within",
            "long",
            "--smtp-user",
            "shop",
            "--templates",
            "/nowhere",
            "--webhooks",
            "/nowhere",
            "--smtp-ca-file",
            "/nowhere",
        ])
        .unwrap_err();
        let named = [
            "--smtp-tls",
            "--mail-from",
            "--notify-within",
            "--smtp-user",
            "--templates",
            "--webhooks",
            "--smtp-ca-file",
        ];
        assert!(named.iter().all(|name| faults.contains(name)), "{faults}");
        let login = ["--smtp", "mx.example.com", "--smtp-user", "shop", "--smtp-password-file", &password];
        read(&login).unwrap();
        let faults = read(&[&login[..], &["--smtp-tls", "none"]].concat()).unwrap_err();
        assert!(faults.contains("only under TLS") && !faults.contains("sesame"), "{faults}");
        for (text, fault) in [
            (HOOK.replace("file:erp.secret", "whsec_0123456789abcdef"), "never the secret itself"),
            (HOOK.replace("file:erp.secret", "file:none"), "none"),
            (HOOK.replace("file:erp.secret", "env:WAYBILL_TEST_NONE"), "WAYBILL_TEST_NONE is missing"),
            (HOOK.replace("https://erp.example.com", "https://10.0.0.1"), "allow-private"),
            (format!("{HOOK}events = [\"user.created\"]"), "nobody is told of user.created"),
            (format!("{HOOK}timeout = \"1h\""), "timeout"),
            (format!("{HOOK}secret = \"whsec_0123456789abcdef\""), "unknown field"),
            (format!("{HOOK}{HOOK}"), "the name is taken"),
        ] {
            let hooks = put(folder, "hooks.toml", &text);
            let faults = read(&["--webhooks", &hooks]).unwrap_err();
            assert!(faults.contains(fault) && !faults.contains("whsec"), "{fault}: {faults}");
        }
    }
}
