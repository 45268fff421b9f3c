//! Where a database of PostgreSQL is, and as whom to work on it.

use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use std::{fmt, str::FromStr};

/// `postgres://role:password@host:port/database`. Nothing that shows it shows the password.
#[derive(Clone)]
pub struct PostgresUrl(PgConnectOptions);

/// Why a text is no such URL. Without the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It begins with something else.
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    /// A parameter after the question mark is not known.
    #[error("it has a parameter that is not known: {0}")]
    Parameter(String),
    /// It names no database.
    #[error("it names no database: expected postgres://role:password@host:5432/database")]
    Database,
    /// Anything else.
    #[error("it cannot be read: expected postgres://role:password@host:5432/database")]
    Unreadable,
}

/// What may stand after the question mark.
const PARAMETERS: [&str; 8] =
    ["host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "options"];

impl PostgresUrl {
    pub(crate) const fn options(&self) -> &PgConnectOptions {
        &self.0
    }

    /// The same server, another database and role.
    #[must_use]
    pub fn with(&self, database: &str, role: &str, password: &str) -> Self {
        Self(self.0.clone().database(database).username(role).password(password))
    }

    /// The whole URL, with its password.
    pub fn reveal(&self) -> String {
        let mut url = self.0.to_url_lossy();
        // Of the driver's own, which nothing else can read.
        let known = |(name, _): &(_, _)| PARAMETERS.iter().any(|known| name == known);
        let pairs = url.query_pairs().into_owned().filter(known);
        // It shows a file as what it is, and does not read that again.
        let path = |(name, value): (String, String)| match value.strip_prefix("file: ") {
            Some(path) if name.starts_with("ssl") => (name, path.to_owned()),
            _ => (name, value),
        };
        let pairs: Vec<_> = pairs.map(path).collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
        url.to_string()
    }

    /// Its database.
    pub fn database(&self) -> &str {
        self.0.get_database().unwrap_or_default()
    }
}

impl FromStr for PostgresUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(UrlError::Scheme);
        }
        let parameters = text.split_once('?').map_or("", |(_, parameters)| parameters);
        let names = parameters.split('&').filter_map(|one| one.split('=').next());
        if let Some(unknown) = names.filter(|name| !name.is_empty()).find(|name| !PARAMETERS.contains(name)) {
            return Err(UrlError::Parameter(unknown.to_owned()));
        }
        let options: PgConnectOptions = text.parse().map_err(|_| UrlError::Unreadable)?;
        if options.get_database().is_none_or(str::is_empty) {
            return Err(UrlError::Database);
        }
        Ok(Self(options))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place =
            self.0.get_socket().map_or_else(|| self.0.get_host().into(), |path| path.to_string_lossy());
        let (role, port) = (self.0.get_username(), self.0.get_port());
        write!(f, "postgres://{role}@{place}:{port}/{}", self.database())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_never_shows_its_password() {
        let url: PostgresUrl = "postgres://orders:s3cret@db:5433/orders?sslmode=disable".parse().unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "postgres://orders@db:5433/orders postgres://orders@db:5433/orders"
        );
        assert!(url.reveal().contains("orders:s3cret@db:5433/orders"));
        let other = url.with("users", "u", "p/@:");
        assert_eq!(other.to_string(), "postgres://u@db:5433/users");
        let again: PostgresUrl = other.reveal().parse().unwrap();
        assert_eq!(again.reveal(), other.reveal());
        assert!(again.reveal().ends_with("@db:5433/users?sslmode=disable"), "{}", again.reveal());
        let files =
            "sslmode=verify-full&sslrootcert=%2Ftls%2Fca.pem&sslcert=%2Ftls%2Fa.pem&sslkey=%2Ftls%2Fa.key";
        let secured: PostgresUrl = format!("postgres://a:p@db/d?{files}").parse().unwrap();
        for file in files.split('&') {
            assert!(secured.reveal().contains(file), "{file} is missing in {}", secured.reveal());
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for (text, error) in [
            ("mysql://a:s3cret@b/c", UrlError::Scheme),
            ("postgres://a:s3cret@b:x/c", UrlError::Unreadable),
            ("postgres://a:s3cret@b/c?sslmode=maybe", UrlError::Unreadable),
            ("postgres://a:s3cret@b/c?pasword=s3cret", UrlError::Parameter("pasword".to_owned())),
        ] {
            let refused = text.parse::<PostgresUrl>().unwrap_err();
            assert!(!refused.to_string().contains("s3cret"), "{refused}");
            assert_eq!(refused, error);
        }
    }
}
