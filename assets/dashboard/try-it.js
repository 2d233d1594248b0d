/** Four pictures from four sessions at once: the same noise and prompt, another LoRA in each. */
import { element, find, shortName, strengthText } from "./dom.js";

const TILES = 4;
const tiles = [];
let running;
let token = "";

export function initTryIt(shownToken) {
  token = shownToken;
  for (let index = 0; index < TILES; index++) tiles.push(buildTile(index));
  find("tiles").replaceChildren(...tiles.map(({ node }) => node));
  find("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else void start();
  });
  find("dice").addEventListener("click", () => {
    find("seed").value = String(Math.floor(Math.random() * 2 ** 32));
  });
}

/** Names change when files come and go; what was chosen stays. */
export function offerChoices({ models, loras }) {
  const checkpoints = models
    .map(({ id }) => id)
    .filter((id) => id.startsWith("checkpoints/"))
    .map((id) => id.slice("checkpoints/".length));
  setOptions(
    find("try-model"),
    checkpoints.map((name) => [name, shortName(name)]),
  );
  tiles.forEach(({ select, slider }, index) => {
    const isNew = select.options.length === 0;
    setOptions(select, [["", "no LoRA"], ...loras.map((name) => [name, shortName(name)])]);
    // At first each tile shows another one.
    if (isNew && loras.length > 0)
      select.value = index === 0 ? "" : loras[(index - 1) % loras.length];
    slider.disabled = select.value === "";
  });
}

function setOptions(select, options) {
  const now = [...select.options].map(({ value }) => value).join("\n");
  if (select.options.length > 0 && now === options.map(([value]) => value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

function buildTile(index) {
  const number = index + 1;
  const image = element("img", { alt: "", width: 256, height: 256, hidden: "" });
  const select = element("select", { id: `lora-${number}` });
  const output = element("output", { for: `strength-${number}` }, "1");
  const slider = element("input", {
    ...{ id: `strength-${number}`, type: "range", min: 0, max: 2, step: 0.05, value: 1 },
    input: () => {
      output.textContent = strengthText(Number(slider.value));
    },
  });
  select.addEventListener("change", () => {
    slider.disabled = select.value === "";
  });
  const progress = element("progress", {
    ...{ max: 1, value: 0, "aria-label": `Progress of picture ${number}` },
  });
  const note = element("p", { class: "note", "aria-live": "polite" });
  const node = element(
    "figure",
    { class: "tile" },
    element("div", { class: "frame" }, image),
    progress,
    element(
      "figcaption",
      {},
      element("label", { for: `lora-${number}` }, `LoRA of session ${number}`),
      select,
      element("label", { for: `strength-${number}` }, "Strength ", output),
      slider,
      note,
    ),
  );
  return { node, image, select, slider, progress, note, number };
}

async function start() {
  const button = find("try-start");
  running = new AbortController();
  button.textContent = "Stop";
  const startedAtMs = performance.now();
  try {
    await Promise.all(tiles.map((tile) => makePicture(tile, running.signal)));
    const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(1);
    find("try-note").textContent = `Four pictures in ${seconds} s.`;
  } finally {
    running = undefined;
    button.textContent = "Make four pictures";
  }
}

function requestOf({ select, slider, number }) {
  const side = Number(find("try-side").value);
  const vary = find("vary").checked ? number - 1 : 0;
  return {
    name: `try-it ${number}`,
    model: find("try-model").value,
    prompt: find("prompt").value,
    negative: find("negative").value,
    seed: Number(find("seed").value) + vary,
    steps: Number(find("steps").value),
    cfg: Number(find("cfg").value),
    width: side,
    height: side,
    loras: select.value === "" ? [] : [{ name: select.value, strength: Number(slider.value) }],
  };
}

/** Never rejects: what goes wrong stands under the picture. */
async function makePicture(tile, signal) {
  tile.note.textContent = "";
  tile.progress.value = 0;
  const request = requestOf(tile);
  try {
    const response = await fetch("/v1/try", {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(request),
      signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of linesOf(response.body)) show(tile, request, event);
  } catch (error) {
    tile.note.textContent = error.name === "AbortError" ? "Stopped." : error.message;
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function show(tile, request, event) {
  if (event.type === "error") {
    tile.note.textContent = `${event.error.code}: ${event.error.message}`;
    return;
  }
  if (event.type === "progress") {
    tile.progress.max = event.steps;
    tile.progress.value = event.step;
  }
  if (event.png === undefined) return;
  URL.revokeObjectURL(tile.image.src);
  const bytes = Uint8Array.from(atob(event.png), (letter) => letter.charCodeAt(0));
  tile.image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  tile.image.hidden = false;
  const [lora] = request.loras;
  const with_ = lora ? `, ${shortName(lora.name)} ${strengthText(lora.strength)}` : "";
  tile.image.alt = `${request.prompt || "No prompt"}, seed ${request.seed}${with_}`;
}
