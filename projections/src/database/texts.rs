//! That the text which tells the tables of versions apart changes with what is declared, and with nothing else.

use super::{postgres, sqlite};
use crate::View;
use sha2::{Digest, Sha256};

/// Of each read model what it declares, and the texts of its tables that go with that, on `SQLite` and on `PostgreSQL`. Where the
/// first is the same and another is not, this version refuses the tables of the one before, and does not start beside it.
const TEXTS: [(&str, &str, &str, &str); 7] = [
    ("orders", "c075618a105972c0", "249f0b0192f3a487", "fdbef7e0ab6f51cb"),
    ("inventory", "1814b9270f0f8afe", "2fbb72c5ea641d29", "035941bbfd09bf02"),
    ("payments", "933d4ff95685f5ce", "a8c4d56a20c41f8b", "c1b44744ad45c778"),
    ("shipping", "866c554600cdc1b2", "adb9656714e33c2b", "d49cd5ee0d6aee8d"),
    ("notifications", "e31973ab6a609b32", "418eaf8d1914e0ea", "f7e036795d457844"),
    ("users", "f79a12827aefdfcc", "39efdda601854365", "c670a32e661620af"),
    ("fulfilment", "852542d990a37ad1", "3dea0ff41d9dbf32", "bea7112347ca0291"),
];

fn digest(text: &str) -> String {
    Sha256::digest(text)[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn the_same_declaration_is_the_same_text_in_every_version() {
    let texts = View::ALL.map(|view| {
        (view.name, view.fingerprint(), digest(&sqlite::model(view)), digest(&postgres::model(view)))
    });
    let texts = texts.each_ref().map(|(name, declared, sqlite, postgres)| {
        (*name, declared.as_str(), sqlite.as_str(), postgres.as_str())
    });
    assert_eq!(texts, TEXTS);
}
