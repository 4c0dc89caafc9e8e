//! The live part of the status page: one snapshot a second, made once for all who watch, sent as server-sent events.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt as _};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::owners::{Owner, Owners};
use super::picture::Picture;
use super::token::Access;
use crate::config::Config;
use crate::status::Status;
use crate::status::report::Report;
use crate::status::tally::{Counts, Tally};

/// How often those who watch are told.
const INTERVAL: Duration = Duration::from_secs(1);

/// Points of each curve that are kept for who comes later: two minutes.
const POINTS: usize = 120;

/// Who may watch at a time. Each costs a connection and some kilobytes a second.
const MAX_WATCHERS: usize = 32;

/// What has been seen, and who watches. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    status: Status,
    config: watch::Receiver<Arc<Config>>,
    access: Access,
    owners: Owners,
    curves: Arc<Mutex<Curves>>,
    /// The newest snapshot, as JSON.
    newest: Arc<watch::Sender<Arc<str>>>,
    seats: Arc<Semaphore>,
    stop: CancellationToken,
}

/// What each pipeline has done in the last seconds, by source and sink.
type Curves = BTreeMap<(String, String), Curve>;

#[derive(Debug)]
struct Curve {
    tally: Arc<Tally>,
    counts: Counts,
    at: Instant,
    points: VecDeque<Point>,
}

/// One second of a pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Point {
    /// Acknowledged events per second.
    rate: f64,
    /// Seconds from `created_at` to the acknowledgement; null if nothing was acknowledged.
    p50: Option<f64>,
    p99: Option<f64>,
}

/// What a page needs once, and again when the configuration changes.
#[derive(Debug, Serialize)]
struct Hello {
    picture: Picture,
    /// Whether a token is configured, so that who has it may retry and discard dead letters.
    actions: bool,
    /// Whether dead letters are shown without the token.
    letters_open: bool,
    curves: Vec<CurveReport<Vec<Point>>>,
}

/// What a page needs every second.
#[derive(Debug, Serialize)]
struct Snapshot {
    #[serde(flatten)]
    report: Report,
    curves: Vec<CurveReport<Option<Point>>>,
    /// By source.
    owners: BTreeMap<String, Owner>,
}

#[derive(Debug, Serialize)]
struct CurveReport<P> {
    source: String,
    sink: String,
    points: P,
}

impl Feed {
    pub(super) fn new(
        status: Status,
        config: watch::Receiver<Arc<Config>>,
        access: Access,
        stop: CancellationToken,
    ) -> Self {
        Self {
            status,
            config,
            access,
            owners: Owners::default(),
            curves: Arc::default(),
            newest: Arc::new(watch::Sender::new(Arc::from("{}"))),
            seats: Arc::new(Semaphore::new(MAX_WATCHERS)),
            stop,
        }
    }

    /// Looks once a second until the stop, and writes it down while somebody watches.
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        let watched = Arc::clone(&self.newest);
        let owners = self.owners.clone();
        let owners = owners.run(self.config.clone(), move || watched.receiver_count() > 0);
        let both = async { tokio::join!(owners, self.tick()) };
        stop.run_until_cancelled(both).await;
    }

    async fn tick(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.advance();
            if self.newest.receiver_count() > 0 {
                self.newest.send_replace(self.snapshot());
            }
        }
    }

    /// One point more for each pipeline.
    fn advance(&self) {
        let tallies = self.status.tallies();
        let mut curves = locked(&self.curves);
        curves.retain(|name, _| tallies.contains_key(name));
        for (name, tally) in tallies {
            let curve = curves.entry(name).or_insert_with(|| Curve::of(&tally));
            curve.advance(&tally);
        }
    }

    fn snapshot(&self) -> Arc<str> {
        let snapshot = Snapshot {
            report: self.status.report(),
            curves: self.curves(|points| points.back().copied()),
            owners: self.owners.seen(),
        };
        json(&snapshot)
    }

    fn hello(&self) -> Arc<str> {
        json(&Hello {
            picture: Picture::of(&self.config.borrow()),
            actions: self.access.has_token(),
            letters_open: self.access.is_readable_by_all(),
            curves: self.curves(|points| points.iter().copied().collect()),
        })
    }

    fn curves<P>(&self, of: impl Fn(&VecDeque<Point>) -> P) -> Vec<CurveReport<P>> {
        let curves = locked(&self.curves);
        let curves = curves.iter().map(|((source, sink), curve)| CurveReport {
            source: source.clone(),
            sink: sink.clone(),
            points: of(&curve.points),
        });
        curves.collect()
    }

    /// Everything of now at once, then a snapshot a second until the stop. Who is too slow misses some.
    pub(super) fn subscribe(&self) -> Response {
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            let reason = format!("{MAX_WATCHERS} pages are open already: close one\n");
            return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
        };
        let watching = self.newest.subscribe();
        let first = [("hello", self.hello()), ("snapshot", self.snapshot())];
        let events = stream::iter(first).chain(self.clone().following(watching, seat));
        let events = events
            .map(|(name, json)| Ok::<_, Infallible>(Event::default().event(name).data(&*json)));
        let events = events.take_until(self.stop.clone().cancelled_owned());
        ([(CACHE_CONTROL, "no-store")], Sse::new(events)).into_response()
    }

    fn following(
        self,
        watching: watch::Receiver<Arc<str>>,
        seat: OwnedSemaphorePermit,
    ) -> impl Stream<Item = (&'static str, Arc<str>)> {
        let mut config = self.config.clone();
        config.mark_unchanged();
        stream::unfold(
            (self, watching, config, seat),
            |(feed, mut watching, mut config, seat)| async {
                let event = tokio::select! {
                    changed = config.changed() => {
                        changed.ok()?;
                        ("hello", feed.hello())
                    }
                    changed = watching.changed() => {
                        changed.ok()?;
                        ("snapshot", Arc::clone(&watching.borrow_and_update()))
                    }
                };
                Some((event, (feed, watching, config, seat)))
            },
        )
    }
}

impl Curve {
    fn of(tally: &Arc<Tally>) -> Self {
        Self {
            tally: Arc::clone(tally),
            counts: Counts::default(),
            at: Instant::now() - INTERVAL,
            points: VecDeque::with_capacity(POINTS),
        }
    }

    fn advance(&mut self, tally: &Arc<Tally>) {
        if !Arc::ptr_eq(&self.tally, tally) {
            // The pipeline was started anew and counts from zero.
            self.tally = Arc::clone(tally);
            self.counts = Counts::default();
        }
        let (counts, now) = (tally.counts(), Instant::now());
        let new = counts.since(&self.counts);
        let seconds = (now - self.at).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss)] // exact up to 2^53
        let rate = new.published() as f64 / seconds;
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            rate,
            p50: new.quantile(0.5),
            p99: new.quantile(0.99),
        });
        (self.counts, self.at) = (counts, now);
    }
}

fn json(value: &impl Serialize) -> Arc<str> {
    // Maps with text as keys and numbers: nothing that JSON lacks.
    serde_json::to_string(value).unwrap_or_default().into()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement leaves it whole, so a panic elsewhere has not broken it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_curve_is_bounded_and_begins_anew_with_its_pipeline() {
        let tally = Arc::new(Tally::default());
        let mut curve = Curve::of(&tally);
        for _ in 0..POINTS + 5 {
            tally.published(Duration::from_millis(2));
            tokio::time::advance(INTERVAL).await;
            curve.advance(&tally);
        }
        assert_eq!(curve.points.len(), POINTS);
        let last = curve.points.back().expect("a point");
        assert!(
            (last.rate - 1.0).abs() < 0.001 && last.p99.is_some(),
            "{last:?}"
        );
        let next = Arc::new(Tally::default());
        tokio::time::advance(INTERVAL).await;
        curve.advance(&next);
        assert_eq!(curve.points.back(), Some(&Point::default()));
    }
}
