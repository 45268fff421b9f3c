//! What a postal address must look like, wherever a request brings one: of an order, and in a user's profile.

use crate::Refusal;
use events::Address;

/// Characters of one of its fields.
const MAX_TEXT: usize = 200;

/// Refuses an address of which a field is empty, too long, or no country; `at` is where it stands in the request.
pub(crate) fn check_address(address: &Address, at: &str) -> Result<(), Refusal> {
    let Address { name, line1, line2, city, postal_code, country } = address;
    let required = [("name", name), ("line1", line1), ("city", city), ("postalCode", postal_code)];
    let optional = line2.iter().map(|line2| ("line2", line2));
    for (field, text) in required.into_iter().chain(optional) {
        if text.trim().is_empty() || text.chars().count() > MAX_TEXT {
            let detail = format!("1 to {MAX_TEXT} characters are expected");
            return Err(Refusal::invalid("address-invalid", format!("{at}.{field}"), detail));
        }
    }
    if country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    let detail = "a country is two capital letters of ISO 3166-1, such as DE";
    Err(Refusal::invalid("country-invalid", format!("{at}.country"), detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::address;

    #[test]
    fn a_bad_address_is_named() {
        let with = |change: fn(&mut Address)| {
            let mut address = address();
            change(&mut address);
            check_address(&address, "shippingAddress")
        };
        let cases: [(fn(&mut Address), _); 6] = [
            (|a| a.name.clear(), "name"),
            (|a| a.line1 = " ".to_owned(), "line1"),
            (|a| a.line2 = Some("x".repeat(201)), "line2"),
            (|a| a.city.clear(), "city"),
            (|a| a.postal_code.clear(), "postalCode"),
            (|a| a.country = "gb".to_owned(), "country"),
        ];
        for (change, field) in cases {
            assert_eq!(with(change).unwrap_err().field, Some(format!("shippingAddress.{field}")));
        }
        with(|_| ()).unwrap();
    }
}
