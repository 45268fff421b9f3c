//! Files that only who has the key can read, or have written: XChaCha20-Poly1305, chunk by chunk, so that a file of any
//! size needs little memory. A chunk opens only in its place of its file, and the last one says that it is: what is cut
//! short, put together from others, or called by another name does not open.
//!
//! The key of the files is made for each copy and kept beside them in `seal.json`, wrapped by the key that is given, or by one
//! that is made of a passphrase with argon2id.

use super::{create, settle};
use crate::failure::{Failure, because};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, prelude::BASE64_STANDARD};
use events::DataKey;
use nats::MasterKey;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::Path,
};

/// Where the wrapped key of a copy is.
const NAME: &str = "seal.json";
const FORMAT: u32 = 1;
/// What the wrapped key is bound to.
const CONTEXT: &str = "the files of a backup";
/// At the head of each file; then what tells it from other files.
const MAGIC: &[u8; 16] = b"waybill sealed 1";
const ID: usize = 16;
/// A chunk before it is sealed.
const CHUNK: usize = 1 << 16;
/// What sealing adds: a nonce and a tag.
const ADDED: usize = 24 + 16;
/// Of argon2id: memory in KiB and passes. Half a second, once.
const COST: (u32, u32) = (64 * 1024, 3);
/// What a file may ask for at most: it could be somebody else's.
const MOST: (u32, u32) = (1024 * 1024, 16);

/// What opens a copy.
#[derive(Debug)]
pub(crate) enum Unlock {
    /// A key.
    Key(MasterKey),
    /// Words.
    Passphrase(SecretString),
}

/// The key of the files of one copy.
#[derive(Clone)]
pub(crate) struct Seal(DataKey);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

/// What stands beside the files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Wrapped {
    format: u32,
    /// The key of the files, wrapped.
    key: String,
    /// How the key that wraps it is made of words, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase: Option<Derivation>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Derivation {
    /// In base64.
    salt: String,
    memory_kib: u32,
    passes: u32,
}

impl Derivation {
    fn new() -> Self {
        let (memory_kib, passes) = COST;
        Self { salt: BASE64_STANDARD.encode(nats::nonce()), memory_kib, passes }
    }

    fn derive(&self, words: &SecretString) -> Result<MasterKey, Failure> {
        let (memory, passes) = MOST;
        if self.memory_kib > memory || self.passes > passes {
            return Err(format!("{NAME} asks for more work than any copy does").into());
        }
        let salt = BASE64_STANDARD.decode(&self.salt).map_err(because(format!("cannot read {NAME}")))?;
        let unusable = |error: argon2::Error| because(format!("cannot use {NAME}"))(error.to_string());
        let params = Params::new(self.memory_kib, self.passes, 1, Some(32)).map_err(unusable)?;
        let mut key = zeroize::Zeroizing::new([0; 32]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2
            .hash_password_into(words.expose_secret().as_bytes(), &salt, key.as_mut_slice())
            .map_err(unusable)?;
        Ok(zeroize::Zeroizing::new(BASE64_STANDARD.encode(*key)).parse()?)
    }
}

impl Unlock {
    fn master(&self, derivation: Option<&Derivation>) -> Result<MasterKey, Failure> {
        match (self, derivation) {
            (Self::Key(key), None) => Ok(key.clone()),
            (Self::Passphrase(words), Some(derivation)) => derivation.derive(words),
            (Self::Key(_), Some(_)) => Err("it was sealed with a passphrase: --passphrase-file".into()),
            (Self::Passphrase(_), None) => Err("it was sealed with a key: --key-file".into()),
        }
    }
}

impl Wrapped {
    /// A new key for the files of a copy.
    pub(crate) fn new(unlock: &Unlock) -> Result<(Self, Seal), Failure> {
        let key = MasterKey::generate().derive(CONTEXT);
        let passphrase = matches!(unlock, Unlock::Passphrase(_)).then(Derivation::new);
        let master = unlock.master(passphrase.as_ref())?;
        let wrapped = Self { format: FORMAT, key: master.wrap(&*key, CONTEXT), passphrase };
        Ok((wrapped, Seal(DataKey::new(*key))))
    }

    /// The key of the files.
    pub(crate) fn open(&self, unlock: &Unlock) -> Result<Seal, Failure> {
        if self.format != FORMAT {
            return Err(format!("it is of format {}; this program reads format {FORMAT}", self.format).into());
        }
        let master = unlock.master(self.passphrase.as_ref())?;
        let key = master
            .unwrap(&self.key, CONTEXT)
            .map_err(|_| "this does not open it: another key, or other words")?;
        let key = key.as_slice().try_into().map_err(|_| "what was wrapped is no key")?;
        Ok(Seal(DataKey::new(key)))
    }

    /// Reads the one beside the files of a copy, if it is sealed.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(NAME);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(because(format!("cannot read {}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(because(format!("cannot read {}", path.display()))(error)),
        }
    }

    /// Writes it, before anything that it seals.
    pub(super) fn save(&self, dir: &Path) -> Result<(), Failure> {
        let (path, draft) = (dir.join(NAME), dir.join(format!("{NAME}.new")));
        let text = serde_json::to_vec_pretty(self)?;
        let written = create(&draft).and_then(|mut file| {
            file.set_len(0)?;
            file.write_all(&text)?;
            settle(&file, &draft, &path)
        });
        written.map_err(because(format!("cannot write {}", path.display())))
    }
}

/// What a chunk is bound to: its file by name and by id, its place in it, and whether it is the last one.
fn place(name: &str, id: [u8; ID], number: u64, is_last: bool) -> Vec<u8> {
    let mut place = id.to_vec();
    place.extend(number.to_be_bytes());
    place.push(is_last.into());
    place.extend(name.as_bytes());
    place
}

/// Writes a file that is sealed.
pub(crate) struct Sealing<W> {
    to: W,
    key: DataKey,
    name: String,
    id: [u8; ID],
    number: u64,
    chunk: Vec<u8>,
}

impl<W: Write> Sealing<W> {
    /// Begins the file of this name.
    pub(crate) fn new(mut to: W, seal: &Seal, name: &str) -> io::Result<Self> {
        let mut id = [0; ID];
        id.copy_from_slice(&nats::nonce()[..ID]);
        to.write_all(MAGIC)?;
        to.write_all(&id)?;
        let chunk = Vec::with_capacity(CHUNK);
        Ok(Self { to, key: seal.0.clone(), name: name.to_owned(), id, number: 0, chunk })
    }

    /// Ends it: without this it does not open.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        Ok(self.to)
    }

    fn put(&mut self, is_last: bool) -> io::Result<()> {
        let place = place(&self.name, self.id, self.number, is_last);
        let sealed = self.key.encrypt(&self.chunk, &place, nats::nonce());
        self.chunk.clear();
        self.number += 1;
        self.to.write_all(&sealed)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // A full one is not the last only once there is more.
        if self.chunk.len() == CHUNK {
            self.put(false)?;
        }
        let taken = buffer.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&buffer[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads a file that is sealed.
pub(crate) struct Opening<R> {
    from: R,
    key: DataKey,
    name: String,
    id: [u8; ID],
    number: u64,
    /// What was read of the file and is still sealed.
    sealed: Vec<u8>,
    open: zeroize::Zeroizing<Vec<u8>>,
    taken: usize,
    is_over: bool,
}

impl<R: Read> Opening<R> {
    /// Opens the file of this name.
    pub(crate) fn new(mut from: R, seal: &Seal, name: &str) -> io::Result<Self> {
        let (mut magic, mut id) = ([0; MAGIC.len()], [0; ID]);
        from.read_exact(&mut magic)?;
        from.read_exact(&mut id)?;
        if magic != *MAGIC {
            return Err(io::Error::other(format!("{name} is not sealed")));
        }
        let (key, name) = (seal.0.clone(), name.to_owned());
        let (sealed, open) = (Vec::with_capacity(CHUNK + ADDED + 1), zeroize::Zeroizing::default());
        Ok(Self { from, key, name, id, number: 0, sealed, open, taken: 0, is_over: false })
    }

    fn next(&mut self) -> io::Result<()> {
        // One byte more than a chunk says that it is not the last.
        let missing = (CHUNK + ADDED + 1 - self.sealed.len()) as u64;
        self.from.by_ref().take(missing).read_to_end(&mut self.sealed)?;
        let is_last = self.sealed.len() <= CHUNK + ADDED;
        let end = self.sealed.len().min(CHUNK + ADDED);
        let place = place(&self.name, self.id, self.number, is_last);
        let wrong = || io::Error::other(format!("{} was changed, or is cut short", self.name));
        self.open = self.key.decrypt(&self.sealed[..end], &place).ok_or_else(wrong)?;
        self.sealed.drain(..end);
        (self.taken, self.is_over) = (0, is_last);
        self.number += 1;
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.open.len() {
            if self.is_over {
                return Ok(0);
            }
            self.next()?;
        }
        let taken = buffer.len().min(self.open.len() - self.taken);
        buffer[..taken].copy_from_slice(&self.open[self.taken..self.taken + taken]);
        self.taken += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Wrapped::new(&Unlock::Key(MasterKey::generate())).unwrap().1
    }

    fn sealed(seal: &Seal, name: &str, text: &[u8]) -> Vec<u8> {
        let mut sealing = Sealing::new(Vec::new(), seal, name).unwrap();
        sealing.write_all(text).unwrap();
        sealing.finish().unwrap()
    }

    fn opened(seal: &Seal, name: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        Opening::new(bytes, seal, name)?.read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_file_of_any_size_opens_and_shows_nothing() {
        let seal = seal();
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
            let text: Vec<u8> = (0..size).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
            let bytes = sealed(&seal, "file", &text);
            assert_eq!(opened(&seal, "file", &bytes).unwrap(), text, "{size}");
            assert_ne!(bytes, sealed(&seal, "file", &text), "never the same");
        }
        let bytes = sealed(&seal, "file", b"somebody's name");
        assert!(!bytes.windows(8).any(|window| window == b"somebody"));
    }

    #[test]
    fn what_is_cut_short_changed_moved_or_renamed_does_not_open() {
        let seal = seal();
        let text = vec![7; 3 * CHUNK];
        let bytes = sealed(&seal, "file", &text);
        let refused = |bytes: &[u8]| assert!(opened(&seal, "file", bytes).is_err());
        let (head, chunk) = (MAGIC.len() + ID, CHUNK + ADDED);
        for length in [0, 5, head, head + 1, head + chunk, head + 2 * chunk, bytes.len() - 1] {
            refused(&bytes[..length]);
        }
        for place in [3, head - 1, head, head + chunk + 9, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            refused(&changed);
        }
        // The same chunks in another order, one twice, one of another file with the same name, one more at the end.
        let part = |number: usize| &bytes[head + number * chunk..head + (number + 1) * chunk];
        refused(&[&bytes[..head], part(1), part(0), part(2)].concat());
        refused(&[&bytes[..head], part(0), part(0), part(1), part(2)].concat());
        let other = sealed(&seal, "file", &text);
        refused(&[&bytes[..head + chunk], &other[head + chunk..]].concat());
        refused(&[&bytes[..], b"x"].concat());
        assert!(opened(&seal, "another", &bytes).is_err());
        assert!(opened(&self::seal(), "file", &bytes).is_err());
    }

    #[test]
    fn a_copy_opens_with_the_key_or_the_words_that_it_was_sealed_with() {
        let words = |words: &str| Unlock::Passphrase(SecretString::from(words));
        let key = MasterKey::generate();
        let bytes = |seal: &Seal| sealed(seal, "file", b"text");
        for (right, wrong) in [
            (Unlock::Key(key), Unlock::Key(MasterKey::generate())),
            (words("correct horse"), words("battery staple")),
        ] {
            let (wrapped, seal) = Wrapped::new(&right).unwrap();
            let wrapped: Wrapped = serde_json::from_str(&serde_json::to_string(&wrapped).unwrap()).unwrap();
            let again = wrapped.open(&right).unwrap();
            assert_eq!(opened(&again, "file", &bytes(&seal)).unwrap(), b"text");
            assert!(wrapped.open(&wrong).err().unwrap().to_string().contains("does not open"));
        }
        let (mut wrapped, _) = Wrapped::new(&words("x")).unwrap();
        wrapped.passphrase.as_mut().unwrap().memory_kib = u32::MAX;
        assert!(wrapped.open(&words("x")).err().unwrap().to_string().contains("more work"));
    }
}
