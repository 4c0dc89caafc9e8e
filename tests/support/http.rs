//! One HTTP request: all that the endpoints under test need, and the driver of a browser.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's status, head and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// By 1.0 an answer comes whole, and never in chunks.
    pub(crate) version: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a str,
    /// How long the answer may take.
    pub(crate) within: Duration,
}

impl<'a> Request<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            version: "1.0",
            path,
            headers: &[],
            body: "",
            within: Duration::from_secs(2),
        }
    }

    /// Asks a port of 127.0.0.1. `None` if nobody answers in time.
    pub(crate) async fn send(self, port: u16) -> Option<Answer> {
        tokio::time::timeout(self.within, self.exchange(port))
            .await
            .ok()?
            .ok()
            .and_then(Answer::parse)
    }

    async fn exchange(self, port: u16) -> std::io::Result<Vec<u8>> {
        let Self {
            method,
            version,
            path,
            headers,
            body,
            ..
        } = self;
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut request = format!(
            "{method} {path} HTTP/{version}\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        connection
            .write_all(format!("{request}\r\n{body}").as_bytes())
            .await?;
        let mut answer = Vec::new();
        // Not every server closes a connection that it could keep.
        while !is_whole(&answer) && connection.read_buf(&mut answer).await? > 0 {}
        Ok(answer)
    }
}

/// Whether there is as much as the answer's head announces.
fn is_whole(answer: &[u8]) -> bool {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

impl Answer {
    fn parse(answer: Vec<u8>) -> Option<Self> {
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some(Self {
            status: head.split(' ').nth(1)?.parse().ok()?,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }
}

/// Gets `path` from a port of 127.0.0.1. `None` if nobody answers within two seconds.
pub(crate) async fn get(port: u16, path: &str) -> Option<Answer> {
    Request::get(path).send(port).await
}
