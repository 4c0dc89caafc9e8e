//! Dead letters over HTTP: what they are, and having them retried or discarded.
//!
//! `GET /dead-letters/SOURCE?after=ID` lists some of them, oldest first. `POST /dead-letters/SOURCE/retry` and
//! `POST /dead-letters/SOURCE/discard` take `{"sink": …, "ids": […]}`. Errors are `{"error": …}`.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::token::{Access, Refusal};
use crate::config::{Config, NoSource};
use crate::dead_letters::{LetterLine, NotRetried, check_delivered, retried};
use crate::error::chain;
use crate::relay;
use crate::source::SourceError;
use crate::source::dead_letters::{DeadLetters, Selection, Span};
use crate::status::Status;
use crate::status::journal::Severity;

/// Letters that are listed at a time.
const PAGE: usize = 50;

/// Letters that one request may name.
const MAX_IDS: usize = 1_000;

/// Bytes that such a request may have.
const MAX_BODY: usize = 64 * 1024;

/// Requests that are served at a time. Each has a connection to a database of its own.
const MAX_AT_ONCE: usize = 4;

/// What the handlers need. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Letters {
    access: Access,
    config: watch::Receiver<Arc<Config>>,
    status: Status,
    turns: Arc<Semaphore>,
}

/// The dead letters of a source, for one request.
struct Table {
    letters: Box<dyn DeadLetters>,
    _turn: OwnedSemaphorePermit,
}

/// Letters of a source.
#[derive(Debug, Serialize)]
struct Listing {
    /// Oldest first.
    dead_letters: Vec<LetterLine>,
    /// Where to go on by `after`; null: that was all.
    next_after: Option<i64>,
}

/// Letters of one sink.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    sink: String,
    ids: Vec<i64>,
}

/// What is done with them.
#[derive(Debug, Clone, Copy)]
enum Act {
    Retry,
    Discard,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    /// So many letters.
    done: u64,
    /// So many stay, for their rows are no longer in the outbox table.
    gone: u64,
}

/// Why nothing was done.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    reason: String,
}

type Answer<T> = Result<Json<T>, Failure>;

/// A JSON body.
struct Json<T>(T);

pub(super) fn routes(letters: Letters) -> Router {
    Router::new()
        .route("/dead-letters/{source}", get(list))
        .route(
            "/dead-letters/{source}/retry",
            post(|letters, source, headers, body| act(Act::Retry, letters, source, headers, body)),
        )
        .route(
            "/dead-letters/{source}/discard",
            post(|letters, source, headers, body| {
                act(Act::Discard, letters, source, headers, body)
            }),
        )
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(letters)
}

async fn list(
    State(letters): State<Letters>,
    Path(source): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer<Listing> {
    letters.access.may_read(&headers)?;
    let after = after(uri.query())?;
    let table = letters.of(&source)?;
    let through = table.letters.last_id().await?;
    let span = Span { after, through };
    let which = Selection::default();
    let page = table.letters.page(&which, span, PAGE).await?;
    Ok(Json(Listing {
        next_after: page.looked_through.filter(|id| *id < through),
        dead_letters: page
            .letters
            .into_iter()
            .map(|letter| LetterLine::of(&source, letter))
            .collect(),
    }))
}

async fn act(
    act: Act,
    State(letters): State<Letters>,
    Path(source): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Done> {
    letters.access.may_act(&headers)?;
    let Named { sink, ids } = &named(&body)?;
    let table = letters.of(&source)?;
    let (done, gone) = match act {
        Act::Retry => {
            check_delivered(&letters.config.borrow(), &source, sink)?;
            retried(table.letters.retry(sink, ids).await?, &source, sink)?
        }
        Act::Discard => (table.letters.discard(sink, ids).await?, 0),
    };
    letters.was_done(&source, sink, done, act);
    Ok(Json(Done { done, gone }))
}

impl Letters {
    pub(super) fn new(
        access: Access,
        config: watch::Receiver<Arc<Config>>,
        status: Status,
    ) -> Self {
        Self {
            access,
            config,
            status,
            turns: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        }
    }

    fn of(&self, source: &str) -> Result<Table, Failure> {
        let config = Arc::clone(&self.config.borrow());
        config.source(source)?;
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            let reason = format!("{MAX_AT_ONCE} such requests are served already: try again");
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason));
        };
        Ok(Table {
            letters: relay::dead_letters(&config, source)?,
            _turn: turn,
        })
    }

    fn was_done(&self, source: &str, sink: &str, count: u64, act: Act) {
        let action = match act {
            Act::Retry => "retried",
            Act::Discard => "discarded",
        };
        tracing::info!(
            source,
            sink,
            count,
            action,
            "an operator acted on dead letters over HTTP"
        );
        if count > 0 {
            let text = format!("a dead letter was {action} by hand");
            let subject = format!("sink {sink}");
            self.status.note(Severity::Info, subject, &text, count);
        }
        self.status.dead_letters_changed(source);
    }
}

fn named(body: &[u8]) -> Result<Named, Failure> {
    let bad = |reason| Failure::new(StatusCode::BAD_REQUEST, reason);
    let named: Named = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body must be {{\"sink\", \"ids\"}}: {error}")))?;
    match named.ids.len() {
        0 => Err(bad("ids: names no dead letter".to_owned())),
        count if count > MAX_IDS => Err(bad(format!(
            "ids: {count} are more than {MAX_IDS} at a time"
        ))),
        _ => Ok(named),
    }
}

fn after(query: Option<&str>) -> Result<i64, Failure> {
    let Some(query) = query else { return Ok(0) };
    let id = query.strip_prefix("after=").and_then(|id| id.parse().ok());
    id.ok_or_else(|| {
        let reason = "the only parameter is after, the id of a dead letter".to_owned();
        Failure::new(StatusCode::BAD_REQUEST, reason)
    })
}

impl Failure {
    fn new(status: StatusCode, reason: String) -> Self {
        Self { status, reason }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.reason.to_owned())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, chain(&error))
    }
}

impl From<NoSource> for Failure {
    fn from(error: NoSource) -> Self {
        Self::new(StatusCode::NOT_FOUND, error.to_string())
    }
}

impl From<NotRetried> for Failure {
    fn from(refusal: NotRetried) -> Self {
        Self::new(StatusCode::CONFLICT, refusal.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.reason }));
        if self.status == StatusCode::UNAUTHORIZED {
            return (self.status, [(WWW_AUTHENTICATE, "Bearer")], body).into_response();
        }
        (self.status, body).into_response()
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let Ok(json) = serde_json::to_vec(&self.0) else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let headers = [
            (CONTENT_TYPE, "application/json"),
            (CACHE_CONTROL, "no-store"),
        ];
        (headers, json).into_response()
    }
}
