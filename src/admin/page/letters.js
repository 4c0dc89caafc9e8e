// Dead letters: the list, and what the token allows to do with them.

import { byId, el, keyed, setText } from './dom.js';
import { clock, count, plural } from './format.js';

// Kept for as long as the tab is open.
const KEY = 'outbox-relay token';

// Letters of a sink that are shown until all are asked for.
const SHORT = 8;

// How old the list may get where nobody tells of its changes: a source that is not active here has no count of letters.
const STALE = 10000;

// A click on "Discard" that is not followed by another within this is taken back.
const DOUBT = 5000;

export class Letters {
  #announce;
  #access = null;
  #sources = [];
  #total = null;
  #listed = new Map();
  #asked = 0;
  #loadedAt = 0;
  #isAccepted = false;
  #isExtended = false;

  constructor(announce) {
    this.#announce = announce;
    byId('token-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#setToken(byId('token').value.trim());
    });
    byId('forget').addEventListener('click', () => {
      this.#setToken('');
      byId('token').focus();
    });
  }

  greet(hello) {
    this.#access = hello;
    this.#sources = hello.picture.sources.map((source) => source.source);
    byId('token-form').hidden = !hello.actions;
    this.#showAccess();
    this.#load();
  }

  show(snapshot) {
    const counts = snapshot.pipelines.map((pipeline) => pipeline.dead_letters ?? 0);
    const total = counts.reduce((sum, more) => sum + more, 0);
    setText(byId('letters-count'), snapshot.pipelines.length === 0 ? '' : count(total));
    const isUntold = !this.#isExtended && snapshot.sources.some((source) => source.state !== 'active');
    if (total !== this.#total || (isUntold && Date.now() - this.#loadedAt > STALE)) {
      this.#total = total;
      this.#load();
    }
  }

  get #token() {
    return sessionStorage.getItem(KEY) ?? '';
  }

  #setToken(token) {
    if (token === '') sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
    byId('token').value = '';
    this.#isAccepted = false;
    this.#say('');
    this.#showAccess();
    this.#load();
  }

  // One that is refused is not kept. The focus doesn't stay on what is hidden.
  #judge(isAccepted) {
    if (!isAccepted) sessionStorage.removeItem(KEY);
    const hadFocus = document.activeElement === byId('token');
    this.#isAccepted = isAccepted;
    this.#showAccess();
    if (isAccepted && hadFocus) byId('letters-title').focus();
  }

  #showAccess() {
    const { actions, letters_open: isOpen } = this.#access;
    const how = 'To retry or discard them here, set [admin] token in the configuration and restart the relay. '
      + 'The command line does it at any time: outbox-relay dead-letters retry --help';
    const closed = 'Without a token they are shown on an address of this machine only. ';
    const ask = 'The token of [admin] token shows them, and lets you retry and discard them.';
    const have = 'You may retry and discard them: the token is kept until this tab is closed.';
    const text = !actions ? (isOpen ? '' : closed) + how : this.#isAccepted ? have : ask;
    setText(byId('letters-access'), text);
    for (const node of byId('token-form').children) node.hidden = (node.id === 'forget') !== this.#isAccepted;
  }

  #say(text, isBad = false) {
    const line = byId('letters-said');
    setText(line, text);
    line.classList.toggle('bad', isBad);
  }

  async #ask(path, body) {
    const token = this.#token;
    const headers = token === '' ? {} : { Authorization: `Bearer ${token}` };
    const request = body === undefined ? { headers } : {
      method: 'POST', headers: { ...headers, 'Content-Type': 'application/json' }, body: JSON.stringify(body),
    };
    const response = await fetch(path, request);
    if (token !== '' && token === this.#token) this.#judge(response.status !== 401);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }

  // The first of each source, oldest first; what is asked later wins.
  async #load() {
    if (this.#access === null) return;
    const asked = ++this.#asked;
    this.#loadedAt = Date.now();
    this.#isExtended = false;
    if (!this.#access.letters_open && this.#token === '') {
      this.#listed = new Map();
      this.#draw();
      return;
    }
    const pages = new Map();
    const complaints = [];
    for (const source of this.#sources) {
      try {
        pages.set(source, await this.#ask(`dead-letters/${encodeURIComponent(source)}`));
      } catch (error) {
        complaints.push(`source ${source}: ${error.message}`);
        if (!this.#access.letters_open && this.#token === '') break;
      }
    }
    if (asked !== this.#asked) return;
    setText(byId('letters-trouble'), complaints.join(' · '));
    this.#listed = pages;
    this.#draw();
  }

  async #more(source) {
    const listed = this.#listed.get(source);
    try {
      const page = await this.#ask(`dead-letters/${encodeURIComponent(source)}?after=${listed.next_after}`);
      listed.dead_letters.push(...page.dead_letters);
      listed.next_after = page.next_after;
      this.#isExtended = true;
      this.#draw();
    } catch (error) {
      this.#say(error.message, true);
    }
  }

  async #act(what, source, sink, ids) {
    if (this.#token === '') {
      this.#say('Enter the token first.', true);
      byId('token').focus();
      return;
    }
    try {
      const { done, gone } = await this.#ask(`dead-letters/${encodeURIComponent(source)}/${what}`, { sink, ids });
      const did = what === 'retry' ? `to be delivered again to ${sink}` : 'discarded';
      const stay = gone > 0 ? `; ${count(gone)} stay, for their rows are no longer in the outbox table` : '';
      this.#say(`${plural(done, 'dead letter', 'dead letters')} ${did}${stay}.`);
      const listed = this.#listed.get(source);
      listed.dead_letters = listed.dead_letters.filter((letter) => letter.sink !== sink || !ids.includes(letter.id));
      byId('letters-title').scrollIntoView({ block: 'nearest' });
      await this.#load();
    } catch (error) {
      this.#say(`${what === 'retry' ? 'Not retried' : 'Not discarded'}: ${error.message}`, true);
    }
  }

  #draw() {
    const groups = [];
    for (const [source, page] of this.#listed) {
      const sinks = Map.groupBy(page.dead_letters, (letter) => letter.sink);
      for (const [sink, letters] of sinks) groups.push({ source, sink, letters });
      if (page.next_after !== null) groups.push({ source, more: true });
    }
    keyed(byId('letters'), groups, (group) => JSON.stringify([group.source, group.sink ?? null]),
      (group) => (group.more ? this.#moreButton(group.source) : this.#group(group)),
      (node, group) => { if (!group.more) this.#updateGroup(node, group); });
  }

  #moreButton(source) {
    return el('p', {}, el('button', { type: 'button', on: { click: () => this.#more(source) } },
      `More of source ${source}`));
  }

  #group({ source, sink }) {
    const ids = (node) => [...node.closest('.group').querySelectorAll('li')].map((item) => Number(item.dataset.key));
    const all = `all listed of sink ${sink}`;
    const actions = el('span', { class: 'actions' },
      el('button', { type: 'button', 'aria-label': `Retry ${all}`,
        on: { click: (e) => this.#act('retry', source, sink, ids(e.target)) } }, 'Retry all listed'),
      discardButton('Discard all listed', (button) => this.#act('discard', source, sink, ids(button)), `Discard ${all}`));
    return el('div', { class: 'group', role: 'group', 'aria-label': `dead letters of sink ${sink}, source ${source}` },
      el('h3', {}, el('span', { class: 'what' }, 'sink '), sink, ' ',
        el('small', {}, `source ${source}`), ' ', this.#access.actions ? actions : null),
      el('ol', { class: 'letters short' }),
      el('button', { type: 'button', class: 'all', hidden: true, on: { click: ({ target }) => {
        target.previousElementSibling.classList.remove('short');
        target.hidden = true;
      } } }));
  }

  #updateGroup(group, { source, sink, letters }) {
    const button = group.querySelector('button.all');
    const isShort = group.querySelector('ol').classList.contains('short');
    button.hidden = !isShort || letters.length <= SHORT;
    setText(button, `Show all ${count(letters.length)}`);
    keyed(group.querySelector('ol'), letters, (letter) => String(letter.id), (letter) => {
      const key = letter.aggregate_id === null ? 'no key' : `key ${letter.aggregate_id}`;
      const attempts = plural(letter.attempts, 'attempt', 'attempts');
      const actions = el('span', { class: 'actions' },
        el('button', { type: 'button', 'aria-label': `Retry ${letter.id}`,
          on: { click: () => this.#act('retry', source, sink, [letter.id]) } }, 'Retry'),
        discardButton('Discard', () => this.#act('discard', source, sink, [letter.id]), `Discard ${letter.id}`));
      return el('li', { value: letter.id },
        el('span', { class: 'letter' }, el('strong', {}, letter.event_type), ' ',
          el('small', {}, `#${letter.id} · seq ${letter.seq} · ${key} · ${attempts} · `,
            el('time', { datetime: letter.dead_at }, clock(letter.dead_at)))),
        el('span', { class: 'reason' }, letter.reason),
        this.#access.actions ? actions : null);
    });
  }
}

// Asks once more before it acts.
function discardButton(label, act, name = label) {
  let timer = null;
  const calm = (button) => {
    clearTimeout(timer);
    timer = null;
    setText(button, label);
    button.classList.remove('danger');
    button.setAttribute('aria-label', name);
  };
  return el('button', { type: 'button', 'aria-label': name, on: {
    click: ({ currentTarget: button }) => {
      if (timer !== null) {
        calm(button);
        act(button);
        return;
      }
      setText(button, 'For good?');
      button.classList.add('danger');
      button.setAttribute('aria-label', `${name}: press again to discard for good`);
      timer = setTimeout(calm, DOUBT, button);
    },
    blur: ({ currentTarget: button }) => calm(button),
  } }, label);
}
