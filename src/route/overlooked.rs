//! Sinks that a more general route would have reached: what "the first route wins" takes away from them.

use crate::config::{Route, Routing};

/// A sink that gets nothing of a route's events although a later, more general route names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlooked {
    /// The route that decides, counted from 0.
    pub route: usize,
    /// Its event types that the later route matches, too.
    pub event_types: Vec<String>,
    /// The sink.
    pub sink: String,
    /// The later route.
    pub later: usize,
}

impl Routing {
    /// Every such sink, in the order of the routes. It may be what was meant; the first later route counts.
    #[must_use]
    pub fn overlooked(&self) -> Vec<Overlooked> {
        let mut found: Vec<Overlooked> = Vec::new();
        for (position, route) in self.routes.iter().enumerate() {
            for (later, general) in self.routes.iter().enumerate().skip(position + 1) {
                let event_types = also_matched(route, general);
                if event_types.is_empty() {
                    continue;
                }
                for sink in general
                    .to
                    .keys()
                    .filter(|sink| !route.to.contains_key(*sink))
                {
                    if found.iter().any(|o| o.route == position && o.sink == *sink) {
                        continue;
                    }
                    found.push(Overlooked {
                        route: position,
                        event_types: event_types.clone(),
                        sink: sink.clone(),
                        later,
                    });
                }
            }
        }
        found
    }
}

/// The event types of `route` that `general` covers.
fn also_matched(route: &Route, general: &Route) -> Vec<String> {
    let covered = route.event_types.iter().filter(|narrow| {
        let mut patterns = general.event_types.iter();
        patterns.any(|pattern| pattern.covers(narrow))
    });
    covered.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DestinationTemplate, Unrouted};
    use crate::route::Pattern;

    fn route(event_types: &[&str], sinks: &[&str]) -> Route {
        let pattern = |text: &&str| Pattern::parse(text).expect("a pattern");
        let to = |sink: &&str| ((*sink).to_owned(), DestinationTemplate::Implicit);
        Route {
            event_types: event_types.iter().map(pattern).collect(),
            to: sinks.iter().map(to).collect(),
        }
    }

    fn overlooked(routes: Vec<Route>) -> Vec<String> {
        let unrouted = Unrouted::Skip;
        let found = Routing { unrouted, routes }.overlooked();
        let shown = |o: &Overlooked| {
            let Overlooked {
                route,
                event_types,
                sink,
                later,
            } = o;
            format!("{route} {} {sink} {later}", event_types.join(","))
        };
        found.iter().map(shown).collect()
    }

    #[test]
    fn sinks_of_later_routes_are_found() {
        let found = overlooked(vec![
            route(&["PickMade", "Other"], &["a"]),
            route(&["Pick*"], &["a", "b"]),
            route(&["*"], &["a", "b", "c"]),
        ]);
        assert_eq!(
            found,
            ["0 PickMade b 1", "0 PickMade,Other c 2", "1 Pick* c 2"]
        );
    }

    #[test]
    fn nothing_is_found_where_nothing_is_taken_away() {
        let found = overlooked(vec![
            route(&["Pick*"], &["a", "b"]),
            route(&["PickMade"], &["c"]),
            route(&["Draft"], &["a"]),
            route(&["*"], &["a"]),
        ]);
        // PickMade never gets to the second route; what it would do there is said elsewhere.
        assert_eq!(found, ["1 PickMade a 3"]);
    }
}
