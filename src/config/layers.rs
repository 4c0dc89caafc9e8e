//! The layers of a configuration, merged with figment: flags > `OUTBOX__` variables > file > plain variables.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::document::Document;
use super::environment::{self, Environment, Overrides};
use super::finding::{KeyPath, Place};
use super::plain;
use super::report::Report;

/// Who assigns a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The environment variable of this name.
    Variable(String),
    /// The flag of this name.
    Flag(String),
    /// What goes without saying when the environment alone is the configuration.
    Default,
}

/// One key and its value: a layer of its own, so that figment can say where each value came from.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    path: Vec<String>,
    value: Value,
    origin: Origin,
}

impl Assignment {
    /// Assigns `value` to the key at `path`, which is not empty.
    pub(super) fn new(path: Vec<String>, value: Value, origin: Origin) -> Self {
        Self {
            path,
            value,
            origin,
        }
    }

    /// Whether an assignment to `path` would put a table where this one puts something else.
    pub(super) fn is_replaced_by(&self, path: &[String]) -> bool {
        path.len() > self.path.len()
            && path.starts_with(&self.path)
            && self.value.as_dict().is_none()
    }

    /// The variable or flag.
    pub(super) fn origin_name(&self) -> &str {
        match &self.origin {
            Origin::Variable(name) | Origin::Flag(name) => name,
            Origin::Default => "a default",
        }
    }
}

impl Provider for Assignment {
    fn metadata(&self) -> Metadata {
        let name = match self.origin {
            Origin::Variable(_) => VARIABLE,
            Origin::Flag(_) => FLAG,
            Origin::Default => "default",
        };
        Metadata::from(name, self.origin_name())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut names = self.path.iter().rev();
        let innermost = names
            .next()
            .map(|name| Dict::from([(name.clone(), self.value.clone())]));
        let dict = names.fold(innermost.unwrap_or_default(), |inner, name| {
            Dict::from([(name.clone(), Value::from(inner))])
        });
        Ok(Profile::Default.collect(dict))
    }
}

/// The file as a layer.
struct FileLayer<'a>(&'a Dict);

impl Provider for FileLayer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(FILE)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

const FILE: &str = "file";
const VARIABLE: &str = "variable";
const FLAG: &str = "flag";

/// The merged values of all layers; `report` is told where each was written. Without a `document` the
/// environment alone is the configuration.
pub(super) fn merge(
    document: Option<&Document>,
    env: &Environment,
    overrides: &Overrides,
    report: &mut Report,
) -> Dict {
    let nothing = Document::default();
    let file = document.unwrap_or(&nothing);
    let mut figment = Figment::new().merge(FileLayer(&file.values));
    for assignment in environment::assignments(env, &file.values, report) {
        figment = figment.merge(assignment);
    }
    for assignment in overrides.assignments() {
        figment = figment.merge(assignment);
    }
    let said = values(&figment);
    for assignment in plain::assignments(
        document.map(|document| &document.values),
        &said,
        env,
        report,
    ) {
        // `join`, not `merge`: it gives way to what is there.
        figment = figment.join(assignment);
    }
    let merged = values(&figment);
    let mut places = BTreeMap::new();
    for (key, value) in &merged {
        locate(
            &KeyPath::root().key(key),
            value,
            &figment,
            file,
            &mut places,
        );
    }
    report.locate(places);
    merged
}

fn values(figment: &Figment) -> Dict {
    // None of the layers above can fail to give its data.
    figment
        .data()
        .ok()
        .and_then(|mut data| data.remove(&Profile::Default))
        .unwrap_or_default()
}

/// Writes down where `value` and what it holds were written.
fn locate(
    path: &KeyPath,
    value: &Value,
    figment: &Figment,
    file: &Document,
    places: &mut BTreeMap<KeyPath, Place>,
) {
    let metadata = figment.get_metadata(value.tag());
    let kind = metadata.map_or("", |metadata| metadata.name.as_ref());
    let name = metadata
        .and_then(|metadata| metadata.source.as_ref())
        .and_then(figment::Source::custom)
        .unwrap_or_default();
    let in_file = file.places.get(path);
    let place = match (kind, in_file) {
        // A table of the file stays the file's, whoever adds to it.
        (_, Some(place)) if value.as_dict().is_some() => place.clone(),
        (FILE, Some(place)) => place.clone(),
        (VARIABLE, _) => Place::Variable(name.to_owned()),
        (FLAG, _) => Place::Flag(name.to_owned()),
        _ => Place::Nowhere,
    };
    places.insert(path.clone(), place);
    match value {
        Value::Dict(_, dict) => {
            for (key, value) in dict {
                locate(&path.key(key), value, figment, file, places);
            }
        }
        Value::Array(_, items) => {
            for (index, value) in items.iter().enumerate() {
                locate(&path.index(index), value, figment, file, places);
            }
        }
        _ => {}
    }
}
