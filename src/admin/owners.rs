//! Who has each source, and which open transactions may own its holes: asked of the databases, but only while somebody
//! watches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::config::Config;
use crate::relay;
use crate::source::overview::{OpenTransaction, Ownership};

/// How often the databases are asked: a connection and two short statements each time.
const INTERVAL: Duration = Duration::from_secs(3);

/// How long a database may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// By source; none of those whose database does not answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners(Arc<Mutex<BTreeMap<String, Owner>>>);

#[derive(Debug, Clone, Serialize)]
pub(super) struct Owner {
    /// The process that has the lease, or had it last; null if nobody ever had it.
    lease_owner: Option<String>,
    /// Whether it has the lease now.
    lease_held: bool,
    /// Oldest first.
    open_transactions: Vec<OpenLine>,
}

#[derive(Debug, Clone, Serialize)]
struct OpenLine {
    /// Which backend, and what it calls itself.
    who: String,
    /// Since when; null: this relay's user may not know.
    seconds: Option<i64>,
}

impl Owners {
    pub(super) fn seen(&self) -> BTreeMap<String, Owner> {
        let owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        owners.clone()
    }

    /// Asks for ever, while somebody watches.
    pub(super) async fn run(
        self,
        config: watch::Receiver<Arc<Config>>,
        is_watched: impl Fn() -> bool,
    ) {
        loop {
            let mut seen = BTreeMap::new();
            if is_watched() {
                let config = Arc::clone(&config.borrow());
                let asked = config
                    .sources
                    .keys()
                    .map(async |name| Some((name.clone(), Owner::of(ask(&config, name).await?))));
                let answers = futures::future::join_all(asked).await;
                seen.extend(answers.into_iter().flatten());
            }
            // Nobody is shown what was so when somebody last watched.
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

async fn ask(config: &Config, name: &str) -> Option<Ownership> {
    // Why a database does not answer is told by the source's own state.
    let source = relay::open(config, name).ok()?;
    let answer = tokio::time::timeout(TIMEOUT, source.ownership()).await;
    answer.ok()?.ok()?
}

impl Owner {
    fn of(ownership: Ownership) -> Self {
        let Ownership { at, lease, open } = ownership;
        let line = |transaction: OpenTransaction| OpenLine {
            seconds: transaction
                .began_at
                .map(|began_at| (at - began_at).num_seconds().max(0)),
            who: transaction.to_string(),
        };
        Self {
            lease_held: lease.as_ref().is_some_and(|lease| lease.holds_at(at)),
            lease_owner: lease.map(|lease| lease.owner),
            open_transactions: open.into_iter().map(line).collect(),
        }
    }
}
