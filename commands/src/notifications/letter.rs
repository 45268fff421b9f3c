//! Letters: what an e-mail says, from templates in files. One template for plain text, whose first line is the subject,
//! and one for HTML, for each type of fact; in other languages where there are such files. Those that come with the
//! program can be replaced one by one.

use super::react::{News, TOLD};
use minijinja::{Environment, Error, UndefinedBehavior, Value, value::Serde};
use serde::Serialize;
use std::{fmt, fs, path::Path, sync::Arc};

/// The templates that come with the program, by the name of their file.
const BUILT_IN: [(&str, &str); 8] = [
    ("order.created.txt", include_str!("templates/order.created.txt")),
    ("order.created.html", include_str!("templates/order.created.html")),
    ("order.completed.txt", include_str!("templates/order.completed.txt")),
    ("order.completed.html", include_str!("templates/order.completed.html")),
    ("order.failed.txt", include_str!("templates/order.failed.txt")),
    ("order.failed.html", include_str!("templates/order.failed.html")),
    ("shipment.dispatched.txt", include_str!("templates/shipment.dispatched.txt")),
    ("shipment.dispatched.html", include_str!("templates/shipment.dispatched.html")),
];

/// What a template for plain text begins with.
const SUBJECT: &str = "Subject: ";

/// The templates of all letters. Cheap to clone.
#[derive(Clone)]
pub struct Templates(Arc<Environment<'static>>);

/// What templates can show.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter<'a> {
    /// What the recipient is called. Personal.
    name: String,
    order_id: String,
    /// Of a new order, such as `12.50 EUR`.
    total: Option<String>,
    items: Vec<Item<'a>>,
    /// Of an order that failed, such as `out_of_stock`.
    reason: Option<events::orders::Reason>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    sku: &'a str,
    quantity: u32,
    unit_price: String,
}

impl<'a> Letter<'a> {
    /// To somebody of this name. What would break a line is left out, wherever the name ends up.
    pub(super) fn new(name: &str, news: &'a News) -> Self {
        let item = |line: &'a events::orders::Line| Item {
            sku: line.sku.as_str(),
            quantity: line.quantity,
            unit_price: line.unit_price.to_string(),
        };
        Self {
            name: one_line(name),
            order_id: news.order_id.to_string(),
            total: news.total_amount.map(|total| total.to_string()),
            items: news.items.iter().map(item).collect(),
            reason: news.reason,
        }
    }
}

/// The same text without anything that ends a line or is not to be seen.
pub(super) fn one_line(text: &str) -> String {
    let plain =
        text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    plain.collect::<String>().trim().to_owned()
}

/// A letter as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// Everything that is wrong with a folder of templates.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct TemplateFaults(Vec<String>);

impl Templates {
    /// Those that come with the program.
    pub fn built_in() -> Self {
        Self(Arc::new(standard()))
    }

    /// The same, with those of a folder in their place. Every one of them is written once, for trial.
    pub fn with(folder: &Path) -> Result<Self, TemplateFaults> {
        let mut faults = Vec::new();
        let mut environment = standard();
        let mut names = Vec::new();
        match fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    match read(&entry.path(), &name) {
                        Ok(source) => {
                            if let Err(error) = environment.add_template_owned(name.clone(), source) {
                                faults.push(format!("{name}: {error}"));
                            }
                            names.push(name);
                        }
                        Err(why) => faults.push(format!("{name}: {why}")),
                    }
                }
            }
            Err(error) => faults.push(error.to_string()),
        }
        let templates = Self(Arc::new(environment));
        names.sort();
        if faults.is_empty() {
            faults = names.iter().filter_map(|name| templates.trial(name).err()).collect();
        }
        if faults.is_empty() { Ok(templates) } else { Err(TemplateFaults(faults)) }
    }

    /// Writes one template to somebody who does not exist.
    fn trial(&self, name: &str) -> Result<(), String> {
        let Some((kind, language, _)) = parts(name) else { return Err(format!("{name}: no such template")) };
        let news: News = sample();
        let written = self.write(kind, language.unwrap_or_default(), &Letter::new("Ada Lovelace", &news));
        written.map(|_| ()).map_err(|error| format!("{name}: {error}"))
    }

    /// Writes a letter on a fact of type `kind`, in a language where there are templates in it.
    pub(super) fn write(&self, kind: &str, language: &str, letter: &Letter<'_>) -> Result<Written, Error> {
        let language = language.to_ascii_lowercase();
        let primary = language.split('-').next().unwrap_or_default();
        let stems = [format!("{kind}.{language}"), format!("{kind}.{primary}"), kind.to_owned()];
        let there = |stem: &&String| self.0.get_template(&format!("{stem}.txt")).is_ok();
        let stem = stems.iter().find(there).map_or(kind, String::as_str);
        let letter = Value::from(Serde(letter));
        let render = |ending: &str| self.0.get_template(&format!("{stem}.{ending}"))?.render(letter.clone());
        let (text, html) = (render("txt")?.replace("\r\n", "\n"), render("html")?);
        let malformed = || {
            let what = format!("the text begins with '{SUBJECT}..' and an empty line");
            Error::new(minijinja::ErrorKind::InvalidOperation, what)
        };
        let (head, body) = text.split_once("\n\n").ok_or_else(malformed)?;
        let subject = head.strip_prefix(SUBJECT).filter(|subject| !subject.contains('\n')).map(one_line);
        let subject = subject.filter(|subject| !subject.is_empty()).ok_or_else(malformed)?;
        Ok(Written { subject, text: body.to_owned(), html })
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Templates(..)")
    }
}

/// The templates that come with the program. A value that does not exist is a mistake of a template, not an empty text.
#[expect(clippy::expect_used, reason = "a test renders every one of them")]
fn standard() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, source) in BUILT_IN {
        environment.add_template(name, source).expect("templates that come with the program are right");
    }
    environment
}

/// Type of fact, language and ending in the name of a template; `None` of another file.
fn parts(name: &str) -> Option<(&'static str, Option<&str>, &'static str)> {
    let ending = ["txt", "html"].into_iter().find(|ending| name.ends_with(&format!(".{ending}")))?;
    let stem = name.strip_suffix(ending)?.strip_suffix('.')?;
    let kind = TOLD
        .into_iter()
        .find(|kind| stem.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))?;
    let language = stem.strip_prefix(kind)?.strip_prefix('.');
    let lower =
        |language: &str| language.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    language.is_none_or(lower).then_some((kind, language, ending))
}

/// Reads a template of a folder.
fn read(path: &Path, name: &str) -> Result<String, String> {
    let Some((kind, language, ending)) = parts(name) else {
        return Err(format!(
            "no such template: expected <type>[.<language>].txt or .html, of {}",
            TOLD.join(", ")
        ));
    };
    let other = if ending == "txt" { "html" } else { "txt" };
    if let Some(language) = language
        && !path.with_file_name(format!("{kind}.{language}.{other}")).exists()
    {
        return Err(format!("a language needs both: {kind}.{language}.{other} is missing"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// News with everything that there can be.
#[expect(clippy::expect_used, reason = "a SKU and a currency of the program's own")]
fn sample() -> News {
    let sku = events::Sku::new("TEA").expect("a SKU");
    let price = events::Money::new(450, "EUR".parse().expect("a currency"));
    News {
        order_id: events::OrderId::new(uuid::Uuid::nil()),
        user_id: None,
        items: vec![events::orders::Line { sku, quantity: 2, unit_price: price }],
        total_amount: Some(price),
        reason: Some(events::orders::Reason::OutOfStock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(templates: &Templates, kind: &str, language: &str, name: &str) -> Written {
        templates.write(kind, language, &Letter::new(name, &sample())).unwrap()
    }

    #[test]
    fn every_letter_can_be_written_of_much_and_of_little() {
        let little = News { items: vec![], total_amount: None, reason: None, ..sample() };
        for kind in TOLD {
            for news in [&sample(), &little] {
                let letter = Letter::new("Ada", news);
                let Written { subject, text, html } =
                    Templates::built_in().write(kind, "en", &letter).unwrap();
                assert!(subject.len() > 5 && !subject.contains('\n'), "{subject}");
                assert!(text.contains("Ada") && html.contains("<p>") && html.contains("Ada"), "{text}{html}");
            }
        }
        let new = written(&Templates::built_in(), "order.created", "en", "Ada");
        assert!(new.text.contains("2 x TEA") && new.text.contains("4.50 EUR"), "{}", new.text);
    }

    #[test]
    fn a_name_is_text_and_one_line() {
        let name = "<b>Bobby\r\nBcc: all@example.com\u{2028}x";
        let letter = written(&Templates::built_in(), "order.completed", "en", name);
        assert!(letter.html.contains("&lt;b&gt;Bobby  Bcc"), "{}", letter.html);
        assert!(letter.text.contains("<b>Bobby  Bcc: all@example.com x"), "{}", letter.text);
    }

    #[test]
    fn a_folder_replaces_what_it_names_and_adds_languages() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("order.failed.txt", "Subject: Sorry, {{ name }}\n\n{{ reason }}\n");
        put("order.created.de.txt", "Subject: Ihre Bestellung {{ orderId }}\n\nGuten Tag {{ name }}\n");
        put("order.created.de.html", "<p>Guten Tag {{ name }}</p>");
        let templates = Templates::with(folder.path()).unwrap();
        let failed = written(&templates, "order.failed", "en", "Ada\nBcc: x@y.z");
        assert_eq!(
            (failed.subject.as_str(), failed.text.as_str()),
            ("Sorry, Ada Bcc: x@y.z", "out_of_stock")
        );
        for language in ["de", "de-AT", "DE"] {
            assert!(written(&templates, "order.created", language, "Ada").subject.starts_with("Ihre"));
        }
        assert!(written(&templates, "order.created", "fr", "Ada").subject.starts_with("We have"));
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_said_at_once() {
        for (name, text, fault) in [
            ("order.created.txt", "Hello", "begins with 'Subject: "),
            ("order.created.txt", "Subject: \n\nx", "begins with 'Subject: "),
            ("order.created.txt", "Subject: a\nb", "begins with 'Subject: "),
            ("order.created.html", "{{ nmae }}", "undefined"),
            ("order.created.html", "{% if", "syntax"),
            ("order.creatd.html", "x", "no such template"),
            ("notes", "x", "no such template"),
            ("order.created.de.txt", "Subject: a\n\nb", "order.created.de.html is missing"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), text).unwrap();
            let error = Templates::with(folder.path()).unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains(name), "{name}: {error}");
        }
        assert!(Templates::with(Path::new("/nowhere")).is_err());
    }
}
