//! The metrics of `/metrics`, sent every minute as well: read from the same registries, so that nothing is counted
//! twice.

use super::{export::Resources, otlp::Sender};
use crate::Metrics;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, UNIX_EPOCH},
};
use tokio::{runtime::Handle, task::JoinHandle};

type Services = Arc<Mutex<Vec<(&'static str, Metrics)>>>;

/// Set once, when the process starts to export.
static SERVICES: OnceLock<Services> = OnceLock::new();

/// Exports the metrics of a service from now on, where metrics are exported at all.
pub fn export_metrics(service: &'static str, metrics: &Metrics) {
    if let Some(services) = SERVICES.get() {
        services.lock().unwrap_or_else(PoisonError::into_inner).push((service, metrics.clone()));
    }
}

/// Sends all metrics at an interval.
pub(super) struct Meters {
    round: Arc<Round>,
    task: JoinHandle<()>,
}

struct Round {
    services: Services,
    sender: Sender,
    resources: Resources,
    /// When the counters were zero, in nanoseconds since 1970.
    started: u64,
}

impl Meters {
    pub(super) fn start(sender: Sender, resources: Resources, interval: Duration, runtime: &Handle) -> Self {
        let services = Services::default();
        let _ = SERVICES.set(Arc::clone(&services));
        let round = Arc::new(Round { services, sender, resources, started: now() });
        let rounds = Arc::clone(&round);
        let task = runtime.spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                rounds.send().await;
            }
        });
        Self { round, task }
    }

    /// Sends them once more, and ends.
    pub(super) async fn flush(self) {
        self.task.abort();
        self.round.send().await;
    }
}

impl Round {
    async fn send(&self) {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let resource_metrics = services
            .iter()
            .map(|(service, metrics)| ResourceMetrics {
                resource: Some(Resource {
                    attributes: self.resources.of(service).attributes.0,
                    ..Resource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(InstrumentationScope { name: (*service).to_owned(), ..Default::default() }),
                    metrics: convert(&metrics.render(), self.started, now()),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            })
            .collect();
        // A failure is logged by the sender; the next round sends newer values of the same counters.
        let _ = self.sender.send(ExportMetricsServiceRequest { resource_metrics }).await;
    }
}

fn now() -> u64 {
    let since = opentelemetry::time::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// One line of a page: what follows the family's name, the labels, the value.
struct Sample<'a> {
    suffix: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

/// A metric with its samples, as the page has them.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    unit: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

/// A page in the `OpenMetrics` text format, as [`Metrics::render`] writes it, as OTLP metrics.
fn convert(page: &str, started: u64, now: u64) -> Vec<Metric> {
    families(page).into_iter().map(|family| family.convert(started, now)).collect()
}

fn families(page: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(what), Some(name), text) =
                (words.next(), words.next(), words.next().unwrap_or_default())
            else {
                continue;
            };
            if families.last().is_none_or(|last| last.name != name) {
                families.push(Family { name, ..Family::default() });
            }
            let Some(family) = families.last_mut() else { continue };
            match what {
                "HELP" => family.help = text.trim_end_matches('.'),
                "TYPE" => family.kind = text,
                "UNIT" => family.unit = text,
                _ => {}
            }
        } else if let Some(family) = families.last_mut()
            && let Some(sample) = line.strip_prefix(family.name).and_then(sample)
        {
            family.samples.push(sample);
        }
    }
    families
}

/// `_total{outcome="recorded"} 3`, and perhaps an exemplar behind it.
fn sample(line: &str) -> Option<Sample<'_>> {
    let (suffix, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    while let Some(inside) = rest.strip_prefix(['{', ',']) {
        let Some((name, text)) = inside.split_once("=\"") else {
            rest = inside;
            break;
        };
        let (value, behind) = quoted(text)?;
        labels.push((name, value));
        rest = behind;
    }
    let value = rest.trim_start_matches('}').split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { suffix, labels, value })
}

/// A text up to its closing quote, and what stands behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

fn attributes(labels: &[(&str, String)]) -> Vec<KeyValue> {
    let attribute = |(name, value): &(&str, String)| KeyValue {
        key: (*name).to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.clone())) }),
        ..KeyValue::default()
    };
    labels.iter().map(attribute).collect()
}

impl Family<'_> {
    fn convert(self, started: u64, now: u64) -> Metric {
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            "counter" => Data::Sum(Sum {
                data_points: self.numbers(started, now),
                aggregation_temporality,
                is_monotonic: true,
            }),
            "histogram" => Data::Histogram(Histogram {
                data_points: self.histograms(started, now),
                aggregation_temporality,
            }),
            _ => Data::Gauge(Gauge { data_points: self.numbers(0, now) }),
        };
        Metric {
            name: self.name.to_owned(),
            description: self.help.to_owned(),
            unit: self.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    }

    fn numbers(&self, started: u64, now: u64) -> Vec<NumberDataPoint> {
        let point = |sample: &Sample| NumberDataPoint {
            attributes: attributes(&sample.labels),
            start_time_unix_nano: started,
            time_unix_nano: now,
            value: Some(Value::AsDouble(sample.value)),
            ..NumberDataPoint::default()
        };
        self.samples.iter().map(point).collect()
    }

    /// The buckets of the page count everything up to their bound; those of OTLP only what no smaller one has.
    fn histograms(&self, started: u64, now: u64) -> Vec<HistogramDataPoint> {
        let mut points: BTreeMap<Vec<(&str, String)>, HistogramDataPoint> = BTreeMap::new();
        for sample in &self.samples {
            let (bound, labels): (Vec<_>, Vec<_>) =
                sample.labels.iter().cloned().partition(|(name, _)| *name == "le");
            let point = points.entry(labels).or_insert_with_key(|labels| HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: started,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            });
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count is a whole number"
            )]
            let count = sample.value as u64;
            match sample.suffix {
                "_sum" => point.sum = Some(sample.value),
                "_count" => point.count = count,
                _ => {
                    let before: u64 = point.bucket_counts.iter().sum();
                    point.bucket_counts.push(count.saturating_sub(before));
                    let bound = bound.first().and_then(|(_, bound)| bound.parse::<f64>().ok());
                    // The last bucket has no bound in OTLP.
                    point.explicit_bounds.extend(bound.filter(|bound| bound.is_finite()));
                }
            }
        }
        points.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{
        encoding::EncodeLabelSet,
        metrics::{counter::Counter, family, gauge::Gauge, histogram},
        registry::Unit,
    };

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Label {
        outcome: String,
    }

    fn labels(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
        attributes
            .iter()
            .map(|attribute| match &attribute.value.as_ref().unwrap().value {
                Some(any_value::Value::StringValue(value)) => (attribute.key.as_str(), value.as_str()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_the_page_says_is_what_is_sent() {
        let metrics = Metrics::new();
        let commands: family::Family<Label, Counter> =
            metrics.register("commands", "Commands carried out", family::Family::default());
        commands
            .get_or_create(&Label { outcome: "with \"quotes\", commas\\ and } braces".to_owned() })
            .inc_by(3);
        metrics.register("lag", "Messages still before it", Gauge::<i64>::default()).set(-7);
        let seconds = histogram::Histogram::new([0.1, 1.0]);
        metrics.registry().register_with_unit("took", "How long", Unit::Seconds, seconds.clone());
        for took in [0.05, 0.5, 0.6, 5.0] {
            seconds.observe(took);
        }

        let sent = convert(&metrics.render(), 1, 2);
        let names: Vec<_> =
            sent.iter().map(|metric| (&*metric.name, &*metric.description, &*metric.unit)).collect();
        assert_eq!(
            names,
            [
                ("commands", "Commands carried out", ""),
                ("lag", "Messages still before it", ""),
                ("took_seconds", "How long", "seconds")
            ]
        );
        let (Some(Data::Sum(commands)), Some(Data::Gauge(lag)), Some(Data::Histogram(took))) =
            (&sent[0].data, &sent[1].data, &sent[2].data)
        else {
            panic!("{sent:?}")
        };
        assert!(commands.is_monotonic);
        let point = &commands.data_points[0];
        assert_eq!(
            (point.value, point.start_time_unix_nano, point.time_unix_nano),
            (Some(Value::AsDouble(3.0)), 1, 2)
        );
        assert_eq!(labels(&point.attributes), [("outcome", "with \"quotes\", commas\\ and } braces")]);
        assert_eq!(lag.data_points[0].value, Some(Value::AsDouble(-7.0)));
        let point = &took.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(6.15)));
        assert_eq!((&*point.explicit_bounds, &*point.bucket_counts), (&[0.1, 1.0][..], &[1, 2, 1][..]));
    }
}
