//! What processes have used, as Linux reckons it.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::Result;

/// `/proc` counts in hundredths of a second on every machine that it runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of one process: its own, and that of children that it has waited for.
#[derive(Debug, Clone, Copy)]
struct Times {
    parent: u32,
    own: u64,
    ended: u64,
}

/// Processor time of a process and of all its descendants, those that have ended included.
pub(crate) fn of_tree(root: u32) -> Result<Duration> {
    let all: HashMap<u32, Times> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, times(pid)?)))
        .collect();
    let descends = |mut pid: u32| {
        while pid != root {
            match all.get(&pid) {
                Some(times) => pid = times.parent,
                None => return false,
            }
        }
        true
    };
    let ticks: u64 = all
        .iter()
        .filter(|(pid, _)| descends(**pid))
        .map(|(_, times)| times.own + times.ended)
        .sum();
    Ok(TICK * u32::try_from(ticks)?)
}

/// Processor time of a process alone.
pub(crate) fn of_process(pid: u32) -> Duration {
    let ticks = times(pid).map_or(0, |times| times.own);
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn times(pid: u32) -> Option<Times> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Times {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        ended: number(13)? + number(14)?,
    })
}

/// The most memory that a process has held at a time, in bytes.
pub(crate) fn peak_rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .ok_or("no VmHWM")?
        .parse()?;
    Ok(kib * 1_024)
}
