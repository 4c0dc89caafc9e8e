//! `health`: asks a relay that runs whether it is well, for containers that have no other client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::say;
use crate::config::Config;
use crate::error::BoxError;

/// How long the relay may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// An answer is a few lines; one that is longer is cut off.
const MAX_ANSWER: u64 = 64 * 1024;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Ask /readyz, which names what is in the way, instead of /healthz, which only fails if the process is stuck.
    #[arg(long)]
    ready: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    let Some(admin) = &config.admin else {
        return Err("health: the relay has no endpoints to ask, set admin.listen".into());
    };
    if !admin.health {
        return Err("health: the relay doesn't answer by admin.health = false, take it out".into());
    }
    let address = reachable(admin.listen);
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let answer = tokio::time::timeout(LIMIT, get(address, path)).await;
    let answer = answer
        .map_err(|_| format!("health: http://{address}{path} gave no answer within {LIMIT:?}"))?
        .map_err(|error| {
            format!("health: http://{address}{path} can't be reached, does the relay run? {error}")
        })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("nothing");
    if status != "200" {
        let body = body.trim();
        return Err(format!("health: http://{address}{path} answers {status}: {body}").into());
    }
    Ok(say(body.trim())?)
}

/// Where an address can be reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    // By this version an answer comes whole, and never in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
