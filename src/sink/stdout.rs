//! The standard output sink: one body per line.
//!
//! One task owns the writer, so that lines never mix and a caller that gives up leaves no half of a line. It
//! takes what has queued up meanwhile as one batch, with one flush. It ends when the last clone of the sink is
//! dropped and the queue is empty.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tower::Service;

use super::Message;
use crate::error::PublishError;

/// Writes one body per line. `Ok` means that the line has been handed to the operating system.
///
/// A line break inside a body would make two lines of it. In JSON it can only be white space between tokens,
/// for strings escape theirs: each becomes a space, which changes nothing for a parser. A body that is not JSON
/// (format `raw`) can't be changed without damage: with a line break in it, it is invalid.
///
/// A failed write (the reader has closed the pipe, the disk is full) is an outage. It may have left part of a
/// line behind, so the next write begins with a line break: a reader may see a torn or an empty line, but never
/// one that hides an event.
#[derive(Debug, Clone)]
pub struct StdoutSink {
    lines: mpsc::Sender<Line>,
}

#[derive(Debug)]
struct Line {
    body: Bytes,
    written: oneshot::Sender<Result<(), Arc<io::Error>>>,
}

/// Lines waiting for the writer at most, and so lines per flush; callers beyond it wait their turn.
const QUEUE: usize = 256;

/// Bytes that are gathered for one write: as much as a Linux pipe holds by default.
const CHUNK: usize = 64 * 1024;

impl StdoutSink {
    /// Writes to the standard output of the process.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::to(tokio::io::stdout())
    }

    /// Writes to `writer` as if it were standard output.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn to<W>(writer: W) -> Self
    where
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (lines, queue) = mpsc::channel(QUEUE);
        tokio::spawn(write_lines(writer, queue));
        Self { lines }
    }
}

impl Default for StdoutSink {
    fn default() -> Self {
        Self::new()
    }
}

impl Service<Message> for StdoutSink {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let lines = self.lines.clone();
        Box::pin(async move {
            let body = one_line(&message)?;
            let (written, outcome) = oneshot::channel();
            let ended = |_| PublishError::unavailable("the writer of standard output has ended");
            let line = Line { body, written };
            lines.send(line).await.map_err(|_| ended(()))?;
            let result = outcome.await.map_err(|_| ended(()))?;
            result.map_err(|error| {
                PublishError::unavailable("writing to standard output failed").caused_by(error)
            })
        })
    }
}

/// The body without line breaks.
fn one_line(message: &Message) -> Result<Bytes, PublishError> {
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let Some(at) = message.body.iter().position(is_break) else {
        return Ok(message.body.clone());
    };
    if !is_json(message) {
        return Err(PublishError::invalid(format!(
            "the body has a line break at byte {at}, and standard output takes one event per line; \
             use format = \"json\""
        )));
    }
    let without = |byte: &u8| if is_break(byte) { b' ' } else { *byte };
    Ok(message.body.iter().map(without).collect())
}

fn is_json(message: &Message) -> bool {
    let mut headers = message.headers.iter();
    headers.any(|(name, value)| name == "content-type" && value == "application/json")
}

async fn write_lines<W: AsyncWrite + Unpin>(mut writer: W, mut queue: mpsc::Receiver<Line>) {
    let mut batch = Vec::with_capacity(QUEUE);
    let mut buffer = Vec::with_capacity(CHUNK);
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        // Whoever gave up will come again with the same event: writing now would only make a duplicate.
        batch.retain(|line| !line.written.is_closed());
        let result = write_batch(&mut writer, &batch, &mut buffer).await;
        buffer.clear();
        buffer.shrink_to(CHUNK);
        if result.is_err() {
            buffer.push(b'\n');
        }
        let result = result.map_err(Arc::new);
        for line in batch.drain(..) {
            // The caller may have gone; then there is nobody to tell.
            line.written.send(result.clone()).ok();
        }
    }
}

/// Writes what `buffer` holds already, then every line, and flushes once.
async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut W,
    batch: &[Line],
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    for line in batch {
        buffer.extend_from_slice(&line.body);
        buffer.push(b'\n');
        if buffer.len() >= CHUNK {
            writer.write_all(buffer).await?;
            buffer.clear();
        }
    }
    writer.write_all(buffer).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Mutex, PoisonError};

    use futures::future::join_all;
    use tokio::io::{AsyncReadExt, duplex};
    use tower::ServiceExt;
    use uuid::Uuid;

    use super::*;
    use crate::error::Meaning;
    use crate::fixture;
    use crate::sink::BoxSink;

    fn message(body: impl Into<Bytes>) -> Message {
        fixture::message(Uuid::nil(), body)
    }

    /// A writer in memory that can be told to fail, and counts its flushes.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<Sheet>>);

    #[derive(Debug, Default)]
    struct Sheet {
        written: Vec<u8>,
        flushed: usize,
        flushes: usize,
        /// Bytes that the next write takes before writes fail once.
        room: Option<usize>,
    }

    impl Paper {
        fn sheet(&self) -> std::sync::MutexGuard<'_, Sheet> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn flushed_text(&self) -> String {
            let sheet = self.sheet();
            String::from_utf8_lossy(&sheet.written[..sheet.flushed]).into_owned()
        }
    }

    impl AsyncWrite for Paper {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let mut sheet = self.sheet();
            let taken = match sheet.room.take() {
                None => bytes.len(),
                Some(0) => return Poll::Ready(Err(io::ErrorKind::StorageFull.into())),
                Some(room) => {
                    sheet.room = Some(0);
                    room.min(bytes.len())
                }
            };
            sheet.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut sheet = self.sheet();
            sheet.flushed = sheet.written.len();
            sheet.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn acknowledges_what_is_written_and_flushed() {
        let paper = Paper::default();
        let sink = BoxSink::new(StdoutSink::to(paper.clone()));
        sink.clone()
            .oneshot(message("{\"a\":1}"))
            .await
            .expect("written");
        assert_eq!(paper.flushed_text(), "{\"a\":1}\n");
        sink.oneshot(message("{}")).await.expect("written");
        assert_eq!(paper.flushed_text(), "{\"a\":1}\n{}\n");
    }

    #[tokio::test]
    async fn concurrent_lines_share_a_flush_and_keep_whole() {
        let paper = Paper::default();
        let sink = StdoutSink::to(paper.clone());
        let body = |n: usize| format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(n * 10));
        let calls = (0..200).map(|n| sink.clone().oneshot(message(body(n))));
        for result in join_all(calls).await {
            result.expect("written");
        }
        let text = paper.flushed_text();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let mut expected: Vec<String> = (0..200).map(body).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected);
        // The runtime lets the writer in every 128 calls or so; one by one there would be 200 flushes.
        let flushes = paper.sheet().flushes;
        assert!(flushes < 20, "{flushes} flushes");
    }

    #[tokio::test]
    async fn json_with_line_breaks_becomes_one_line_of_the_same_value() {
        let paper = Paper::default();
        let sink = StdoutSink::to(paper.clone());
        let body = "{\r\n  \"a\\n\" : [1,\n2]\n}";
        sink.oneshot(message(body)).await.expect("written");
        let text = paper.flushed_text();
        assert_eq!(text, "{    \"a\\n\" : [1, 2] }\n");
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(parse(&text), parse(body));
    }

    #[tokio::test]
    async fn other_bodies_with_line_breaks_are_invalid() {
        let paper = Paper::default();
        let sink = StdoutSink::to(paper.clone());
        for breaks in ["a\nb", "a\rb"] {
            let mut text = message(breaks);
            text.headers[0].1 = "text/plain; charset=utf-8".to_owned();
            let error = sink.clone().oneshot(text).await.expect_err("two lines");
            assert_eq!(error.meaning(), Meaning::Invalid);
            assert_eq!(
                error.to_string(),
                "the body has a line break at byte 1, and standard output takes one event per line; use format = \"json\""
            );
        }
        let mut text = message("plain text");
        text.headers.clear();
        sink.oneshot(text).await.expect("written");
        assert_eq!(paper.flushed_text(), "plain text\n");
    }

    #[tokio::test]
    async fn a_closed_pipe_is_an_outage() {
        let (pipe, reader) = duplex(64);
        let sink = StdoutSink::to(pipe);
        drop(reader);
        for _ in 0..2 {
            let error = sink
                .clone()
                .oneshot(message("{}"))
                .await
                .expect_err("closed");
            assert_eq!(error.meaning(), Meaning::Unavailable);
            assert!(
                error
                    .chain()
                    .starts_with("writing to standard output failed: ")
            );
        }
    }

    #[tokio::test]
    async fn a_torn_line_does_not_swallow_the_next() {
        let paper = Paper::default();
        let sink = StdoutSink::to(paper.clone());
        paper.sheet().room = Some(4);
        let error = sink.clone().oneshot(message("{\"a\":1}")).await;
        assert_eq!(error.expect_err("full").meaning(), Meaning::Unavailable);
        sink.clone()
            .oneshot(message("{\"a\":1}"))
            .await
            .expect("written");
        sink.oneshot(message("{\"b\":2}")).await.expect("written");
        assert_eq!(paper.flushed_text(), "{\"a\"\n{\"a\":1}\n{\"b\":2}\n");
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_nobody_waits_for_are_not_written() {
        let (pipe, mut reader) = duplex(4);
        let sink = StdoutSink::to(pipe);
        let patience = std::time::Duration::from_secs(1);
        // The first blocks in the pipe; the second gives up in the queue behind it.
        let first = tokio::spawn(sink.clone().oneshot(message("{\"a\":1}")));
        assert_eq!(reader.read_u8().await.expect("the first"), b'{');
        let second = tokio::time::timeout(patience, sink.clone().oneshot(message("{\"b\":2}")));
        assert!(second.await.is_err());
        let third = tokio::spawn(sink.oneshot(message("{\"c\":3}")));
        let mut text = String::new();
        reader
            .read_to_string(&mut text)
            .await
            .expect("until the writer ends");
        assert_eq!(text, "\"a\":1}\n{\"c\":3}\n");
        for call in [first, third] {
            call.await.expect("no panic").expect("written");
        }
    }

    #[tokio::test]
    async fn a_batch_larger_than_a_chunk_is_written_whole() {
        let paper = Paper::default();
        let sink = StdoutSink::to(paper.clone());
        let body = "x".repeat(CHUNK);
        let calls = (0..3).map(|_| sink.clone().oneshot(message(body.clone())));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert_eq!(paper.flushed_text(), format!("{body}\n").repeat(3));
    }
}
