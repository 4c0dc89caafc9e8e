//! One HTTP request at a time: all that the endpoints under test need.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's status and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Gets `path` from a port of 127.0.0.1. `None` if nobody answers within two seconds.
pub(crate) async fn get(port: u16, path: &str) -> Option<Answer> {
    send(port, &format!("GET {path}"), "").await
}

/// The same of any request: its method and path, and lines of headers that each end with `\r\n`.
pub(crate) async fn send(port: u16, request: &str, headers: &str) -> Option<Answer> {
    let exchange = async {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        // By this version an answer comes whole, and never in chunks.
        let request = format!("{request} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), exchange)
        .await
        .ok()?
        .ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = body.to_owned();
    Some(Answer { status, body })
}
