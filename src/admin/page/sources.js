// Sources and, for each, its sinks with their curves.

import { el, keyed, setAttribute, setState, setText, svg } from './dom.js';
import { NOTHING, count, latency, plural, rate, since, span } from './format.js';

// As many points as the relay keeps.
const POINTS = 120;
const WIDTH = 120;
const HEIGHT = 26;

const COLUMNS = [
  ['state', 'State'], ['rate', 'Events/s'], ['latency', 'Latency p50 · p99'], ['pending', 'Pending'],
  ['oldest', 'Oldest'], ['in_flight', 'In flight'], ['parked', 'Parked'], ['retries', 'Retries'],
  ['holes', 'Holes'], ['dead', 'Dead letters'],
];

export const SOURCE_STATES = { active: 'good', standby: 'idle', connecting: 'unknown', halted: 'bad' };
const SINK_STATES = { connected: 'good', connecting: 'unknown', away: 'bad' };

const nameOf = (pipeline) => JSON.stringify([pipeline.source, pipeline.sink]);

export const sinkState = (pipeline) => {
  if (pipeline.sink_state === 'connected' && pipeline.busy > 0) return ['warn', 'partly full'];
  return [SINK_STATES[pipeline.sink_state] ?? 'unknown', pipeline.sink_state];
};

export class Sources {
  #root;
  #curves = new Map();
  #kinds = new Map();

  constructor(root) {
    this.#root = root;
  }

  // What was seen before this page was opened, without the newest point, which comes with the next snapshot.
  greet(hello) {
    this.#curves = new Map(hello.curves.map((curve) => [nameOf(curve), curve.points.slice(0, -1)]));
    this.#kinds = new Map([
      ...hello.picture.sources.map((source) => [`source ${source.source}`, source.kind]),
      ...hello.picture.sinks.map((sink) => [`sink ${sink.sink}`, sink.kind]),
    ]);
  }

  show(snapshot) {
    const names = new Set(snapshot.curves.map(nameOf));
    for (const name of this.#curves.keys()) if (!names.has(name)) this.#curves.delete(name);
    for (const curve of snapshot.curves) {
      const points = this.#curves.get(nameOf(curve)) ?? [];
      if (curve.points !== null) points.push(curve.points);
      if (points.length > POINTS) points.shift();
      this.#curves.set(nameOf(curve), points);
    }
    keyed(this.#root, snapshot.sources, (source) => source.source, (source) => this.#create(source),
      (section, source) => this.#update(section, source, snapshot));
  }

  #create(source) {
    const id = `source-${source.source}`;
    const head = el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' },
      el('th', { scope: 'col', role: 'columnheader' }, 'Sink'),
      ...COLUMNS.map(([field, label]) => el('th', { scope: 'col', role: 'columnheader', class: field }, label))));
    return el('section', { class: 'source', 'aria-labelledby': id },
      el('h2', { id }, el('span', { class: 'what' }, 'source '), source.source, ' ',
        el('small', { class: 'kind' }), ' ', el('span', { class: 'state', 'data-field': 'state' })),
      el('p', { class: 'reason', 'data-field': 'reason', hidden: true }),
      el('p', { class: 'facts', 'data-field': 'lease' }),
      el('p', { class: 'facts warn', 'data-field': 'holes', hidden: true }),
      el('div', { class: 'scroll' }, el('table', { class: 'sinks', role: 'table', 'aria-labelledby': id }, head)));
  }

  #update(section, source, snapshot) {
    const field = (name) => section.querySelector(`[data-field="${name}"]`);
    const pipelines = snapshot.pipelines.filter((pipeline) => pipeline.source === source.source);
    const owner = snapshot.owners[source.source];
    setText(section.querySelector('.kind'), this.#kinds.get(`source ${source.source}`) ?? '');
    setState(field('state'), SOURCE_STATES[source.state] ?? 'unknown', source.state);
    const reasons = [source.reason, source.doorbell_error && `polled, for ${source.doorbell_error}`,
      ...new Set(pipelines.map((pipeline) => pipeline.source_error))].filter(Boolean);
    showLine(field('reason'), reasons.join(' · '));
    setText(field('lease'), lease(source, owner));
    setAttribute(field('lease'), 'title', owner?.lease_owner ?? null);
    const holes = Math.max(0, ...pipelines.map((pipeline) => pipeline.holes ?? 0));
    showLine(field('holes'), holes === 0 ? '' : `${plural(holes, 'hole', 'holes')}: ${holders(owner)}`);
    const table = section.querySelector('table');
    table.hidden = pipelines.length === 0;
    this.#showSinks(table, pipelines);
  }

  #showSinks(table, pipelines) {
    let bodies = table.querySelectorAll('tbody');
    const present = new Map([...bodies].map((body) => [body.dataset.sink, body]));
    for (const pipeline of pipelines) {
      const body = present.get(pipeline.sink) ?? this.#createSink(pipeline);
      present.delete(pipeline.sink);
      if (body.parentNode !== table) table.append(body);
      this.#updateSink(body, pipeline);
    }
    for (const body of present.values()) body.remove();
  }

  #createSink(pipeline) {
    const cells = COLUMNS.map(([field, label]) => {
      const value = el('span', { class: 'value', 'data-field': field });
      const cell = el('td', { role: 'cell', class: field, 'data-label': label });
      if (field === 'state') value.classList.add('state');
      if (field === 'rate') cell.append(sparkline(['area', 'main']));
      if (field === 'latency') cell.append(sparkline(['second', 'main']));
      cell.append(value);
      return cell;
    });
    const name = el('th', { scope: 'row', role: 'rowheader' }, el('span', { class: 'name' }, pipeline.sink), ' ',
      el('small', { class: 'kind' }));
    return el('tbody', { role: 'rowgroup', 'data-sink': pipeline.sink },
      el('tr', { role: 'row' }, name, ...cells),
      el('tr', { role: 'row', class: 'detail', hidden: true },
        el('td', { role: 'cell', colspan: COLUMNS.length + 1, 'data-field': 'detail' })));
  }

  #updateSink(body, pipeline) {
    const points = this.#curves.get(nameOf(pipeline)) ?? [];
    const last = points.at(-1) ?? { rate: 0, p50: null, p99: null };
    const field = (name) => body.querySelector(`[data-field="${name}"]`);
    const set = (name, text, isBad = false) => {
      setText(field(name), text);
      field(name).classList.toggle('bad', isBad);
    };
    setText(body.querySelector('.kind'), this.#kinds.get(`sink ${pipeline.sink}`) ?? '');
    setState(field('state'), ...sinkState(pipeline));
    set('rate', rate(last.rate));
    const recent = points.findLast((point) => point.p50 !== null);
    set('latency', recent === undefined ? NOTHING : `${latency(recent.p50)} · ${latency(recent.p99)}`);
    field('latency').classList.toggle('old', last.p50 === null);
    set('pending', count(pipeline.pending));
    set('oldest', span(pipeline.oldest_pending_seconds), pipeline.oldest_pending_seconds > 60);
    set('in_flight', count(pipeline.in_flight));
    set('parked', count(pipeline.parked));
    set('retries', count(pipeline.retries));
    set('holes', count(pipeline.holes));
    set('dead', count(pipeline.dead_letters), pipeline.dead_letters > 0);
    draw(body.querySelector('td.rate svg'), points, { main: (p) => p.rate, area: (p) => p.rate });
    draw(body.querySelector('td.latency svg'), points, { main: (p) => p.p50, second: (p) => p.p99 });
    const detail = details(pipeline).join(' · ');
    setText(field('detail'), detail);
    body.querySelector('tr.detail').hidden = detail === '';
  }
}

function showLine(node, text) {
  setText(node, text);
  node.hidden = text === '';
}

// The process and enough of what follows to tell it from another: the whole is in the title.
const short = (owner) => owner.replace(/^(.{4,}-.{8}).+$/, '$1…');

function lease(source, owner) {
  const others = 'another relay delivers, its own page has the figures';
  if (owner === undefined || owner.lease_owner === null) return source.state === 'standby' ? others : '';
  if (!owner.lease_held) return `lease: nobody, last held by ${short(owner.lease_owner)}`;
  const whose = source.state === 'active' ? ', this process' : source.state === 'standby' ? `: ${others}` : '';
  return `lease: held by ${short(owner.lease_owner)}${whose}`;
}

function holders(owner) {
  const open = owner?.open_transactions ?? [];
  if (open.length === 0) return 'no transaction is open on the table, so they are about to be closed';
  const held = open.map(({ who, seconds }) => (seconds === null ? who : `${who} for ${span(seconds)}`));
  return `may be held by ${held.join(', ')}`;
}

function details(pipeline) {
  const lines = [];
  if (pipeline.sink_error !== null) {
    lines.push(`away for ${since(pipeline.away_since)}: ${pipeline.sink_error}`);
  }
  if (pipeline.busy > 0) {
    const waiting = plural(pipeline.busy, 'event waits', 'events wait');
    const blocks = pipeline.busy_blocks_reading ? ', and nothing more is read' : '';
    lines.push(`${waiting} for a full destination for ${since(pipeline.busy_since)}${blocks}: ${pipeline.busy_error}`);
  }
  if (pipeline.overdue_since) lines.push(`an acknowledgement is overdue for ${since(pipeline.overdue_since)}`);
  if (pipeline.heartbeat_seconds > 10) lines.push(`no sign of life for ${span(pipeline.heartbeat_seconds)}`);
  return lines;
}

// The figures beside it say the same in words.
function sparkline(lines) {
  const paths = lines.map((name) => svg('path', { class: name, d: '' }));
  return svg('svg', {
    class: 'curve', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  }, svg('path', { class: 'ground', d: `M0 ${HEIGHT - 1}H${WIDTH}` }), ...paths);
}

function draw(chart, points, lines) {
  const values = Object.values(lines).flatMap((of) => points.map(of)).filter((value) => value !== null);
  const top = Math.max(...values, Number.MIN_VALUE);
  const x = (index) => (WIDTH - 1) * (1 - (points.length - 1 - index) / (POINTS - 1));
  const y = (value) => HEIGHT - 2 - (HEIGHT - 4) * (value / top);
  for (const [name, of] of Object.entries(lines)) {
    setAttribute(chart.querySelector(`.${name}`), 'd', name === 'area' ? area(points, of, x, y) : line(points, of, x, y));
  }
}

// Seconds without an event leave a gap.
function line(points, of, x, y) {
  let path = '';
  let isDown = false;
  points.forEach((point, index) => {
    const value = of(point);
    if (value === null) {
      isDown = false;
      return;
    }
    const place = `${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    // A point between two gaps is a dot: round line ends show it.
    path += isDown ? `L${place}` : `M${place}h.01`;
    isDown = true;
  });
  return path;
}

function area(points, of, x, y) {
  if (points.length === 0) return '';
  const middle = points.map((point, index) => `L${x(index).toFixed(1)} ${y(of(point)).toFixed(1)}`).join('');
  return `M${x(0).toFixed(1)} ${HEIGHT}${middle}L${x(points.length - 1).toFixed(1)} ${HEIGHT}Z`;
}
