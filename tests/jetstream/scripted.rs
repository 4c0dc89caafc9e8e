//! A server that speaks just enough of the NATS protocol to do what a real one can't be made to do.

use outbox_relay::config::Jetstream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::config::of_url;

/// What the server does with each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing at all.
    Silence,
    /// "No responders", as if there were no JetStream.
    Nobody,
    /// The reply subject may not be used.
    ReplyForbidden,
}

pub(crate) struct ScriptedServer {
    port: u16,
    subjects: watch::Receiver<Vec<String>>,
    _task: AbortOnDropHandle<()>,
}

impl ScriptedServer {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (seen, subjects) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            // The client closes the connection at the end of the test.
            converse(stream, answer, &seen).await.ok();
        });
        let task = AbortOnDropHandle::new(task);
        Self {
            port,
            subjects,
            _task: task,
        }
    }

    pub(crate) fn config(&self) -> Jetstream {
        of_url(format!("nats://127.0.0.1:{}", self.port))
    }

    /// Subjects of all messages that have arrived.
    pub(crate) fn subjects(&self) -> Vec<String> {
        self.subjects.borrow().clone()
    }

    /// Waits until `count` messages have arrived.
    pub(crate) async fn arrived(&mut self, count: usize) {
        let enough = |subjects: &Vec<String>| subjects.len() >= count;
        self.subjects
            .wait_for(enough)
            .await
            .expect("the server lives");
    }
}

async fn converse(
    stream: TcpStream,
    answer: Answer,
    seen: &watch::Sender<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let info =
        r#"INFO {"server_id":"scripted","version":"2.9.10","max_payload":1048576,"headers":true}"#;
    stream.write_all(format!("{info}\r\n").as_bytes()).await?;
    let mut subscriptions: Vec<(String, String)> = Vec::new();
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] => stream.write_all(b"PONG\r\n").await?,
            ["SUB", subject, sid] => {
                subscriptions.push((subject.trim_end_matches('*').to_owned(), (*sid).to_owned()));
            }
            ["PUB" | "HPUB", subject, reply, .., size] => {
                let mut body = vec![0; size.parse::<usize>().expect("a size") + "\r\n".len()];
                stream.read_exact(&mut body).await?;
                seen.send_modify(|subjects| subjects.push((*subject).to_owned()));
                let inbox = subscriptions
                    .iter()
                    .find(|(prefix, _)| reply.starts_with(prefix));
                let text = match (answer, inbox) {
                    (Answer::Nobody, Some((_, sid))) => {
                        format!("HMSG {reply} {sid} 16 16\r\nNATS/1.0 503\r\n\r\n\r\n")
                    }
                    (Answer::ReplyForbidden, Some(_)) => {
                        let violation = "Permissions Violation for Publish with Reply of";
                        format!("-ERR '{violation} \"{reply}\"'\r\n")
                    }
                    _ => String::new(),
                };
                stream.write_all(text.as_bytes()).await?;
            }
            _ => (),
        }
        line.clear();
    }
    Ok(())
}
