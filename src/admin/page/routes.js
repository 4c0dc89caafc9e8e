// The routes as a picture: sources on the left, what is routed in the middle, sinks on the right.

import { el, setAttribute, setText, svg } from './dom.js';
import { SOURCE_STATES, sinkState } from './sources.js';

const LINE = 18;
const PAD = 8;
const GAP = 12;
const CHARACTER = 6.7;
const BOLD = 7.3;
const SIGNS = { good: '●', idle: '○', unknown: '◌', warn: '▲', bad: '✖' };

export class Routes {
  #root;
  #picture = null;
  #width = 0;
  #snapshot = null;

  constructor(root) {
    this.#root = root;
    new ResizeObserver(() => {
      const width = Math.floor(root.clientWidth);
      if (width === this.#width) return;
      this.#width = width;
      this.#redraw();
    }).observe(root);
  }

  draw(picture) {
    this.#picture = picture;
    this.#redraw();
  }

  show(snapshot) {
    this.#snapshot = snapshot;
    const worst = new Map();
    const order = ['good', 'warn', 'unknown', 'bad'];
    for (const pipeline of snapshot.pipelines) {
      const [state] = sinkState(pipeline);
      const before = worst.get(pipeline.sink) ?? 'good';
      worst.set(pipeline.sink, order.indexOf(state) > order.indexOf(before) ? state : before);
    }
    const sources = new Map(snapshot.sources.map((source) => [source.source, SOURCE_STATES[source.state] ?? 'unknown']));
    for (const node of this.#root.querySelectorAll('g[data-sink]')) sign(node, worst.get(node.dataset.sink) ?? 'idle');
    for (const node of this.#root.querySelectorAll('g[data-source]')) sign(node, sources.get(node.dataset.source) ?? 'unknown');
  }

  #redraw() {
    if (this.#picture === null || this.#width === 0) return;
    this.#root.replaceChildren(drawing(this.#picture, this.#width), asText(this.#picture));
    if (this.#snapshot !== null) this.show(this.#snapshot);
  }
}

function sign(box, state) {
  setAttribute(box, 'data-state', state);
  setText(box.querySelector('.sign'), SIGNS[state]);
}

// Without routes, every sink has every event of its sources at its default destination.
function rules(picture) {
  const defaults = new Map(picture.sinks.map((sink) => [sink.sink, sink.destination]));
  const line = (sink, destination) => ({ sink, text: destination ?? defaults.get(sink) ?? sink });
  if (picture.unrouted === null) {
    const groups = [...Map.groupBy(picture.sinks, (sink) => [...sink.inputs].sort().join(', '))];
    return groups.map(([inputs, sinks]) => ({
      title: groups.length === 1 ? 'every event' : `all of ${inputs}`,
      lines: sinks.map((sink) => line(sink.sink, sink.destination)),
    }));
  }
  const routed = picture.routes.map((route, index) => ({
    title: `${index + 1}  ${route.event_types.join(', ')}`,
    lines: route.to.map((target) => line(target.sink, target.destination)),
  }));
  const isTotal = picture.routes.some((route) => route.event_types.includes('*'));
  const rest = picture.unrouted === 'skip' ? 'skipped' : 'dead letters';
  return isTotal ? routed : [...routed, { title: `any other: ${rest}`, lines: [] }];
}

function stack(items, heightOf) {
  let y = 0;
  for (const item of items) {
    item.y = y;
    item.height = heightOf(item);
    y += item.height + GAP;
  }
  return Math.max(0, y - GAP);
}

function drawing(picture, width) {
  const isNarrow = width < 560;
  const gutter = isNarrow ? 16 : Math.min(110, width * 0.1);
  const rest = Math.min(width, 1100) - 2 * gutter;
  const widths = isNarrow ? [rest * 0.25, rest * 0.46, rest * 0.29] : [rest * 0.22, rest * 0.52, rest * 0.26];
  const lefts = [0, widths[0] + gutter, widths[0] + widths[1] + 2 * gutter];
  const sources = picture.sources.map((source) => ({ name: source.source, kind: source.kind }));
  const sinks = picture.sinks.map((sink) => ({ name: sink.sink, kind: sink.kind, inputs: sink.inputs }));
  const middle = rules(picture);
  const two = () => 2 * LINE + PAD;
  const columns = [
    [sources, stack(sources, two)],
    [middle, stack(middle, (rule) => (1 + rule.lines.length) * LINE + PAD)],
    [sinks, stack(sinks, two)],
  ];
  const height = Math.max(...columns.map(([, own]) => own)) + 2;
  for (const [items, own] of columns) for (const item of items) item.y += (height - own) / 2;

  const edges = [];
  for (const rule of middle) {
    const inputs = new Set();
    rule.lines.forEach((line, index) => {
      const sink = sinks.find((one) => one.name === line.sink);
      if (sink === undefined) return;
      for (const input of sink.inputs) inputs.add(input);
      const from = rule.y + PAD / 2 + (index + 1.5) * LINE;
      edges.push(edge(lefts[1] + widths[1], from, lefts[2], sink.y + sink.height / 2));
    });
    const all = rule.lines.length === 0;
    for (const source of sources.filter((one) => all || inputs.has(one.name))) {
      edges.push(edge(lefts[0] + widths[0], source.y + source.height / 2, lefts[1], rule.y + PAD / 2 + LINE / 2));
    }
  }
  const boxes = [
    ...sources.map((source) => named(source, lefts[0], widths[0], { 'data-source': source.name })),
    ...middle.map((rule) => ruleBox(rule, lefts[1], widths[1])),
    ...sinks.map((sink) => named(sink, lefts[2], widths[2], { 'data-sink': sink.name })),
  ];
  const whole = lefts[2] + widths[2];
  return svg('svg', {
    class: 'picture', viewBox: `-1 -1 ${whole + 2} ${height + 2}`, width: whole + 2, height: height + 2, role: 'img',
    'aria-label': `${sources.length} sources, ${middle.length} routes, ${sinks.length} sinks; in words below`,
  }, ...edges, ...boxes);
}

function edge(x1, y1, x2, y2) {
  const half = (x1 + x2) / 2;
  return svg('path', { class: 'edge', d: `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}` });
}

function cut(text, width, character = CHARACTER) {
  const room = Math.max(3, Math.floor(width / character));
  return text.length <= room ? text : `${text.slice(0, room - 1)}…`;
}

function named(item, x, width, attributes) {
  return svg('g', { class: 'box', ...attributes },
    svg('title', {}, `${item.name} (${item.kind})`),
    svg('rect', { x, y: item.y, width, height: item.height, rx: 6 }),
    svg('text', { class: 'name', x: x + PAD, y: item.y + LINE - 1 }, cut(item.name, width - 30, BOLD)),
    svg('text', { class: 'small', x: x + PAD, y: item.y + 2 * LINE - 1 }, cut(item.kind, width - 14)),
    svg('text', { class: 'sign', x: x + width - 16, y: item.y + LINE - 1 }, ''));
}

function ruleBox(rule, x, width) {
  const lines = rule.lines.map((line, index) => svg('text', { class: 'small', x: x + PAD, y: rule.y + (index + 2) * LINE - 1 },
    cut(`→ ${line.text}`, width - 14)));
  return svg('g', { class: 'box' },
    svg('title', {}, [rule.title, ...rule.lines.map((line) => `${line.sink}: ${line.text}`)].join('\n')),
    svg('rect', { x, y: rule.y, width, height: rule.height, rx: 6 }),
    svg('text', { class: 'name', x: x + PAD, y: rule.y + LINE - 1 }, cut(rule.title, width - 14, BOLD)), ...lines);
}

function asText(picture) {
  const feeding = picture.sinks.map((sink) => el('li', {}, `${sink.inputs.join(', ')} → ${sink.sink} (${sink.kind})`));
  const routed = rules(picture).map((rule) => {
    const to = rule.lines.map((line) => `${line.sink}: ${line.text}`).join('; ');
    return el('li', {}, to === '' ? rule.title : `${rule.title} → ${to}`);
  });
  return el('details', {}, el('summary', {}, 'In words'),
    el('ul', {}, ...feeding),
    el('p', {}, picture.unrouted === null ? 'There are no routes:' : 'The first route that matches wins:'), el('ul', {}, ...routed));
}
