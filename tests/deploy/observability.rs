//! Alerts and dashboard: they ask for what is counted, and each alert says what to do.

use crate::{file, yaml::documents};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every text between quotes in the sources, so also the name of every metric.
fn quoted() -> BTreeSet<String> {
    let mut folders: Vec<PathBuf> =
        ["nats", "service", "commands", "projections", "gateway"].map(|name| file(name).join("src")).into();
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(path).unwrap();
                found.extend(text.split('"').filter(|word| word.starts_with("waybill_")).map(str::to_owned));
            }
        }
    }
    found
}

/// Names of metrics in a text, without what `OpenMetrics` puts behind them.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let names = words.filter(|word| word.starts_with("waybill_"));
    let base = |name: &str| {
        let ends = ["_total", "_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    names.map(base).collect()
}

fn check(path: &Path) {
    let (asked, known) = (metrics(&fs::read_to_string(path).unwrap()), quoted());
    assert!(asked.len() > 5, "{} asks for metrics", path.display());
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{} asks for {unknown:?}, which nobody counts", path.display());
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_counted() {
    check(&file("deploy/observability/alerts.yaml"));
    check(&file("deploy/observability/grafana/dashboards/waybill.json"));
}

#[tokio::test]
async fn an_alert_says_what_to_do() {
    let rules = documents(&file("deploy/observability/alerts.yaml")).await.remove(0);
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 8);
    for rule in rules {
        let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        assert!(text(&rule["annotations"]["summary"]) && text(&rule["annotations"]["action"]), "{rule}");
        assert!(text(&rule["labels"]["severity"]), "{rule}");
    }
}

#[tokio::test]
async fn every_alert_has_its_section_and_every_section_its_alert() {
    let rules = documents(&file("deploy/observability/alerts.yaml")).await.remove(0);
    let page = fs::read_to_string(file("docs/operations.md")).unwrap();
    let alerts = page.split("\n## ").find(|section| section.starts_with("Alerts\n")).unwrap();
    let sections: BTreeSet<_> =
        alerts.split("\n### ").skip(1).filter_map(|text| text.split_once('\n')).collect();
    let mut told = BTreeSet::new();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let (_, text) = sections.iter().find(|(title, _)| *title == name).unwrap_or_else(|| panic!("{name}"));
        // What it says of when agrees with the rule, and it says who is told.
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(text.contains(&format!("({severity})")), "{name}: {severity} is not in {text}");
        assert!(text.len() > 150, "{name}: what is to be done? {text}");
        assert_eq!(rule["annotations"]["runbook"], format!("docs/operations.md#{}", name.to_lowercase()));
        told.insert(name);
    }
    let titles: BTreeSet<_> = sections.iter().map(|(title, _)| *title).collect();
    assert_eq!(told, titles);
}

#[tokio::test]
async fn every_configuration_can_be_read() {
    for name in [
        "collector.yaml",
        "prometheus.yaml",
        "grafana/provisioning/datasources/waybill.yaml",
        "grafana/provisioning/dashboards/waybill.yaml",
    ] {
        assert_eq!(documents(&file("deploy/observability").join(name)).await.len(), 1, "{name}");
    }
}
