//! A real mail server, with STARTTLS and a login: to be killed, and started again where it was.

use crate::{eventually, installed, python};
use commands::notifications::{Mail, Post, Smtp, SmtpTls};
use secrecy::SecretString;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const PACKAGE: &str = "aiosmtpd==1.4.6";
const SOON: Duration = Duration::from_secs(30);

/// The server, and the mails that it has accepted. Dropped, it is killed.
#[derive(Debug)]
pub struct MailServer {
    child: Option<Child>,
    folder: TempDir,
    package: PathBuf,
    port: u16,
}

/// A mail as the server has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// To whom it was handed over.
    pub to: String,
    /// Its `Message-ID`.
    pub id: String,
    /// Its `Subject`.
    pub subject: String,
    /// All of it.
    pub text: String,
}

impl Received {
    /// A mail in a file.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let head = text.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ");
        let header = |name: &str| {
            let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_default().to_owned()
        };
        let (to, id, subject) = (header("X-Rcpt"), header("Message-ID"), header("Subject"));
        Self { to, id, subject, text }
    }
}

impl MailServer {
    /// Starts it on a free port.
    pub async fn start() -> io::Result<Self> {
        let (folder, package) = (tempfile::tempdir()?, installed(PACKAGE).await);
        certify(folder.path()).await?;
        let mut server = Self { child: None, folder, package, port: 0 };
        server.again().await?;
        Ok(server)
    }

    /// Starts it where it was, after a kill.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn again(&mut self) -> io::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtp/server.py");
        let mut child = python(&self.package, &[])
            .arg(script)
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        self.child = Some(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        self.port = line.trim().parse().unwrap_or_else(|_| panic!("the mail server does not start: {line}"));
        Ok(())
    }

    /// Kills it as a crash would.
    pub async fn kill(&mut self) -> io::Result<()> {
        match &mut self.child {
            Some(child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// How mail is sent to it.
    ///
    /// # Panics
    /// Never: the sender's address is one.
    pub fn mail(&self) -> Mail {
        let smtp = Smtp {
            host: "localhost".to_owned(),
            port: Some(self.port),
            tls: SmtpTls::StartTls,
            authorities: fs::read(self.folder.path().join("cert.pem")).ok(),
            login: Some(("postman".to_owned(), SecretString::from("sesame"))),
        };
        let from = "Shop <orders@shop.example>".parse().unwrap_or_else(|error| panic!("{error}"));
        Mail { from, post: Post::Smtp(smtp) }
    }

    /// The same as flags of `waybill serve`.
    ///
    /// # Panics
    /// Where the password cannot be written.
    pub fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        fs::write(file("password"), "sesame\n").unwrap_or_else(|error| panic!("{error}"));
        let place = format!("localhost:{}", self.port);
        let (certificate, password) = (file("cert.pem"), file("password"));
        [
            ("--smtp", place.as_str()),
            ("--smtp-ca-file", &certificate),
            ("--smtp-user", "postman"),
            ("--smtp-password-file", &password),
            ("--mail-from", "Shop <orders@shop.example>"),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
        .collect()
    }

    /// What it has accepted, oldest first.
    pub fn mails(&self) -> Vec<Received> {
        let entries = fs::read_dir(self.folder.path().join("mails")).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "eml"));
        files.sort();
        files.iter().map(|file| Received::read(file)).collect()
    }

    /// Waits until it has accepted so many.
    ///
    /// # Panics
    /// When it has not in time.
    pub async fn accepted(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} mails"), SOON, async || {
            Some(self.mails()).filter(|mails| mails.len() >= count)
        })
        .await
    }

    /// Reads mails from now on, and accepts none before [`Self::release`].
    pub fn hold(&self) -> io::Result<()> {
        fs::write(self.folder.path().join("hold"), "")
    }

    /// Waits until it has read a mail that it does not accept yet.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn holding(&self) {
        let file = self.folder.path().join("holding");
        eventually("a mail is read", SOON, async || file.exists().then_some(())).await;
    }

    /// Accepts what it has read.
    pub fn release(&self) -> io::Result<()> {
        fs::remove_file(self.folder.path().join("hold"))
    }
}

/// A certificate for this machine that vouches for itself.
async fn certify(folder: &Path) -> io::Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .await
        .unwrap_or_else(|error| panic!("openssl is missing (Debian: openssl): {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
