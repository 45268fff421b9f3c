//! The users service's read model: users, what they are subscribed to, and what happened to them.
//!
//! What is personal stays sealed in the tables and is opened by queries, so that with a user's key all of it is gone.

mod queries;

use crate::{
    Changes, Live, View, history,
    live::{LiveModel, SeenBy},
    past::Thing,
    table::{Table, Type, Value, row},
};
use events::{
    Aggregate, Fact, UserId,
    users::{UserCreated, UserErased, UserEvent, UserProfileUpdated},
};
use nats::Recorded;

/// The read model of the users service.
pub(crate) static VIEW: View = View {
    name: "users",
    version: 1,
    tables: &[&USERS, &SUBSCRIPTIONS, &USER_EVENTS],
    aggregates: &[Aggregate::User],
    project,
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/users/socket",
        models: &[LiveModel {
            name: "users",
            one: "/users/{id}",
            single: true,
            many: None,
            tables: &[&USERS, &SUBSCRIPTIONS],
            seen_by: SeenBy::Owner("id"),
            filters: &[],
            only_in_one: &[],
            personal: true,
        }],
    },
};

/// What is shown one by one.
const THINGS: &[Thing] = &[Thing { tells: true, ..Thing::new("/users/{id}", Aggregate::User) }];

/// Users. Name, e-mail address and postal addresses are sealed; all three are empty once a user is erased.
const USERS: Table = Table {
    name: "users",
    key: &[("id", Type::Uuid)],
    columns: &[
        ("name", Type::Json),
        ("email", Type::Json),
        ("addresses", Type::Json),
        ("preferences", Type::Json),
        ("roles", Type::Json),
        ("erased", Type::Bool),
        ("created_at", Type::Timestamp),
        ("updated_at", Type::Timestamp),
        ("version", Type::Int),
    ],
    indexes: &[],
};

/// Who wants to hear of what.
const SUBSCRIPTIONS: Table = Table {
    name: "subscriptions",
    key: &[("user_id", Type::Uuid), ("topic", Type::Text)],
    columns: &[("since", Type::Timestamp)],
    indexes: &[&["topic", "user_id"]],
};

/// What happened to a user.
const USER_EVENTS: Table = history::table(
    "user_events",
    &[("user_id", Type::Uuid), ("stream", Type::Text), ("sequence", Type::Int)],
);

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    let Fact::User(event) = &recorded.fact else { return };
    let (updated_at, version) = (recorded.envelope.time, recorded.envelope.version);
    let user = match event {
        UserEvent::Created(it) => created(recorded, it, changes),
        UserEvent::ProfileUpdated(it) => profile(it, changes),
        UserEvent::PreferencesUpdated(it) => {
            changes.patch(&USERS, it.user_id, row!(USERS { preferences: Value::json(&it.preferences) }));
            it.user_id
        }
        UserEvent::RolesChanged(it) => {
            changes.patch(&USERS, it.user_id, row!(USERS { roles: Value::json(&it.roles) }));
            it.user_id
        }
        UserEvent::Subscribed(it) => {
            let key = [it.user_id.into(), it.topic.as_str().to_owned().into()];
            changes.upsert(&SUBSCRIPTIONS, key, row!(SUBSCRIPTIONS { since: updated_at }));
            it.user_id
        }
        UserEvent::Unsubscribed(it) => {
            let key = [it.user_id.into(), it.topic.as_str().to_owned().into()];
            changes.delete(&SUBSCRIPTIONS, key);
            it.user_id
        }
        UserEvent::Erased(it) => erased(it, changes),
    };
    changes.patch(&USERS, user, row!(USERS { updated_at: updated_at, version: version }));
    history::happened(recorded, user, &USER_EVENTS, changes);
}

fn created(recorded: &Recorded, it: &UserCreated, changes: &mut Changes) -> UserId {
    let row = row!(USERS {
        name: Value::json(&it.name),
        email: Value::json(&it.email),
        preferences: Value::json(&it.preferences),
        roles: Value::json(&it.roles),
        erased: false,
        created_at: recorded.envelope.time,
    });
    changes.upsert(&USERS, it.user_id, row);
    it.user_id
}

fn profile(it: &UserProfileUpdated, changes: &mut Changes) -> UserId {
    if let Some(name) = &it.name {
        changes.patch(&USERS, it.user_id, row!(USERS { name: Value::json(name) }));
    }
    if let Some(email) = &it.email {
        changes.patch(&USERS, it.user_id, row!(USERS { email: Value::json(email) }));
    }
    if let Some(addresses) = &it.addresses {
        changes.patch(&USERS, it.user_id, row!(USERS { addresses: Value::json(addresses) }));
    }
    it.user_id
}

/// What is left says that there was somebody, and nothing of who.
fn erased(it: &UserErased, changes: &mut Changes) -> UserId {
    let row = row!(USERS {
        name: Value::Null,
        email: Value::Null,
        addresses: Value::Null,
        preferences: Value::Null,
        erased: true,
    });
    changes.patch(&USERS, it.user_id, row);
    for topic in &it.topics {
        changes.delete(&SUBSCRIPTIONS, [it.user_id.into(), topic.as_str().to_owned().into()]);
    }
    it.user_id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, Model};
    use events::{
        DataKey, Personal,
        personal::NONCE,
        users::{
            EmailHash, Preferences, Role, Topic, UserPreferencesUpdated, UserRolesChanged, UserSubscribed,
            UserUnsubscribed,
        },
    };
    use uuid::Uuid;

    const ADA: UserId = UserId::new(Uuid::from_u128(1));

    fn sealed(text: &str) -> Personal<String> {
        Personal::seal(&text.to_owned(), ADA, &DataKey::new([1; 32]), [0; NONCE])
    }

    fn hash() -> EmailHash {
        "0".repeat(64).parse().unwrap()
    }

    fn topic(name: &str) -> Topic {
        name.parse().unwrap()
    }

    fn record(events: impl IntoIterator<Item = UserEvent>) -> Log {
        let mut log = Log::default();
        let created = UserCreated {
            user_id: ADA,
            name: sealed("Ada Lovelace"),
            email: sealed("ada@example.com"),
            email_hash: hash(),
            preferences: Preferences::default(),
            roles: vec![Role::Customer],
        };
        for event in std::iter::once(created.into()).chain(events) {
            log.add(Aggregate::User, ADA, event, Fact::User);
        }
        log
    }

    async fn model(log: &Log) -> Model {
        let model = Model::new(&VIEW).await;
        model.apply(&log.all).await;
        model
    }

    #[tokio::test]
    async fn a_change_leaves_what_it_does_not_name() {
        let update = UserProfileUpdated {
            user_id: ADA,
            name: Some(sealed("Ada King")),
            email: None,
            email_hash: None,
            addresses: None,
        };
        let preferences = Preferences { language: "de".to_owned(), ..Preferences::default() };
        let log = record([
            update.into(),
            UserPreferencesUpdated { user_id: ADA, preferences: preferences.clone() }.into(),
            UserRolesChanged { user_id: ADA, roles: vec![Role::Operator] }.into(),
        ]);
        let row = model(&log).await.database.row("SELECT * FROM users", Vec::new()).await.unwrap().unwrap();
        assert_eq!(row.json::<Personal<String>>("name").unwrap(), sealed("Ada King"));
        assert_eq!(row.json::<Personal<String>>("email").unwrap(), sealed("ada@example.com"));
        assert_eq!(row.json::<Preferences>("preferences").unwrap(), preferences);
        assert_eq!(row.json::<Vec<Role>>("roles").unwrap(), [Role::Operator]);
        assert_eq!(row.get::<i64>("version").unwrap(), 4);
    }

    #[tokio::test]
    async fn nothing_personal_is_left_of_an_erased_user() {
        let subscribe = |name| UserSubscribed { user_id: ADA, topic: topic(name) }.into();
        let log = record([
            subscribe("news"),
            subscribe("offers"),
            UserUnsubscribed { user_id: ADA, topic: topic("offers") }.into(),
            UserErased { user_id: ADA, topics: vec![topic("news")] }.into(),
        ]);
        let whole = model(&log).await;
        // However the batches fall.
        let piecewise = Model::new(&VIEW).await;
        for event in &log.all {
            piecewise.apply(std::slice::from_ref(event)).await;
        }
        for model in [whole, piecewise] {
            let row = model.database.row("SELECT * FROM users", Vec::new()).await.unwrap().unwrap();
            for column in ["name", "email", "addresses", "preferences"] {
                assert!(row.find::<String>(column).unwrap().is_none(), "{column}");
            }
            assert!(row.get::<bool>("erased").unwrap());
            let rows = model.database.rows("SELECT * FROM subscriptions", Vec::new()).await.unwrap();
            assert!(rows.is_empty());
            let rows = model.database.rows("SELECT * FROM user_events", Vec::new()).await.unwrap();
            assert_eq!(rows.len(), 5, "what happened stays, without its data");
        }
    }
}
