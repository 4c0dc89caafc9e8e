// Elements. Data goes into text and attributes only, never into markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? '' : value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Touches the document only if something changes, so that a screen reader or a selection isn't disturbed.
export function setText(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// A word with a sign in front of it, so that colour is not all that tells.
export function setState(node, state, word) {
  setAttribute(node, 'data-state', state);
  setText(node, word);
}

// One child for each item, in their order. Children stay for as long as their items do, and the focus with them.
export function keyed(parent, items, keyOf, create, update) {
  const present = new Map();
  for (const child of parent.children) present.set(child.dataset.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = present.get(key);
    if (child === undefined) {
      child = create(item);
      child.dataset.key = key;
    } else {
      present.delete(key);
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update?.(child, item);
  }
  for (const child of present.values()) child.remove();
}
