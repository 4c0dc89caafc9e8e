// The status page: takes the events of the relay and hands them to the parts.

import { byId, el, keyed, setState, setText } from './dom.js';
import { span } from './format.js';
import { Letters } from './letters.js';
import { showRecent } from './recent.js';
import { Routes } from './routes.js';
import { Sources } from './sources.js';

// Longer than any snapshot takes to come.
const SILENCE = 5000;

// The pause before the next attempt if the relay said no: a browser then gives up by itself.
const AGAIN = 5000;

const sources = new Sources(byId('sources'));
const routes = new Routes(byId('routes'));
const letters = new Letters(announce);

let heardAt = null;
let before = null;
let stream = null;

function announce(text) {
  setText(byId('announcement'), text);
}

function connect() {
  stream = new EventSource('events');
  stream.addEventListener('hello', (event) => {
    const hello = JSON.parse(event.data);
    setText(byId('relay'), hello.picture.relay);
    sources.greet(hello);
    routes.draw(hello.picture);
    letters.greet(hello);
  });
  stream.addEventListener('snapshot', (event) => {
    heardAt = Date.now();
    show(JSON.parse(event.data));
    showLink();
  });
  stream.addEventListener('error', () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN);
    showLink();
  });
}

function show(snapshot) {
  setText(byId('version'), snapshot.version);
  showVerdict(snapshot);
  sources.show(snapshot);
  routes.show(snapshot);
  letters.show(snapshot);
  showRecent(byId('recent'), snapshot.recent);
  tellChanges(snapshot);
  before = snapshot;
}

function showVerdict(snapshot) {
  setState(byId('ready'), snapshot.ready ? 'good' : 'bad', snapshot.ready ? 'ready' : 'not ready');
  document.title = `${snapshot.ready ? '' : '▲ '}${byId('relay').textContent} · outbox-relay`;
  const list = byId('obstacles');
  list.hidden = snapshot.ready;
  const lines = snapshot.obstacles.map((text, index) => ({ text, index }));
  keyed(list, lines, (line) => String(line.index), () => el('li'), (item, line) => setText(item, line.text));
}

// What a person who doesn't see the page would want to hear of.
function tellChanges(now) {
  if (before === null) return;
  const states = (snapshot) => new Map(snapshot.pipelines.map((p) => [`sink ${p.sink}`, p.sink_state])
    .concat(snapshot.sources.map((s) => [`source ${s.source}`, s.state])));
  const earlier = states(before);
  const changes = [...states(now)].filter(([name, state]) => earlier.has(name) && earlier.get(name) !== state);
  const said = changes.map(([name, state]) => `${name} is ${state}`);
  if (now.reload?.at !== before.reload?.at) {
    said.push(now.reload.successful ? 'the configuration was reloaded' : 'the configuration was not reloaded');
  }
  if (said.length > 0) announce(said.join(', '));
}

function showLink() {
  const silent = heardAt === null ? null : Date.now() - heardAt;
  const isLive = stream?.readyState === EventSource.OPEN && silent !== null && silent < SILENCE;
  byId('main').classList.toggle('stale', !isLive && silent !== null);
  if (isLive) setState(byId('live'), 'good', 'live');
  else if (silent === null) setState(byId('live'), 'unknown', 'connecting');
  else setState(byId('live'), 'bad', `no answer for ${span(silent / 1000)}`);
}

setInterval(showLink, 1000);
connect();
