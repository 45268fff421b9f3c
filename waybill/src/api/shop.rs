//! What a shop and its customers do, each as one call: products, stock, accounts, money, orders.

use super::{Answer, Api};
use crate::{failure::Failure, system::Service};
use serde_json::{Value, json};
use service::Clock;
use uuid::Uuid;

/// The only currency of the demo and of most tests.
pub const CURRENCY: &str = "EUR";

/// An order to place.
#[derive(Clone, Debug)]
pub struct Cart {
    /// The customer.
    pub user_id: Uuid,
    /// What it is paid from.
    pub account_id: Uuid,
    /// SKUs and quantities.
    pub items: Vec<(String, u32)>,
    /// Where it goes; the simulated carrier does not serve `AQ`.
    pub country: String,
}

impl Cart {
    /// The body of `POST /orders`.
    pub fn body(&self) -> Value {
        let items: Vec<_> =
            self.items.iter().map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity })).collect();
        json!({
            "userId": self.user_id,
            "accountId": self.account_id,
            "items": items,
            "shippingAddress": {
                "name": "Ada Lovelace",
                "line1": "Gartenweg 1",
                "city": "Berlin",
                "postalCode": "10115",
                "country": self.country,
            },
        })
    }
}

/// An amount of [`CURRENCY`], in cents.
fn money(amount: i64) -> Value {
    json!({ "amount": amount, "currency": CURRENCY })
}

// The key makes a call repeatable: sent again under the same key it has no second effect.
impl Api {
    /// Puts a product into the catalogue and receives stock of it.
    pub async fn stock_product(
        &self,
        key: &str,
        (sku, name, price): (&str, &str, i64),
        quantity: u32,
    ) -> Result<Answer, Failure> {
        let product = json!({ "sku": sku, "name": name, "price": money(price) });
        let added = self.post(Service::Inventory, "/products", &format!("{key}-product"), &product).await?;
        let added = added.expect(201, "a new product")?;
        if quantity == 0 {
            return Ok(added);
        }
        let path = format!("/inventory/{sku}/receipts");
        let receipt = json!({ "quantity": quantity });
        let received = self.post(Service::Inventory, &path, &format!("{key}-receipt"), &receipt).await?;
        received.expect(202, "a receipt of goods")
    }

    /// Registers a customer, of whom `key` is also a part of the e-mail address. Nobody will log in: tokens are issued.
    pub async fn register(&self, key: &str) -> Result<Uuid, Failure> {
        let (email, password) = (format!("{key}@example.com"), Clock::system().uuid());
        let user = json!({ "name": "Ada Lovelace", "email": email, "password": password });
        let request = self.http.post(self.url(Service::Users, "/users")).json(&user);
        let registered = self.send(request.header("Idempotency-Key", format!("{key}-user"))).await?;
        registered.expect(201, "a registration")?.id()
    }

    /// Opens an account and credits it.
    pub async fn open_account(
        &self,
        key: &str,
        user_id: Uuid,
        balance: i64,
    ) -> Result<(Uuid, Answer), Failure> {
        let account = json!({ "userId": user_id, "currency": CURRENCY });
        let opened = self.post(Service::Payments, "/accounts", &format!("{key}-account"), &account).await?;
        let opened = opened.expect(201, "a new account")?;
        let id = opened.id()?;
        if balance == 0 {
            return Ok((id, opened));
        }
        let path = format!("/accounts/{id}/credits");
        let credit = json!({ "amount": money(balance) });
        let credited = self.post(Service::Payments, &path, &format!("{key}-credit"), &credit).await?;
        Ok((id, credited.expect(202, "a credit")?))
    }

    /// Places an order, as its customer. `after` names positions that the orders service must have seen, such as those of a product that
    /// was just added.
    pub async fn place(&self, key: &str, cart: &Cart, after: &[&str]) -> Result<Answer, Failure> {
        let request = self.http.post(self.url(Service::Orders, "/orders")).header("Idempotency-Key", key);
        let request =
            if after.is_empty() { request } else { request.header("Waybill-Position", after.join(", ")) };
        self.send_as(cart.user_id, request.json(&cart.body())).await
    }

    /// Cancels an order.
    pub async fn cancel(&self, key: &str, order: Uuid) -> Result<Answer, Failure> {
        self.post(Service::Orders, &format!("/orders/{order}/cancel"), key, &json!({})).await
    }

    /// An order as the read model has it.
    pub async fn order(&self, order: Uuid) -> Result<Answer, Failure> {
        self.get(Service::Orders, &format!("/orders/{order}")).await
    }
}
