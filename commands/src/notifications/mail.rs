//! E-mail: composed here, handed to a mail server by SMTP or put into a folder.

use super::{
    deliver::Outcome,
    letter::{Templates, Written, one_line},
};
use events::notifications::Fault;
use jiff::Timestamp;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error, PoolConfig,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use secrecy::{ExposeSecret, SecretString};
use std::{fmt, fs, io::Write, path::PathBuf, str::FromStr, time::Duration};

/// Connections to the mail server, and so mails that are on their way at the same time.
pub(super) const AT_ONCE: u8 = 8;
/// How long the mail server may take for each step of handing over a mail.
const STEP: Duration = Duration::from_secs(20);
/// Answers of a mail server that concern this mail and will not change: no such mailbox, and what RFC 5321, section
/// 4.2.3, and RFC 7504 say of that kind. Others, such as refused credentials, can be put right while mails wait.
const FINAL: [u16; 5] = [550, 551, 552, 553, 556];

/// How mail is sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Who it is from.
    pub from: Sender,
    /// Where it is handed over.
    pub post: Post,
}

/// Where mail is handed over.
#[derive(Clone, Debug)]
pub enum Post {
    /// Put into this folder, one file each: for development.
    Outbox(PathBuf),
    /// Handed to a mail server.
    Smtp(Smtp),
}

/// A mail server.
#[derive(Clone, Debug)]
pub struct Smtp {
    /// Its name, which its certificate has to bear.
    pub host: String,
    /// Its port; that which is usual for how the connection is protected, unless it is said.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub tls: SmtpTls,
    /// Certificates (PEM) to trust besides those of the machine.
    pub authorities: Option<Vec<u8>>,
    /// Name and password.
    pub login: Option<(String, SecretString)>,
}

/// How the connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmtpTls {
    /// Not at all. Usual port 25.
    None,
    /// TLS from the first answer on (RFC 3207); never without. Usual port 587.
    #[default]
    StartTls,
    /// TLS from the beginning (RFC 8314). Usual port 465.
    Tls,
}

impl FromStr for SmtpTls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "starttls" => Ok(Self::StartTls),
            "tls" => Ok(Self::Tls),
            _ => Err("expected none, starttls or tls"),
        }
    }
}

/// Who mail is from: `Waybill <orders@example.com>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender(Mailbox);

impl Sender {
    /// Nobody who could be answered.
    #[expect(clippy::expect_used, reason = "an address of the program's own")]
    pub(super) fn of_this_machine() -> Self {
        "Waybill <waybill@localhost>".parse().expect("a mail address")
    }
}

impl FromStr for Sender {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sender = text.parse().map(Self);
        sender.map_err(|_| "expected a mail address, such as Waybill <orders@example.com>")
    }
}

/// What is sent by mail, and to whom. Never printed.
pub(super) struct Draft<'a> {
    /// Of the recipient.
    pub(super) name: &'a str,
    pub(super) address: &'a str,
    pub(super) letter: &'a Written,
    /// Names this mail for ever: sent again after a crash, it has the same.
    pub(super) id: &'a str,
    /// When what it tells happened.
    pub(super) time: Timestamp,
}

/// Sends mail.
pub(super) struct Mailer {
    from: Mailbox,
    pub(super) templates: Templates,
    way: Way,
}

enum Way {
    Outbox(PathBuf),
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
}

/// Why there is no mailer.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The outbox cannot be made.
    #[error("the outbox {folder} cannot be made")]
    Outbox {
        /// Which folder.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate cannot be read, or the machine has none.
    #[error("TLS to the mail server cannot be set up")]
    Tls(#[from] Error),
}

impl Mailer {
    pub(super) fn new(mail: &Mail, templates: Templates) -> Result<Self, MailError> {
        let way = match &mail.post {
            Post::Outbox(folder) => {
                let failed = |source| MailError::Outbox { folder: folder.display().to_string(), source };
                private_folder(folder).map_err(failed)?;
                Way::Outbox(folder.clone())
            }
            Post::Smtp(smtp) => Way::Smtp(Box::new(transport(smtp)?)),
        };
        Ok(Self { from: mail.from.0.clone(), templates, way })
    }

    /// Sends a mail, once.
    pub(super) async fn send(&self, draft: &Draft<'_>) -> Outcome {
        let Ok(address) = draft.address.parse::<Address>() else {
            return Outcome::GivenUp(Fault::Recipient, None);
        };
        // No words of the error: they may hold what is personal.
        let Ok(message) = self.compose(draft, address) else {
            return Outcome::GivenUp(Fault::Recipient, None);
        };
        match &self.way {
            Way::Outbox(folder) => put(folder.clone(), draft.id.to_owned(), message.formatted()).await,
            Way::Smtp(transport) => handed_over(transport.send(message).await.map(|answer| answer.code())),
        }
    }

    fn compose(&self, draft: &Draft<'_>, address: Address) -> Result<Message, lettre::error::Error> {
        let name = Some(one_line(draft.name)).filter(|name| !name.is_empty());
        let Written { subject, text, html } = draft.letter;
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(name, address))
            .subject(one_line(subject))
            .date(draft.time.into())
            .message_id(Some(format!("<{}@{}>", draft.id, self.from.email.domain())))
            // So that nobody's holiday notice answers (RFC 3834).
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(text.clone(), html.clone()))
    }
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailer(..)")
    }
}

fn transport(smtp: &Smtp) -> Result<AsyncSmtpTransport<Tokio1Executor>, Error> {
    let parameters = || {
        let mut builder = TlsParameters::builder(smtp.host.clone());
        if let Some(pem) = &smtp.authorities {
            builder = builder.add_root_certificate(Certificate::from_pem(pem)?);
        }
        builder.build_rustls()
    };
    let (tls, usual) = match smtp.tls {
        SmtpTls::None => (Tls::None, 25),
        SmtpTls::StartTls => (Tls::Required(parameters()?), 587),
        SmtpTls::Tls => (Tls::Wrapper(parameters()?), 465),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(smtp.host.as_str())
        .port(smtp.port.unwrap_or(usual))
        .tls(tls)
        .timeout(Some(STEP))
        .pool_config(PoolConfig::new().max_size(AT_ONCE.into()));
    if let Some((name, password)) = &smtp.login {
        let password = password.expose_secret().to_owned();
        builder = builder.credentials(Credentials::new(name.clone(), password));
    }
    Ok(builder.build())
}

/// What the mail server's answer means. Its words are kept nowhere: they often hold the address.
fn handed_over(answer: Result<lettre::transport::smtp::response::Code, Error>) -> Outcome {
    let error = match answer {
        Ok(code) => return Outcome::Sent(Some(code.into())),
        Err(error) => error,
    };
    match error.status().map(u16::from) {
        Some(code) if FINAL.contains(&code) => Outcome::GivenUp(Fault::Refused, Some(code)),
        Some(code) => Outcome::Later(format!("the mail server answers {code}")),
        None if error.is_timeout() => Outcome::Later("the mail server does not answer in time".to_owned()),
        None if error.is_tls() => {
            Outcome::Later("the mail server is not to be trusted: TLS fails".to_owned())
        }
        None if error.is_client() => Outcome::Later("the mail server cannot do what is needed".to_owned()),
        None => Outcome::Later("the mail server cannot be reached".to_owned()),
    }
}

/// Puts a mail into a folder, under its own name: again, it is the same file.
async fn put(folder: PathBuf, id: String, mail: Vec<u8>) -> Outcome {
    let written = tokio::task::spawn_blocking(move || {
        private_folder(&folder)?;
        let draft = folder.join(format!(".{id}"));
        let mut options = fs::File::options();
        options.create(true).write(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&draft)?.write_all(&mail)?;
        fs::rename(draft, folder.join(format!("{id}.eml")))
    });
    match written.await {
        Ok(Ok(())) => Outcome::Sent(None),
        Ok(Err(error)) => Outcome::Later(format!("the outbox cannot be written: {error}")),
        Err(_) => Outcome::Later("writing to the outbox was broken off".to_owned()),
    }
}

/// A folder that only its owner looks into: there are names and addresses in it.
fn private_folder(folder: &PathBuf) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f3f5e-0000-7000-8000-000000000001_email";

    fn mailer(folder: &std::path::Path) -> Mailer {
        let from = "Waybill <orders@shop.example>".parse().unwrap();
        Mailer::new(&Mail { from, post: Post::Outbox(folder.to_owned()) }, Templates::built_in()).unwrap()
    }

    async fn sent(name: &str, address: &str, subject: &str) -> (Outcome, String) {
        let folder = tempfile::tempdir().unwrap();
        let outbox = folder.path().join("outbox");
        let letter = Written {
            subject: subject.to_owned(),
            text: "Hello".to_owned(),
            html: "<p>Hello</p>".to_owned(),
        };
        let draft = Draft { name, address, letter: &letter, id: ID, time: Timestamp::UNIX_EPOCH };
        // Twice is the same file.
        let mailer = mailer(&outbox);
        mailer.send(&draft).await;
        let outcome = mailer.send(&draft).await;
        let files: Vec<_> = fs::read_dir(&outbox).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let text = fs::read_to_string(outbox.join(format!("{ID}.eml"))).unwrap_or_default();
        assert_eq!(files.len(), usize::from(!text.is_empty()), "{files:?}");
        (outcome, text)
    }

    #[tokio::test]
    async fn a_mail_has_both_forms_and_a_name_of_its_own() {
        let (outcome, mail) = sent("Ada Lovelace", "ada@example.com", "Your order").await;
        assert_eq!(outcome, Outcome::Sent(None));
        for line in [
            "From: Waybill <orders@shop.example>",
            "To: \"Ada Lovelace\" <ada@example.com>",
            "Subject: Your order",
            &format!("Message-ID: <{ID}@shop.example>"),
            "Date: Thu, 01 Jan 1970 00:00:00 +0000",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Type: text/html; charset=utf-8",
        ] {
            assert!(mail.lines().any(|found| found == line), "{line} is missing in\n{mail}");
        }
    }

    #[tokio::test]
    async fn nobody_writes_headers_who_only_has_a_name() {
        for evil in [
            "Ada\r\nBcc: all@example.com",
            "Ada\nX-Evil: 1",
            "Ada\r\n\r\n<script>",
            "=?utf-8?q?Ada=0D=0ABcc:_x?=",
        ] {
            let (outcome, mail) = sent(evil, "ada@example.com", evil).await;
            assert_eq!(outcome, Outcome::Sent(None));
            let (head, _) = mail.split_once("\r\n\r\n").unwrap();
            let names: Vec<_> = head
                .split("\r\n")
                .filter(|line| !line.starts_with([' ', '\t']))
                .map(|line| line.split(':').next().unwrap())
                .collect();
            let expected = [
                "From",
                "To",
                "Subject",
                "Date",
                "Message-ID",
                "Auto-Submitted",
                "MIME-Version",
                "Content-Type",
            ];
            for name in names {
                assert!(expected.contains(&name), "{name} in\n{mail}");
            }
            assert!(!head.contains('\n') || head.lines().all(|line| !line.is_empty()), "{head}");
        }
        for evil in [
            "ada@example.com\r\nBcc: all@example.com",
            "ada@example.com, bob@example.com",
            "ada",
            "<ada@example.com>",
        ] {
            let (outcome, mail) = sent("Ada", evil, "x").await;
            assert_eq!((outcome, mail.as_str()), (Outcome::GivenUp(Fault::Recipient, None), ""), "{evil}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let login = Some(("postman".to_owned(), SecretString::from("sesame")));
        let smtp = Smtp { host: "mx".to_owned(), port: None, tls: SmtpTls::Tls, authorities: None, login };
        let mail = Mail { from: "a@b.c".parse().unwrap(), post: Post::Smtp(smtp) };
        assert!(!format!("{mail:?}").contains("sesame"));
    }
}
