/**
 * The picture of what this project is for: time runs to the right, a column is one run of the
 * engine, a lane is a client. Filled cells joined by a line went through the net together.
 */
import { element, find, millisecondsText, shortName, strengthText, svg } from "./dom.js";
import { colorOf, knownLetters, letterOf, sessionName } from "./palette.js";

const RUNS_MAX = 400;
const LANES_MAX = 10;
const TABLE_ROWS = 12;
const CELL = { width: 18, height: 22, gap: 4 };
/** Room above the first lane for the cells' edge. */
const TOP = 2;
const LABEL_WIDTH = 132;
const KINDS = { unet: "", "clip-l": "text", "clip-g": "text", "clip-h": "text" };

const runs = [];
let isPaused = false;
let isDue = false;

export function addRun(event) {
  runs.push(event);
  if (runs.length > RUNS_MAX) runs.shift();
  schedule();
}

function schedule() {
  if (isDue || isPaused) return;
  isDue = true;
  setTimeout(() => {
    isDue = false;
    if (!isPaused) draw();
  }, 200);
}

export function initStrip() {
  find("strip-pause").addEventListener("click", ({ currentTarget }) => {
    isPaused = !isPaused;
    currentTarget.setAttribute("aria-pressed", String(isPaused));
    currentTarget.textContent = isPaused ? "Go on" : "Pause";
    schedule();
  });
  find("strip-details").addEventListener("toggle", draw);
  new ResizeObserver(schedule).observe(find("strip"));
  draw();
}

const kindOf = (component) => KINDS[component] ?? "vae";

function draw() {
  const box = find("strip");
  const columns = Math.max(
    4,
    Math.floor((box.clientWidth - LABEL_WIDTH) / (CELL.width + CELL.gap)),
  );
  const shown = runs.slice(-columns);
  find("strip-empty").hidden = shown.length > 0;
  box.hidden = shown.length === 0;
  if (shown.length > 0) drawLanes(box, shown);
  drawSummary(shown);
  drawLegend();
  if (find("strip-details").open) drawTable();
}

/** Clients of the shown runs, by name, in the order in which they came. */
function lanesOf(shown) {
  const lanes = new Map();
  for (const { requests } of shown) {
    for (const { session } of requests) {
      const name = sessionName(session);
      if (!lanes.has(name)) lanes.set(name, session);
    }
  }
  return [...lanes].slice(-LANES_MAX);
}

function drawLanes(box, shown) {
  const lanes = lanesOf(shown);
  const laneOf = new Map(lanes.map(([name], index) => [name, index]));
  const step = { x: CELL.width + CELL.gap, y: CELL.height + CELL.gap };
  const height = TOP + lanes.length * step.y + 18;
  const picture = svg("svg", { width: box.clientWidth, height, "aria-hidden": "true" });
  lanes.forEach(([name, session], index) => {
    const y = TOP + index * step.y;
    const label = svg("text", { x: 18, y: y + 15, class: "lane" });
    label.append(name.length > 15 ? `${name.slice(0, 14)}…` : name, svg("title", {}, name));
    picture.append(
      svg("rect", { x: 0, y: y + 5, width: 11, height: 11, rx: 2, class: `c${colorOf(session)}` }),
      label,
      svg("line", {
        ...{ x1: LABEL_WIDTH, x2: box.clientWidth, class: "rail" },
        ...{ y1: y + CELL.height / 2, y2: y + CELL.height / 2 },
      }),
    );
  });
  shown.forEach((run, column) => {
    const x = LABEL_WIDTH + column * step.x;
    picture.append(drawColumn(run, { x, step, laneOf, height }));
  });
  box.replaceChildren(picture);
}

function drawColumn(run, { x, step, laneOf, height }) {
  const group = svg("g", { class: run.error ? "failed" : kindOf(run.component) || "unet" });
  const cells = new Map();
  for (const { session, rows, loras } of run.requests) {
    const lane = laneOf.get(sessionName(session));
    if (lane === undefined) continue;
    const cell = cells.get(lane) ?? { session, rows: 0, loras: [] };
    cell.rows += rows;
    cell.loras.push(...loras);
    cells.set(lane, cell);
  }
  const lanes = [...cells.keys()];
  const middle = (lane) => TOP + lane * step.y + CELL.height / 2;
  if (lanes.length > 1) {
    const [top, bottom] = [Math.min(...lanes), Math.max(...lanes)].map(middle);
    const center = x + CELL.width / 2;
    group.append(svg("line", { x1: center, x2: center, y1: top, y2: bottom, class: "joint" }));
  }
  for (const [lane, { session, rows, loras }] of cells) {
    const names = [...new Set(loras.map(({ name }) => name))];
    const place = { x, y: TOP + lane * step.y, width: CELL.width, height: CELL.height, rx: 4 };
    const with_ = names.length > 0 ? `, ${names.map(shortName).join(" + ")}` : "";
    const title = `${sessionName(session)}: ${run.component}, ${rows} rows${with_}, ${millisecondsText(run.engineMs)}`;
    group.append(
      svg("rect", { ...place, class: `cell c${colorOf(session)}` }, svg("title", {}, title)),
    );
    const text = names.slice(0, 2).map(letterOf).join("");
    const at = { x: x + CELL.width / 2, y: TOP + lane * step.y + 15, class: "letter" };
    if (text !== "") group.append(svg("text", at, text));
  }
  const count = { x: x + CELL.width / 2, y: height - 3, class: "count" };
  group.append(svg("text", count, String(run.rows)));
  return group;
}

function drawSummary(shown) {
  const steps = shown.filter(({ component }) => component === "unet");
  if (steps.length === 0) {
    find("strip-summary").textContent = "";
    return;
  }
  const clients = (run) => new Set(run.requests.map(({ session }) => session)).size;
  const shared = steps.filter((run) => clients(run) > 1).length;
  const average = steps.reduce((sum, run) => sum + clients(run), 0) / steps.length;
  find("strip-summary").textContent =
    `Of the last ${steps.length} UNet runs ${shared} were shared; ${average.toFixed(1)} clients a run.`;
}

function drawLegend() {
  const items = knownLetters().map(([name, letter]) =>
    element("li", {}, element("b", {}, letter), ` ${shortName(name)}`),
  );
  find("strip-legend").replaceChildren(...items);
}

/** The same in words, for those who cannot see the picture. */
function drawTable() {
  const rows = runs
    .slice(-TABLE_ROWS)
    .reverse()
    .map((run) =>
      element(
        "tr",
        {},
        element("td", {}, new Date(run.atMs).toLocaleTimeString()),
        element("td", {}, run.error ? `${run.component}: ${run.error}` : run.component),
        element("td", {}, String(run.rows)),
        element("td", {}, millisecondsText(run.engineMs)),
        element("td", {}, run.requests.map(requestText).join(", ")),
      ),
    );
  find("strip-rows").replaceChildren(...rows);
}

function requestText({ session, loras }) {
  const with_ = loras.map(({ name, strength }) => `${shortName(name)} ${strengthText(strength)}`);
  return with_.length > 0 ? `${sessionName(session)} (${with_.join(", ")})` : sessionName(session);
}
