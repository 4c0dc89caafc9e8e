//! The verdict on a run: is every event there, in order per key, and how many came more than once?

use std::collections::{HashMap, HashSet};

use crate::Result;

/// An event as its payload names it: the key, and its place among those of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) key: u64,
    pub(crate) counter: u64,
}

impl Name {
    /// The beginning of a payload.
    pub(crate) fn payload(self, size: usize) -> String {
        let Self { key, counter } = self;
        let mut payload = format!(r#"{{"key":{key},"counter":{counter},"pad":""#);
        let padding = size.saturating_sub(payload.len() + 2);
        payload.extend(std::iter::repeat_n('x', padding));
        payload.push_str(r#""}"#);
        payload
    }

    /// What a body holds, as an envelope or alone.
    pub(crate) fn of(body: &[u8]) -> Result<Self> {
        let at = body
            .windows(KEY.len())
            .position(|window| window == KEY)
            .ok_or("a message that is no event of this benchmark")?;
        let (key, rest) = number(&body[at + KEY.len()..]);
        let rest = rest
            .strip_prefix(COUNTER)
            .ok_or("a payload was changed on its way")?;
        let (counter, _) = number(rest);
        Ok(Self { key, counter })
    }
}

const KEY: &[u8] = br#"{"key":"#;
const COUNTER: &[u8] = br#","counter":"#;

fn number(text: &[u8]) -> (u64, &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value, rest)
}

/// Takes deliveries in their order.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    next: HashMap<u64, u64>,
    /// Overtaken by a successor, and not there yet.
    missing: HashSet<Name>,
    distinct: u64,
    duplicates: u64,
    disordered: Option<Name>,
}

impl Checker {
    /// Whether this is the event's first delivery.
    pub(crate) fn take(&mut self, name: Name) -> bool {
        let next = self.next.entry(name.key).or_default();
        if name.counter >= *next {
            if name.counter > *next {
                let key = name.key;
                let overtaken = (*next..name.counter).map(|counter| Name { key, counter });
                self.missing.extend(overtaken);
                self.disordered.get_or_insert(name);
            }
            *next = name.counter + 1;
        } else if !self.missing.remove(&name) {
            self.duplicates += 1;
            return false;
        }
        self.distinct += 1;
        true
    }

    /// Events that came at least once.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// How many were delivered again; an error if one is missing or came before its predecessor.
    pub(crate) fn verdict(&self, expected: u64) -> Result<u64> {
        if let Some(name) = self.disordered {
            return Err(format!("{name:?} came before its predecessor").into());
        }
        if self.distinct != expected {
            return Err(format!("{} of {expected} events came", self.distinct).into());
        }
        Ok(self.duplicates)
    }
}
