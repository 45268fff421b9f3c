//! The keys of personal data and the hashes of passwords, in a file of their own, apart from the copy of the log: who has
//! both has everything, and who is erased is gone only when the last such file is.

use super::{
    Entry, Unlock, Wrapped, create,
    seal::{Opening, Sealing},
    settle,
};
use crate::{
    export::KEYS,
    failure::{Failure, because},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::Path,
};

/// The form of the file.
const FORMAT: u32 = 1;
/// What its content is sealed as, wherever the file is put.
const NAME: &str = "keys";

/// What is in such a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keys {
    /// When it was made.
    pub(crate) moment: Timestamp,
    /// Buckets by name.
    pub(crate) buckets: BTreeMap<String, KeptBucket>,
}

/// A bucket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptBucket {
    /// How its stream is configured.
    pub(crate) config: serde_json::Value,
    /// What is in it.
    pub(crate) entries: Vec<Entry>,
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    waybill_keys: u32,
    /// Where what follows is sealed.
    seal: Option<Wrapped>,
}

impl Keys {
    /// Writes the file as a whole, for its owner only.
    pub(crate) fn save(&self, path: &Path, unlock: Option<&Unlock>) -> Result<(), Failure> {
        let (seal, key) = unlock.map(Wrapped::new).transpose()?.unzip();
        let mut text = serde_json::to_vec(&Head { waybill_keys: FORMAT, seal })?;
        text.push(b'\n');
        let content = zeroize::Zeroizing::new(serde_json::to_vec(self)?);
        match &key {
            Some(key) => {
                let mut sealing = Sealing::new(text, key, NAME)?;
                sealing.write_all(&content)?;
                text = sealing.finish()?;
            }
            None => text.extend_from_slice(&content),
        }
        let draft = path.with_extension("part");
        let written = create(&draft).and_then(|mut file| {
            file.set_len(0)?;
            file.write_all(&text)?;
            settle(&file, &draft, path)
        });
        written.map_err(because(format!("cannot write {}", path.display())))
    }

    /// Reads it.
    pub(crate) fn load(path: &Path, unlock: Option<&Unlock>) -> Result<Self, Failure> {
        let shown = path.display();
        let bytes = fs::read(path).map_err(because(format!("cannot read {shown}")))?;
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let (head, content) = bytes.split_at(end);
        let head: Head = serde_json::from_slice(head).map_err(because(format!("{shown} holds no keys")))?;
        if head.waybill_keys != FORMAT {
            let format = head.waybill_keys;
            return Err(format!("{shown} is of format {format}; this program reads format {FORMAT}").into());
        }
        let content = content.get(1..).unwrap_or_default();
        let mut open = zeroize::Zeroizing::new(Vec::new());
        match (&head.seal, unlock) {
            (Some(wrapped), Some(unlock)) => {
                let seal = wrapped.open(unlock).map_err(because(format!("cannot open {shown}")))?;
                let read =
                    Opening::new(content, &seal, NAME).and_then(|mut from| from.read_to_end(&mut open));
                read.map_err(because(format!("cannot open {shown}")))?;
            }
            (Some(_), None) => {
                return Err(format!("{shown} is sealed: --key-file or --passphrase-file opens it").into());
            }
            // It could be anybody's.
            (None, Some(_)) => {
                return Err(format!("{shown} is not sealed: leave the key out where that is meant").into());
            }
            (None, None) => open.extend_from_slice(content),
        }
        let keys: Self = serde_json::from_slice(&open).map_err(because(format!("cannot read {shown}")))?;
        match keys.buckets.keys().find(|name| !KEYS.contains(&name.as_str())) {
            Some(name) => Err(format!("{shown} holds {name}, which is no bucket of keys").into()),
            None => Ok(keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;

    fn keys(bucket: &str) -> Keys {
        let kept = KeptBucket { config: serde_json::Value::Null, entries: Vec::new() };
        Keys { moment: Timestamp::UNIX_EPOCH, buckets: BTreeMap::from([(bucket.to_owned(), kept)]) }
    }

    #[test]
    fn what_is_not_sealed_or_no_bucket_of_keys_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let words = Unlock::Passphrase(SecretString::from("correct horse battery".to_owned()));
        let refused = |unlock: Option<&Unlock>| Keys::load(&path, unlock).unwrap_err().to_string();
        keys("CREDENTIALS").save(&path, Some(&words)).unwrap();
        assert!(Keys::load(&path, Some(&words)).unwrap().buckets.contains_key("CREDENTIALS"));
        assert!(refused(None).contains("is sealed"));
        keys("CREDENTIALS").save(&path, None).unwrap();
        assert!(Keys::load(&path, None).is_ok());
        assert!(refused(Some(&words)).contains("is not sealed"));
        keys("SIGNING_KEYS").save(&path, None).unwrap();
        assert!(refused(None).contains("SIGNING_KEYS"));
    }
}
