/** What `luna monitor` measures: a row for each process, of the daemon's status and this machine. */
import type { DaemonStatus } from "../protocol/index.ts";
import type { ProcessMemory } from "./process-memory.ts";
import { formatBytes, textTable } from "./table.ts";

export type MonitorRow = Readonly<{
  kind: "daemon" | "engine" | "client";
  name: string;
  pid?: number;
  /** Undefined on another machine, or where the client told no pid. */
  rssBytes?: number;
  privateBytes?: number;
  gpuBytes?: number;
  stepsPerSecond: number;
  steps: number;
  waiting: number;
  overheadMs?: number;
  loras: string;
}>;

export type MonitorSample = Readonly<{
  /** Milliseconds since 1970. */
  atMs: number;
  status: DaemonStatus;
  rows: readonly MonitorRow[];
}>;

/** How this machine is asked; `memory` of a process that is not here is undefined. */
export type Machine = Readonly<{
  memory: (pid: number) => ProcessMemory | undefined;
  gpu: ReadonlyMap<number, number> | undefined;
}>;

/** `before` is the sample that speeds are measured from. */
export function takeSample(
  now: Readonly<{ atMs: number; status: DaemonStatus }>,
  before: MonitorSample | undefined,
  machine: Machine,
): MonitorSample {
  const { atMs, status } = now;
  const { daemon, engine, sessions, queue } = status;
  const seconds = before ? (atMs - before.atMs) / 1000 : 0;
  const earlier = new Map(before?.status.sessions.map(({ id, steps }) => [id, steps]));
  const clients = sessions.map((session): MonitorRow => {
    const { id, name, pid, steps, pending, overheadMs, loras } = session;
    const made = steps - (earlier.get(id) ?? (before ? 0 : steps));
    return {
      ...{ kind: "client", name, steps, waiting: pending },
      ...measured(pid, machine),
      stepsPerSecond: seconds > 0 ? made / seconds : 0,
      ...(steps > 0 ? { overheadMs: overheadMs.p50 } : {}),
      loras: loras.map((lora) => `${lora.name}:${lora.strength}`).join(" "),
    };
  });
  const sum = (pick: (row: MonitorRow) => number) =>
    clients.reduce((total, row) => total + pick(row), 0);
  const total = {
    steps: sum((row) => row.steps),
    stepsPerSecond: sum((row) => row.stepsPerSecond),
  };
  const rows: MonitorRow[] = [
    {
      ...{ kind: "daemon", name: `daemon ${daemon.version}`, waiting: queue.depth, loras: "" },
      ...{ ...total, ...measured(daemon.pid, machine), rssBytes: daemon.rssBytes },
    },
    {
      ...{ kind: "engine", name: `engine (${engine.device})`, waiting: queue.running, loras: "" },
      ...{ ...total, ...measured(engine.pid, machine), rssBytes: engine.rssBytes },
    },
    ...clients,
  ];
  return { atMs, status, rows };
}

type Measured = Pick<MonitorRow, "pid" | "rssBytes" | "privateBytes" | "gpuBytes">;

function measured(pid: number | undefined, { memory, gpu }: Machine): Measured {
  if (pid === undefined || pid === 0) return {};
  const gpuBytes = gpu?.get(pid);
  return { pid, ...memory(pid), ...(gpuBytes === undefined ? {} : { gpuBytes }) };
}

const bytesCell = (bytes: number | undefined): string =>
  bytes === undefined ? "" : formatBytes(bytes);

export function sampleText({ rows, status }: MonitorSample): string {
  const hasGpu = rows.some(({ gpuBytes }) => gpuBytes !== undefined);
  const header = ["", "pid", "memory", "private", ...(hasGpu ? ["GPU"] : [])];
  const table = textTable(
    [...header, "steps/s", "steps", "waiting", "overhead ms", "LoRAs"],
    rows.map((row) => [
      row.name,
      String(row.pid ?? ""),
      bytesCell(row.rssBytes),
      bytesCell(row.privateBytes),
      ...(hasGpu ? [bytesCell(row.gpuBytes)] : []),
      row.stepsPerSecond.toFixed(1),
      String(row.steps),
      String(row.waiting),
      row.overheadMs?.toFixed(1) ?? "",
      row.loras,
    ]),
  );
  const models = status.models
    .filter(({ copies }) => copies > 0)
    .map(({ id, bytes, isPinned }) => `${id} ${formatBytes(bytes)}${isPinned ? " pinned" : ""}`);
  const { batches, engine } = status;
  const shared = Object.entries(batches.clients).map(([clients, runs]) => `${clients}: ${runs}`);
  return [
    table,
    "",
    `Models in memory: ${models.join(", ") || "none"}`,
    `Runs by clients that shared them: ${shared.join(", ") || "none"}; engine restarts: ${engine.restarts}`,
  ].join("\n");
}

const CSV_COLUMNS = [
  "time",
  "kind",
  "name",
  "pid",
  "rss_bytes",
  "private_bytes",
  "gpu_bytes",
  "steps_per_second",
  "steps",
  "waiting",
  "overhead_ms",
  "loras",
] as const;

export const CSV_HEADER = CSV_COLUMNS.join(",");

/** RFC 4180: quoted where a comma, quote or line break asks for it. */
function csvCell(value: string | number | undefined): string {
  const text = String(value ?? "");
  // A text that a spreadsheet would take for a formula is kept a text.
  const safe = typeof value === "string" && /^[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function csvLines({ atMs, rows }: MonitorSample): string[] {
  const time = new Date(atMs).toISOString();
  return rows.map((row) =>
    [
      ...[time, row.kind, row.name, row.pid, row.rssBytes, row.privateBytes, row.gpuBytes],
      ...[row.stepsPerSecond.toFixed(3), row.steps, row.waiting],
      ...[row.overheadMs?.toFixed(3), row.loras],
    ]
      .map(csvCell)
      .join(","),
  );
}
