/** Models, clients and errors, and the buttons that act on models. */
import {
  bytesText,
  element,
  find,
  millisecondsText,
  shortName,
  strengthText,
  updateRows,
} from "./dom.js";
import { colorOf, sessionName } from "./palette.js";

const ERRORS_MAX = 50;
/** What each file holds, asked once: family and type do not change. */
const facts = new Map();
let daemon;
let say = () => undefined;

export function initTables(connection, announce) {
  daemon = connection;
  say = announce;
  find("preload-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void act("preload", find("preload-model").value);
  });
}

const DONE = {
  preload: "is loaded",
  unload: "is unloaded",
  pin: "is pinned",
  unpin: "is not pinned any more",
};

async function act(op, model) {
  if (model === "") return;
  say(`${shortName(model)}: ${op} …`);
  try {
    await daemon.request(op, { model });
    say(`${shortName(model)} ${DONE[op]}.`);
  } catch (error) {
    say(`${shortName(model)}: ${error.message} (${error.code})`);
  }
}

export function offerModels(models) {
  const select = find("preload-model");
  const chosen = select.value;
  const free = models.filter(({ isLoaded }) => !isLoaded);
  select.replaceChildren(
    ...free.map(({ id, bytes }) => element("option", { value: id }, `${id} (${bytesText(bytes)})`)),
  );
  if (free.some(({ id }) => id === chosen)) select.value = chosen;
  find("preload-form").hidden = free.length === 0;
}

export function showModels(models) {
  const loaded = models.filter(({ copies }) => copies > 0);
  for (const { id } of loaded) if (!facts.has(id)) void learn(id);
  const items = loaded.map((model) => ({ ...model, ...facts.get(model.id) }));
  find("models-empty").hidden = items.length > 0;
  find("models-box").hidden = items.length === 0;
  updateRows(find("models"), items, { key: ({ id }) => id, render: modelRow });
}

async function learn(id) {
  facts.set(id, {});
  try {
    const { model } = await daemon.request("register_model_by_path", { name: id });
    facts.set(id, { family: model.family, dtype: model.dtype });
  } catch {
    facts.delete(id);
  }
}

function modelRow({ id, family, dtype, bytes, users, components, isPinned }) {
  const button = (op, text) =>
    element(
      "button",
      {
        type: "button",
        "data-action": op,
        "aria-label": `${text} ${id}`,
        click: () => void act(op, id),
      },
      text,
    );
  return element(
    "tr",
    {},
    element(
      "th",
      { scope: "row", title: components.join(", ") },
      shortName(id),
      isPinned ? " 📌" : "",
    ),
    element("td", { class: "minor" }, family ?? "–"),
    element("td", { class: "minor" }, dtype ?? "–"),
    element("td", { class: "number" }, bytesText(bytes)),
    element("td", { class: "number" }, String(users)),
    element(
      "td",
      { class: "buttons" },
      isPinned ? button("unpin", "Unpin") : button("pin", "Pin"),
      button("unload", "Unload"),
    ),
  );
}

/** `speeds`: steps a second by session. */
export function showClients(sessions, speeds) {
  find("clients-empty").hidden = sessions.length > 0;
  find("clients-box").hidden = sessions.length === 0;
  const items = sessions.map(({ id, pending, steps, loras, overheadMs }) => {
    const name = sessionName(id);
    const speed = (speeds.get(id) ?? 0).toFixed(1);
    return { id, name, pending, steps, loras, overheadMs, speed };
  });
  updateRows(find("clients"), items, { key: ({ id }) => id, render: clientRow });
}

function clientRow({ id, name, pending, steps, loras, overheadMs, speed }) {
  const with_ = loras.map(
    ({ name: lora, strength }) => `${shortName(lora)} ${strengthText(strength)}`,
  );
  const overhead = steps === 0 ? "–" : millisecondsText(overheadMs.p50);
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, element("span", { class: `chip c${colorOf(id)}` }), name),
    element("td", { class: "number" }, speed),
    element("td", { class: "number minor" }, String(steps)),
    element("td", { class: "number minor" }, String(pending)),
    element("td", {}, with_.join(", ") || "none"),
    element("td", { class: "number" }, overhead),
  );
}

export function addError({ atMs, code, name, op, message }) {
  const list = find("errors");
  const time = element(
    "time",
    { datetime: new Date(atMs).toISOString() },
    new Date(atMs).toLocaleTimeString(),
  );
  list.prepend(
    element("li", {}, time, " ", element("code", {}, code), ` ${name}, ${op}: ${message}`),
  );
  while (list.children.length > ERRORS_MAX) list.lastElementChild.remove();
  find("errors-empty").hidden = true;
}
