//! Personal data: marked by its type, sealed under a key of the person it is about, and so gone once that key is.

use crate::UserId;
use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadInOut, Payload},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use std::{borrow::Cow, fmt};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a nonce. Long enough to be drawn at random for every value.
pub const NONCE: usize = 24;

/// Bytes of the tag at the end.
const TAG: usize = 16;

/// The key of one person's data. Never printed; its memory is overwritten when it is dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// A key of these random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be kept under another key.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Encrypts: nonce, ciphertext and tag. It opens only with the same `context`.
    ///
    /// # Panics
    /// Where the text is longer than 256 GB.
    #[expect(clippy::expect_used, reason = "only a text of more than 256 GB cannot be encrypted")]
    pub fn encrypt(&self, text: &[u8], context: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(NONCE + text.len() + TAG);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(text);
        let tag =
            self.cipher().encrypt_inout_detached(&nonce.into(), context, sealed[NONCE..].as_mut().into());
        sealed.extend_from_slice(&tag.expect("the text is short"));
        sealed
    }

    /// Decrypts; `None` where the key, the context or a byte is another.
    pub fn decrypt(&self, sealed: &[u8], context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: sealed, aad: context };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.0))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// Personal data of one user, sealed with XChaCha20-Poly1305 under that user's key; bound to the user, so that it cannot
/// be passed off as another's. Facts, states and read models carry only this form.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Personal<T>(Form<T>);

#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Form<T> {
    /// As it is written.
    Sealed {
        /// Whose data it is, and so whose key opens it.
        of: UserId,
        /// Nonce and ciphertext of the JSON, in base64.
        sealed: String,
    },
    /// From before there were keys; only read, never written anew.
    Plain {
        /// The value.
        plain: T,
    },
}

/// Why personal data cannot be opened. Says nothing of what it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The key is not that of the data, or the data was tampered with.
    #[error("the personal data of user {0} does not open with this key")]
    Key(UserId),
    /// It opens, but holds something else than expected.
    #[error("the personal data of user {0} is not of the expected shape")]
    Shape(UserId),
}

impl<T> Personal<T> {
    /// The value where it was recorded before there were keys.
    pub const fn plain(&self) -> Option<&T> {
        match &self.0 {
            Form::Sealed { .. } => None,
            Form::Plain { plain } => Some(plain),
        }
    }

    /// Whose data it is; `None` for what was recorded before there were keys, which opens with any.
    pub const fn owner(&self) -> Option<UserId> {
        match &self.0 {
            Form::Sealed { of, .. } => Some(*of),
            Form::Plain { .. } => None,
        }
    }
}

impl<T: Serialize> Personal<T> {
    /// Seals a value. The nonce is 24 random bytes, drawn for this value alone.
    ///
    /// # Panics
    /// Where the value is no JSON, such as a map whose keys are no texts.
    #[expect(clippy::expect_used, reason = "personal data are texts and structs of texts, always JSON")]
    pub fn seal(value: &T, owner: UserId, key: &DataKey, nonce: [u8; NONCE]) -> Self {
        let text = Zeroizing::new(serde_json::to_vec(value).expect("personal data are always JSON"));
        let sealed = BASE64_STANDARD.encode(key.encrypt(&text, owner.uuid().as_bytes(), nonce));
        Self(Form::Sealed { of: owner, sealed })
    }
}

impl<T: DeserializeOwned + Clone> Personal<T> {
    /// The value. Whoever calls this answers for where it goes.
    pub fn open(&self, key: &DataKey) -> Result<T, OpenError> {
        let (of, sealed) = match &self.0 {
            Form::Sealed { of, sealed } => (*of, sealed),
            Form::Plain { plain } => return Ok(plain.clone()),
        };
        let sealed = BASE64_STANDARD.decode(sealed).map_err(|_| OpenError::Shape(of))?;
        let text = key.decrypt(&sealed, of.uuid().as_bytes()).ok_or(OpenError::Key(of))?;
        serde_json::from_slice(&text).map_err(|_| OpenError::Shape(of))
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Personal(..)")
    }
}

/// By hand, for serde's own way to read untagged forms copies all of it first.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Form<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<T> {
            of: Option<UserId>,
            sealed: Option<String>,
            plain: Option<T>,
        }
        match Fields::deserialize(deserializer)? {
            Fields { of: Some(of), sealed: Some(sealed), plain: None } => Ok(Self::Sealed { of, sealed }),
            Fields { of: None, sealed: None, plain: Some(plain) } => Ok(Self::Plain { plain }),
            _ => Err(D::Error::custom("personal data are `of` and `sealed`, or `plain`")),
        }
    }
}

/// By hand, so that the two forms stand inside it and not under a name of their own.
impl<T: JsonSchema> JsonSchema for Personal<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Personal{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Personal data, sealed under the key of the user it is of; plain from before there were keys.",
            "x-personal": true,
            "anyOf": [
                {
                    "type": "object",
                    "properties": { "of": generator.subschema_for::<UserId>(), "sealed": { "type": "string" } },
                    "required": ["of", "sealed"],
                },
                {
                    "type": "object",
                    "properties": { "plain": generator.subschema_for::<T>() },
                    "required": ["plain"],
                },
            ],
        })
    }
}

/// Where an order goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Who receives it.
    pub name: String,
    /// Street and number.
    pub line1: String,
    /// Anything more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    /// City.
    pub city: String,
    /// Postal code.
    pub postal_code: String,
    /// ISO 3166-1 alpha-2 country code.
    pub country: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    const ADA: UserId = UserId::new(Uuid::from_u128(1));
    const BOB: UserId = UserId::new(Uuid::from_u128(2));

    fn key(byte: u8) -> DataKey {
        DataKey::new([byte; 32])
    }

    fn sealed() -> Personal<String> {
        Personal::seal(&"Ada Lovelace".to_owned(), ADA, &key(1), [7; NONCE])
    }

    #[test]
    fn nothing_of_it_is_printed_or_written() {
        let personal = sealed();
        let written = serde_json::to_string(&personal).unwrap();
        for text in [format!("{personal:?} {:?}", key(65)), written] {
            assert!(!text.contains("Ada") && !text.contains("65"), "{text}");
        }
    }

    #[test]
    fn only_the_right_key_opens_it_and_only_for_its_owner() {
        assert_eq!(sealed().open(&key(1)).unwrap(), "Ada Lovelace");
        assert_eq!(sealed().open(&key(2)), Err(OpenError::Key(ADA)));
        let mut forged = serde_json::to_value(sealed()).unwrap();
        forged["of"] = json!(BOB);
        let forged: Personal<String> = serde_json::from_value(forged).unwrap();
        assert_eq!(forged.open(&key(1)), Err(OpenError::Key(BOB)), "not Bob's, whoever says so");
        let number: Personal<u32> = serde_json::from_value(serde_json::to_value(sealed()).unwrap()).unwrap();
        assert_eq!(number.open(&key(1)), Err(OpenError::Shape(ADA)));
    }

    #[test]
    fn what_was_recorded_in_plain_opens_with_any_key() {
        let old: Personal<String> = serde_json::from_value(json!({ "plain": "Ada" })).unwrap();
        assert_eq!((old.owner(), old.open(&key(9)).unwrap().as_str()), (None, "Ada"));
        assert_eq!(serde_json::to_value(&old).unwrap(), json!({ "plain": "Ada" }));
        for no_form in [json!("Ada"), json!({}), json!({ "of": ADA }), json!({ "plain": "A", "of": ADA })] {
            assert!(serde_json::from_value::<Personal<String>>(no_form.clone()).is_err(), "{no_form}");
        }
    }

    /// The test vector of draft-irtf-cfrg-xchacha, section A.3.1.
    #[test]
    fn the_cipher_is_the_standards() {
        let key = DataKey::new(std::array::from_fn(|i| 0x80 + u8::try_from(i).unwrap()));
        let nonce = std::array::from_fn(|i| 0x40 + u8::try_from(i).unwrap());
        let context = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let text =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it.";
        let sealed = key.encrypt(text, &context, nonce);
        assert_eq!(sealed[NONCE..NONCE + 8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        assert_eq!(sealed[sealed.len() - 4..], [0x78, 0x0a, 0xcf, 0x49]);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_again_and_no_byte_of_it_may_change(
            text in any::<String>(), nonce in any::<[u8; NONCE]>(), at in any::<prop::sample::Index>(), bit in 0..8_u8
        ) {
            let key = key(3);
            let mut sealed = key.encrypt(text.as_bytes(), b"context", nonce);
            prop_assert_eq!(&*key.decrypt(&sealed, b"context").unwrap(), text.as_bytes());
            prop_assert_eq!(key.decrypt(&sealed, b"another"), None);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(key.decrypt(&sealed, b"context"), None);
        }
    }
}
