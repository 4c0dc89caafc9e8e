//! `[routing]` and `[[routes]]`.

use std::collections::{BTreeMap, BTreeSet};

use super::destination::routed;
use super::scalar::choice;
use crate::config::finding::KeyPath;
use crate::config::nearest::did_you_mean;
use crate::config::read::Typed;
use crate::config::report::Report;
use crate::config::typed;
use crate::config::validated::{DestinationTemplate, Route, Routing, Unrouted};
use crate::route::Pattern;

const UNROUTED: [(&str, Unrouted); 2] = [
    ("dead-letter", Unrouted::DeadLetter),
    ("skip", Unrouted::Skip),
];

/// The routes; `None` if there are none and everything goes everywhere.
pub(super) fn routing(typed: &Typed, report: &mut Report) -> Option<Routing> {
    let unrouted_path = KeyPath::of(["routing", "unrouted"]);
    let given = typed
        .root
        .routing
        .as_ref()
        .and_then(|routing| routing.unrouted.as_deref());
    let unrouted = choice(report, &unrouted_path, given, &UNROUTED);
    if typed.routes.is_empty() {
        if unrouted.is_some() && !report.is_struck_within(&KeyPath::root().key("routes")) {
            report.warn(&unrouted_path, "does nothing without [[routes]]");
        }
        return None;
    }
    let path = KeyPath::root().key("routes");
    let mut routes: Vec<Route> = Vec::new();
    for (position, typed_route) in typed.routes.iter().enumerate() {
        let path = path.index(position);
        let route = route(&path, typed_route, typed, report);
        overshadowed(&path, &route, &routes, report);
        routes.push(route);
    }
    let mut patterns = routes.iter().flat_map(|route| &route.event_types);
    let has_catch_all = patterns.any(Pattern::is_catch_all);
    unreached(typed, report);
    if !has_catch_all && given.is_none() && !report.is_struck_within(&path) {
        let place = report.place(&path.index(routes.len() - 1));
        report.error_at(
            &unrouted_path,
            place,
            "is missing, and no route is for every other event: add a route with event_type = \"*\" at the end, or set \
             it to \"dead-letter\" or \"skip\"",
        );
    }
    Some(Routing {
        unrouted: unrouted.unwrap_or(Unrouted::DeadLetter),
        routes,
    })
}

/// Warns of event types that never get as far as this route.
fn overshadowed(path: &KeyPath, route: &Route, earlier: &[Route], report: &mut Report) {
    let before = |pattern: &Pattern| {
        earlier.iter().position(|route| {
            let mut patterns = route.event_types.iter();
            patterns.any(|earlier| earlier.covers(pattern))
        })
    };
    let event_types = route.event_types.iter();
    let shadows: Vec<(&Pattern, usize)> = event_types
        .filter_map(|pattern| Some((pattern, before(pattern)?)))
        .collect();
    let by: BTreeSet<String> = shadows
        .iter()
        .map(|(_, earlier)| format!("routes[{earlier}]"))
        .collect();
    let by = Vec::from_iter(by).join(" and ");
    if shadows.is_empty() {
        // Every event type may get here.
    } else if shadows.len() == route.event_types.len() {
        report.warn(
            path,
            format!("is never reached: what it matches goes by {by} before"),
        );
    } else {
        let names: Vec<String> = shadows.iter().map(|(p, _)| format!("`{p}`")).collect();
        report.warn(
            &path.key("event_type"),
            format!(
                "{} does nothing here: such events go by {by} before",
                names.join(", ")
            ),
        );
    }
}

fn route(path: &KeyPath, typed_route: &typed::Route, typed: &Typed, report: &mut Report) -> Route {
    let to_path = path.key("to");
    let to = typed_route.to.as_ref();
    let to = report.required(
        &to_path,
        to,
        "say where these events go, such as { SINK = true }",
    );
    Route {
        event_types: event_types(&path.key("event_type"), typed_route, report),
        to: to
            .map(|to| destinations(&to_path, to, typed, report))
            .unwrap_or_default(),
    }
}

fn event_types(path: &KeyPath, route: &typed::Route, report: &mut Report) -> Vec<Pattern> {
    let given = route.event_type.as_ref();
    let advice = "write an event type, a pattern such as \"Draft*\", or a list of them";
    let Some(given) = report.required(path, given, advice) else {
        return Vec::new();
    };
    if given.items().is_empty() {
        report.error(path, format!("is empty: {advice}"));
    }
    let mut patterns = Vec::new();
    for text in given.items() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                report.is_no(path, text, "pattern", &error);
            }
        }
    }
    patterns
}

fn destinations(
    path: &KeyPath,
    to: &BTreeMap<String, typed::To>,
    typed: &Typed,
    report: &mut Report,
) -> BTreeMap<String, DestinationTemplate> {
    let mut destinations = BTreeMap::new();
    for (name, to) in to {
        let path = path.key(name);
        let Some(sink) = typed.sinks.get(name) else {
            if !report.is_struck(&KeyPath::of(["sinks", name])) {
                let hint = did_you_mean(name, typed.sinks.keys().map(String::as_str));
                report.error(
                    &path,
                    format!("names no sink{hint}: write a table [sinks.NAME] for it"),
                );
            }
            continue;
        };
        if let Some(destination) = routed(&path, to, name, sink, report) {
            destinations.insert(name.clone(), destination);
        }
    }
    destinations
}

/// Warns of sinks that no route names.
fn unreached(typed: &Typed, report: &mut Report) {
    let named: BTreeSet<&String> = typed
        .routes
        .iter()
        .filter_map(|route| route.to.as_ref())
        .flat_map(BTreeMap::keys)
        .collect();
    for name in typed.sinks.keys().filter(|name| !named.contains(name)) {
        report.warn(
            &KeyPath::of(["sinks", name]),
            "gets no event: no route names it. Name it in a route, or take it out",
        );
    }
}
