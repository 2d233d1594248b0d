/** Wires the page: asks for a token where one is wanted, then follows one `watch`. */
import { Chart } from "./charts.js";
import { bytesText, find, millisecondsText } from "./dom.js";
import { forgetSession, learnSession } from "./palette.js";
import { Daemon } from "./protocol.js";
import { addRun, initStrip } from "./strip.js";
import { addError, initTables, offerModels, showClients, showModels } from "./tables.js";
import { initTryIt, offerChoices } from "./try-it.js";

const TOKEN_KEY = "luna-token";
/** Steps a second are taken over this many figures, one a second. */
const SPEED_SAMPLES = 5;

const announce = (text) => {
  find("announcement").textContent = text;
};

async function isLetIn(token) {
  const headers = token === "" ? {} : { authorization: `Bearer ${token}` };
  return (await fetch("/v1/models", { headers })).status !== 401;
}

/** The token, from before or from the person; empty where none is wanted. */
async function findToken() {
  const kept = sessionStorage.getItem(TOKEN_KEY) ?? "";
  if (await isLetIn(kept)) return kept;
  const dialog = find("token-dialog");
  dialog.showModal();
  return new Promise((resolve) => {
    find("token-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const token = find("token").value.trim();
      if (!(await isLetIn(token))) {
        find("token-problem").textContent = "The daemon does not know this token.";
        find("token").select();
        return;
      }
      sessionStorage.setItem(TOKEN_KEY, token);
      dialog.close();
      resolve(token);
    });
  });
}

const charts = {
  memory: new Chart(find("memory-chart"), {
    series: ["engine", "daemon", "models"],
    format: bytesText,
  }),
  time: new Chart(find("time-chart"), {
    series: ["engine run", "queue", "overhead"],
    format: millisecondsText,
  }),
};

let history = [];
let engineMs = [];

function speedsOf(status, atMs) {
  history = [...history, { atMs, sessions: status.sessions }].slice(-SPEED_SAMPLES);
  const [first] = history;
  const seconds = (atMs - first.atMs) / 1000;
  const before = new Map(first.sessions.map(({ id, steps }) => [id, steps]));
  return new Map(
    status.sessions.map(({ id, steps }) => [
      id,
      seconds > 0 ? (steps - (before.get(id) ?? 0)) / seconds : 0,
    ]),
  );
}

const average = (values) =>
  values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) / values.length;

function uptimeText(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.floor(ms / 1000)} s`;
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function showStatus({ status, atMs }) {
  for (const { id, name } of status.sessions) learnSession(id, name);
  const speeds = speedsOf(status, atMs);
  const speed = [...speeds.values()].reduce((sum, value) => sum + value, 0);
  const { daemon, engine, queue, batches, models } = status;
  find("about").textContent =
    `${daemon.version} · ${engine.device} · up ${uptimeText(daemon.uptimeMs)}` +
    (engine.restarts > 0 ? ` · engine restarted ${engine.restarts} times` : "");
  const rows = Object.entries(batches.rows).reduce((sum, [size, count]) => sum + size * count, 0);
  find("speed").textContent = speed.toFixed(1);
  find("rows").textContent = batches.total === 0 ? "–" : (rows / batches.total).toFixed(1);
  find("waiting").textContent = String(queue.depth);
  find("cache").textContent = bytesText(engine.loraCache.bytes);
  showModels(models);
  showClients(status.sessions, speeds);
  const active = status.sessions.filter(({ steps }) => steps > 0);
  const modelBytes = models.reduce((sum, model) => sum + (model.copies > 0 ? model.bytes : 0), 0);
  charts.memory.add([engine.rssBytes, daemon.rssBytes, modelBytes]);
  charts.time.add([
    average(engineMs),
    average(active.map(({ queueMs }) => queueMs.p50)),
    average(active.map(({ overheadMs }) => overheadMs.p50)),
  ]);
  engineMs = [];
}

function showSession({ session, name, change }) {
  if (change === "opened") learnSession(session, name);
  else forgetSession(session);
}

function onEvents(events, dropped) {
  if (dropped > 0) announce(`${dropped} events were left out: this page was too slow.`);
  for (const event of events) {
    if (event.type === "status") showStatus(event);
    else if (event.type === "session") showSession(event);
    else if (event.type === "error") addError(event);
    else if (event.type === "model") void readList();
    else {
      if (event.component === "unet" && !event.error) engineMs.push(event.engineMs);
      addRun(event);
    }
  }
}

async function readList() {
  const list = await daemon.request("list").catch(() => undefined);
  if (list === undefined) return;
  offerModels(list.models);
  offerChoices(list);
}

function onState(isOpen) {
  const state = find("state");
  state.textContent = isOpen ? "connected" : "away, trying again";
  state.dataset.open = String(isOpen);
  history = [];
  if (isOpen) void readList();
}

const token = await findToken();
initTryIt(token);
initStrip();
const daemon = new Daemon(token, { onState, onEvents });
initTables(daemon, announce);
