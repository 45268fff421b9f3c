//! Alerts and dashboard: they ask for what is counted, and each alert says what to do.

use crate::{file, yaml::documents};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use waybill_tests::{installed, python};

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

/// Every metric that a text asks for is counted.
pub(crate) fn check_text(name: &str, text: &str) {
    let (asked, known) = (metrics(text), quoted());
    assert!(asked.len() > 5, "{name} asks for metrics");
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{name} asks for {unknown:?}, which nobody counts");
}

fn check(path: &Path) {
    check_text(&path.display().to_string(), &fs::read_to_string(path).unwrap());
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_counted() {
    check(&file("deploy/observability/alerts.yaml"));
    check(&file("deploy/observability/grafana/dashboards/waybill.json"));
}

/// Reads the language of Prometheus, and says what is wrong with it.
const PROMQL: &str = "promql-parser==0.11.0";

/// Asks for something, for each text on standard input whether it can be read.
const READ: &str = "
import json, sys, promql_parser
for text in json.load(sys.stdin):
    try:
        promql_parser.parse(text)
    except Exception as error:
        print(f'{text}: {error}')
";

/// What is wrong with these expressions.
async fn misread(expressions: &[String]) -> String {
    let package = installed(PROMQL).await;
    let input = tempfile::NamedTempFile::new().unwrap();
    fs::write(input.path(), serde_json::to_vec(expressions).unwrap()).unwrap();
    let mut read = python(&package, &[]);
    let output = read.args(["-c", READ]).stdin(fs::File::open(input.path()).unwrap()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every text of a document that stands under this name.
fn named(document: &Value, name: &str) -> Vec<String> {
    let inside =
        |values: &mut dyn Iterator<Item = &Value>| values.flat_map(|value| named(value, name)).collect();
    match document {
        Value::Object(fields) => {
            let here = fields.get(name).and_then(Value::as_str).map(str::to_owned);
            let mut found: Vec<_> = inside(&mut fields.values());
            found.extend(here);
            found
        }
        Value::Array(values) => inside(&mut values.iter()),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn what_prometheus_is_asked_can_be_read() {
    let alerts = documents(&file("deploy/observability/alerts.yaml")).await.remove(0);
    let dashboard = fs::read(file("deploy/observability/grafana/dashboards/waybill.json")).unwrap();
    let adapter = documents(&file("deploy/kubernetes/prometheus-adapter-values.yaml")).await.remove(0);
    let mut asked = named(&alerts, "expr");
    asked.extend(named(&serde_json::from_slice(&dashboard).unwrap(), "expr"));
    // As Grafana and the adapter fill them in.
    let filled = |text: String| {
        let text = text.replace("$__rate_interval", "1m").replace("<<.Series>>", "waybill_consumer_lag");
        text.replace("<<.LabelMatchers>>", "namespace=\"waybill\",app=\"orders-service\"")
    };
    asked.extend(named(&adapter, "metricsQuery").into_iter().chain(named(&adapter, "seriesQuery")));
    let asked: Vec<_> = asked.into_iter().map(filled).collect();
    assert!(asked.len() > 25, "{asked:?}");
    assert_eq!(misread(&asked).await, "");
    let wrong =
        ["rate(waybill_conflicts_total)", "sum by (durable (waybill_consumer_lag)"].map(str::to_owned);
    assert_eq!(misread(&wrong).await.lines().count(), 2);
}

/// An instance that does not answer is missed in compose and in Kubernetes, where Prometheus puts the labels of a pod on what
/// it reads of it.
#[tokio::test]
async fn who_does_not_answer_is_missed_wherever_it_runs() {
    let rules = documents(&file("deploy/observability/alerts.yaml")).await.remove(0);
    let prometheus = documents(&file("deploy/observability/prometheus.yaml")).await.remove(0);
    let manifests = documents(&file("deploy/kubernetes/waybill.yaml")).await;
    let down = named(&rules, "expr").into_iter().find(|text| text.contains("up{")).unwrap();
    assert_eq!(down, "up{app_kubernetes_io_part_of=\"waybill\"} == 0");
    let mut targets = 0;
    for job in prometheus["scrape_configs"].as_array().unwrap() {
        for group in job["static_configs"].as_array().unwrap() {
            assert_eq!(group["labels"], json!({ "app_kubernetes_io_part_of": "waybill" }), "{group}");
            targets += group["targets"].as_array().unwrap().len();
        }
    }
    let pods: Vec<_> = manifests.iter().filter(|one| one["kind"] == "Deployment").collect();
    assert_eq!((targets, pods.len()), (9, 9));
    for one in pods {
        let pod = &one["spec"]["template"]["metadata"];
        assert_eq!(pod["labels"]["app.kubernetes.io/part-of"], "waybill", "{one}");
        assert_eq!(pod["annotations"]["prometheus.io/scrape"], "true", "{one}");
    }
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
