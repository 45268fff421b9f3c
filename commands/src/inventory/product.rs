//! A product of the catalogue: its name and price. Apart from its stock, so that prices and stock never contend.

use crate::{Aggregate, Refusal};
use events::{
    Currency, Money, Sku,
    inventory::{ProductAdded, ProductEvent, ProductRepriced},
};
use serde::{Deserialize, Serialize};

/// Characters of a product's name.
const MAX_NAME: usize = 200;

/// The aggregate.
#[derive(Debug)]
pub struct Product;

/// What a product remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductState {
    /// The product.
    pub sku: Sku,
    /// What it is called.
    pub name: String,
    /// Price of one.
    pub price: Money,
}

/// What can be asked of a product.
#[derive(Clone, Debug)]
pub enum ProductCommand {
    /// Put it into the catalogue.
    Add {
        /// The product.
        sku: Sku,
        /// What it is called.
        name: String,
        /// Price of one.
        price: Money,
    },
    /// Change its price.
    Reprice {
        /// Price of one from now on.
        price: Money,
    },
}

/// Why a product can refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProductRejection {
    /// It is in the catalogue.
    #[error("the product {0} exists already")]
    Exists(Sku),
    /// It is not in the catalogue.
    #[error("there is no such product: add it first")]
    Unknown,
    /// Its name is empty or too long.
    #[error("a name has 1 to {MAX_NAME} characters")]
    Name,
    /// Its price is nothing, or less.
    #[error("a price is at least 1, in minor units, not {}", .0.amount)]
    Price(Money),
    /// Its price is in another currency, for ever.
    #[error("the product is priced in {expected}, not in {given}")]
    Currency {
        /// Its currency.
        expected: Currency,
        /// The currency asked for.
        given: Currency,
    },
}

impl From<ProductRejection> for Refusal {
    fn from(rejection: ProductRejection) -> Self {
        use ProductRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Exists(_) => Self::conflict("product-exists", detail),
            R::Unknown => Self::not_found("product-not-found", detail),
            R::Name => Self::invalid("name-invalid", "name", detail),
            R::Price(_) => Self::invalid("price-not-positive", "price.amount", detail),
            R::Currency { .. } => Self::invalid("currency-mismatch", "price.currency", detail),
        }
    }
}

impl Aggregate for Product {
    const KIND: events::Aggregate = events::Aggregate::Product;
    const SCHEMA: &'static str = "product/1";
    type State = Option<ProductState>;
    type Command = ProductCommand;
    type Event = ProductEvent;
    type Rejection = ProductRejection;

    fn decide(state: &Self::State, command: ProductCommand) -> Result<Vec<ProductEvent>, ProductRejection> {
        let (ProductCommand::Add { price, .. } | ProductCommand::Reprice { price }) = command;
        if price.amount < 1 {
            return Err(ProductRejection::Price(price));
        }
        match (state, command) {
            (Some(product), ProductCommand::Add { .. }) => Err(ProductRejection::Exists(product.sku.clone())),
            (None, ProductCommand::Add { name, .. })
                if name.trim().is_empty() || name.chars().count() > MAX_NAME =>
            {
                Err(ProductRejection::Name)
            }
            (None, ProductCommand::Add { sku, name, price }) => {
                Ok(vec![ProductAdded { sku, name, price }.into()])
            }
            (None, ProductCommand::Reprice { .. }) => Err(ProductRejection::Unknown),
            (Some(product), ProductCommand::Reprice { price }) => {
                let (expected, given) = (product.price.currency, price.currency);
                if expected != given {
                    return Err(ProductRejection::Currency { expected, given });
                }
                if product.price == price {
                    return Ok(vec![]);
                }
                let ProductState { sku, name, .. } = product.clone();
                Ok(vec![ProductRepriced { sku, name, price }.into()])
            }
        }
    }

    fn evolve(_: Self::State, event: &ProductEvent) -> Self::State {
        let (ProductEvent::Added(ProductAdded { sku, name, price })
        | ProductEvent::Repriced(ProductRepriced { sku, name, price })) = event;
        Some(ProductState { sku: sku.clone(), name: name.clone(), price: *price })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{currency, eur, sku},
    };

    fn add(name: &str, amount: i64) -> ProductCommand {
        ProductCommand::Add { sku: sku("TEA"), name: name.to_owned(), price: eur(amount) }
    }

    fn reprice(price: Money) -> ProductCommand {
        ProductCommand::Reprice { price }
    }

    fn added() -> ProductEvent {
        ProductAdded { sku: sku("TEA"), name: "Tea".to_owned(), price: eur(450) }.into()
    }

    fn repriced(amount: i64) -> ProductEvent {
        ProductRepriced { sku: sku("TEA"), name: "Tea".to_owned(), price: eur(amount) }.into()
    }

    #[test]
    fn a_product_is_added_once() {
        given::<Product>([]).when(add("Tea", 450)).then([added()]);
        assert_eq!(
            given::<Product>([added()]).when(add("Tea", 450)).then_refused("product-exists").status,
            409
        );
    }

    #[test]
    fn a_new_price_is_recorded_and_the_same_is_not() {
        given::<Product>([added()]).when(reprice(eur(500))).then([repriced(500)]);
        given::<Product>([added(), repriced(500)]).when(reprice(eur(500))).then_nothing();
        given::<Product>([added(), repriced(500)]).when(reprice(eur(450))).then([repriced(450)]);
    }

    #[test]
    fn what_is_no_product_is_refused() {
        let yen = Money::new(500, currency("JPY"));
        let cases = [
            (vec![], add(" ", 1), "name-invalid", Some("name")),
            (vec![], add(&"x".repeat(201), 1), "name-invalid", Some("name")),
            (vec![], add("Tea", 0), "price-not-positive", Some("price.amount")),
            (vec![added()], reprice(eur(-1)), "price-not-positive", Some("price.amount")),
            (vec![added()], reprice(yen), "currency-mismatch", Some("price.currency")),
            (vec![], reprice(eur(1)), "product-not-found", None),
        ];
        for (history, command, slug, field) in cases {
            assert_eq!(given::<Product>(history).when(command).then_refused(slug).field.as_deref(), field);
        }
    }
}
