// What has happened lately.

import { el, keyed, setState, setText } from './dom.js';
import { clock, span } from './format.js';

const STATES = { info: 'good', warning: 'warn', error: 'bad' };

export function showRecent(list, entries) {
  // What happens again moves up.
  const newest = entries.toSorted((one, other) => Date.parse(other.at) - Date.parse(one.at));
  const shown = newest.length > 0 ? newest : [{ since: '', at: '', severity: 'info', subject: '', text: 'nothing yet' }];
  keyed(list, shown, (entry) => JSON.stringify([entry.since, entry.subject, entry.text]), () => el('li', {},
    el('time'), el('span', { class: 'state' }), el('strong'), el('span', { class: 'text' })), update);
}

function update(item, entry) {
  const [time, state, subject, text] = item.children;
  if (entry.at !== '') {
    time.dateTime = entry.at;
    setText(time, clock(entry.at));
  }
  setState(state, STATES[entry.severity] ?? 'unknown', entry.severity);
  setText(subject, entry.subject);
  const lasted = (Date.parse(entry.at) - Date.parse(entry.since)) / 1000;
  const times = entry.times > 1 ? ` (${entry.times} times${lasted >= 1 ? ` in ${span(lasted)}` : ''})` : '';
  setText(text, entry.text + times);
}
