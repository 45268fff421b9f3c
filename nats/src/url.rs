//! Where NATS is.

use std::{convert::Infallible, fmt, ops::Deref, str::FromStr};

/// The addresses of a NATS, with commas between those of its nodes. A login may stand in them: who connects reads it, and
/// nothing that shows the addresses shows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsUrl(String);

impl From<String> for NatsUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for NatsUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for NatsUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl Deref for NatsUrl {
    type Target = str;

    /// As it was given, with its login.
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The addresses as they may be shown.
pub(crate) fn shown(urls: &str) -> String {
    urls.split(',').map(|url| without_secret(url.trim())).collect::<Vec<_>>().join(", ")
}

/// The address without the user, password or token that may stand before an `@`.
pub(crate) fn without_secret(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    if scheme.is_empty() { place.to_owned() } else { format!("{scheme}://{place}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_an_address_shows_no_login() {
        assert_eq!(without_secret("nats://ada:s3cret@host:4222"), "nats://host:4222");
        assert_eq!(without_secret("token@host"), "host");
        assert_eq!(without_secret("nats://host:4222"), "nats://host:4222");
        let urls: NatsUrl = "nats://ada:s3cret@a:4222,nats://s3cret@b".parse().unwrap();
        assert_eq!(format!("{urls} {urls:?}"), "nats://a:4222, nats://b nats://a:4222, nats://b");
        assert_eq!(&*urls, "nats://ada:s3cret@a:4222,nats://s3cret@b");
    }
}
