/** Small helpers; texts from the daemon only ever become text nodes. */
export const find = (id) => document.getElementById(id);

/** element("td", { class: "name" }, "text", child). */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function bytesText(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  if (bytes >= 1e6) return `${Math.round(bytes / 1e6)} MB`;
  return `${Math.round(bytes / 1e3)} kB`;
}

export function millisecondsText(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** "blueprint" of "style/blueprint.safetensors"; digests are cut. */
export function shortName(name) {
  if (name.startsWith("sha256:")) return name.slice(7, 15);
  return name.replace(/^.*[\\/]/, "").replace(/\.safetensors$/, "");
}

export function strengthText(strength) {
  return String(Math.round(strength * 100) / 100);
}

/** Replaces a table's rows without touching those that stay the same, so that focus is kept. */
export function updateRows(body, items, { key, render }) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const rows = items.map((item) => {
    const id = key(item);
    const state = JSON.stringify(item);
    const old = known.get(id);
    if (old?.dataset.state === state) return old;
    const row = render(item);
    row.dataset.key = id;
    row.dataset.state = state;
    if (old?.contains(document.activeElement)) {
      const label = document.activeElement.dataset.action;
      queueMicrotask(() => row.querySelector(`[data-action="${label}"]`)?.focus());
    }
    return row;
  });
  if (rows.length !== body.children.length || rows.some((row, at) => row !== body.children[at])) {
    body.replaceChildren(...rows);
  }
}
