// Numbers, spans and times as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

export const NOTHING = '–';

export const count = (n) => (n === null || n === undefined ? NOTHING : whole.format(n));

export const rate = (perSecond) => (perSecond < 10 ? tenth : whole).format(perSecond);

// A latency.
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds < 0.0995) return `${tenth.format(seconds * 1000)} ms`;
  if (seconds < 0.9995) return `${whole.format(seconds * 1000)} ms`;
  return seconds < 60 ? `${tenth.format(seconds)} s` : span(seconds);
}

// An age, in its two greatest units.
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const units = [[86400, 'd'], [3600, 'h'], [60, 'm'], [1, 's']];
  const full = Math.max(0, Math.floor(seconds));
  const first = units.findIndex(([unit]) => full >= unit);
  if (first < 0) return '0 s';
  const [unit, name] = units[first];
  const greatest = `${Math.floor(full / unit)} ${name}`;
  const next = units[first + 1];
  if (next === undefined) return greatest;
  return `${greatest} ${Math.floor((full % unit) / next[0])} ${next[1]}`;
}

export const since = (time) => span((Date.now() - Date.parse(time)) / 1000);

export function clock(time) {
  const date = new Date(time);
  const today = new Date().toDateString() === date.toDateString();
  const hours = date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
  return today ? hours : `${date.toLocaleDateString([], { month: 'short', day: 'numeric' })} ${hours}`;
}

export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
