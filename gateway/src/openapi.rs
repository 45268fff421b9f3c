//! One OpenAPI document of all services, as they are reached through the gateway.
//!
//! Each service describes itself at `/openapi.json`. What the gateway does to a request is added: the prefix of the path,
//! the token that a route asks for, and the answers that come from the gateway and not from the service. Operations that
//! no route leads to are left out.

mod descriptions;

use crate::table::{Auth, Match, PREFIX, Route, Routes};
use axum::http::Method;
pub(crate) use descriptions::Descriptions;
use serde_json::{Map, Value, json};

/// Puts descriptions together.
fn merge<'a, D: AsRef<Value>>(documents: impl IntoIterator<Item = (&'a str, D)>, routes: &Routes) -> Value {
    let (mut paths, mut schemas, mut tags) = (Map::new(), Map::new(), Vec::new());
    for (service, document) in documents {
        let mut document = document.as_ref().clone();
        rename_clashes(service, &mut document, &schemas);
        if let Some(Value::Object(own)) = document.pointer_mut("/components/schemas").map(Value::take) {
            schemas.extend(own);
        }
        if let Some(Value::Array(own)) = document.get_mut("tags").map(Value::take) {
            tags.extend(own);
        }
        let Some(Value::Object(own)) = document.get_mut("paths").map(Value::take) else { continue };
        for (path, mut item) in own {
            // Some paths are reached here as they are; the others have the prefix in front.
            let public = if routes.lead_to(&path) { path } else { format!("{PREFIX}{path}") };
            complete(&public, &mut item, routes);
            let item = item.as_object().cloned().unwrap_or_default();
            if !item.is_empty() {
                let there = paths.entry(public).or_insert_with(|| json!({}));
                there.as_object_mut().into_iter().for_each(|there| there.extend(item.clone()));
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Waybill", "version": env!("CARGO_PKG_VERSION") },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
            "responses": { "Problem": {
                "description": "What went wrong, as described in RFC 9457",
                "content": { "application/problem+json": { "schema": { "type": "object" } } },
            } },
        },
    })
}

/// Adds to the operations of a path what the gateway does with them; takes out those that no route leads to.
fn complete(path: &str, item: &mut Value, routes: &Routes) {
    let Value::Object(operations) = item else { return };
    operations.retain(|method, operation| {
        // Beside operations there are parameters that they share.
        let Some(method) = METHODS.iter().find(|known| known.as_str().eq_ignore_ascii_case(method)) else {
            return true;
        };
        let Match::Route(route) = routes.find(method, path) else { return false };
        describe(&route, operation);
        true
    });
    if !operations.keys().any(|key| METHODS.iter().any(|known| known.as_str().eq_ignore_ascii_case(key))) {
        operations.clear();
    }
}

/// The methods that a route can have.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

fn describe(route: &Route, operation: &mut Value) {
    let mut answers = vec!["400", "404", "408", "413", "431", "500", "502", "503", "504"];
    let required = route.auth == Auth::Required;
    if required {
        answers.extend(["401", "403"]);
        operation["security"] = json!([{ "bearer": [] }]);
    }
    // Wrong tokens are limited everywhere.
    if required || route.limit.is_some() {
        answers.push("429");
    }
    for answer in answers {
        let there = &mut operation["responses"][answer];
        if there.is_null() {
            *there = json!({ "$ref": "#/components/responses/Problem" });
        }
    }
}

/// Two services may call different things by one name: the later one's gets the service's name in front.
fn rename_clashes(service: &str, document: &mut Value, taken: &Map<String, Value>) {
    let Some(Value::Object(schemas)) = document.pointer("/components/schemas") else { return };
    let clashes: Vec<String> = schemas
        .iter()
        .filter(|(name, schema)| taken.get(*name).is_some_and(|other| other != *schema))
        .map(|(name, _)| name.clone())
        .collect();
    for name in clashes {
        let mut initial = service.to_owned();
        initial.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
        let new = format!("{initial}{name}");
        rename(document, &format!("#/components/schemas/{name}"), &format!("#/components/schemas/{new}"));
        if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas")
            && let Some(schema) = schemas.remove(&name)
        {
            schemas.insert(new, schema);
        }
    }
}

fn rename(part: &mut Value, from: &str, to: &str) {
    match part {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" && target == from => to.clone_into(target),
                    value => rename(value, from, to),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, from, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use std::sync::Arc;

    fn described(path: &str, method: &str, schema: &Value) -> Arc<Value> {
        let body = json!({ "$ref": "#/components/schemas/Item" });
        let answer = json!({ "200": { "content": { "application/json": { "schema": body } } } });
        Arc::new(json!({
            "paths": { path: { method: { "responses": answer } }, "/internal": { "get": {} } },
            "components": { "schemas": { "Item": schema } },
        }))
    }

    #[test]
    fn documents_become_one_as_it_is_reached_here() {
        let orders = described("/orders", "post", &json!({ "type": "object" }));
        let products = described("/products", "get", &json!({ "type": "string" }));
        let keys = described("/.well-known/jwks.json", "get", &json!({ "type": "object" }));
        let documents = [("orders", orders), ("inventory", products), ("users", keys)];
        let merged = merge(documents, &Config::standard().routes);

        let paths: Vec<_> = merged["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            ["/.well-known/jwks.json", "/api/orders", "/api/products"],
            "what has no route is left out"
        );
        let place = &merged["paths"]["/api/orders"]["post"];
        assert_eq!(place["security"], json!([{ "bearer": [] }]));
        let problem = json!({ "$ref": "#/components/responses/Problem" });
        for status in ["400", "401", "403", "429", "502", "503", "504"] {
            assert_eq!(place["responses"][status], problem, "{status}");
        }
        let open = &merged["paths"]["/api/products"]["get"];
        assert_eq!((&open["security"], &open["responses"]["401"]), (&Value::Null, &Value::Null));
        // Two things of one name: each reference still leads to its own.
        let schema = |path: &str, method: &str| {
            let answer = &merged["paths"][path][method]["responses"]["200"];
            let target = answer["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
            merged.pointer(target.trim_start_matches('#')).unwrap()["type"].clone()
        };
        assert_eq!(schema("/api/orders", "post"), "object");
        assert_eq!(schema("/api/products", "get"), "string");
    }
}
