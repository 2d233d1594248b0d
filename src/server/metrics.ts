/** Figures for Prometheus: what happened is counted as it happens, what is so is read when asked. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { DaemonStatus } from "../protocol/index.ts";
import type { DaemonEvent, EventHub } from "./event-hub.ts";

/** Seconds: a step on a GPU takes some 20 ms, one on a CPU some seconds. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
/** Overhead is the daemon's own time: a millisecond is usual, ten are trouble. */
const OVERHEAD_SECONDS = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25];
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64];

export class Metrics {
  readonly #registry = new Registry();
  readonly #counts: ReturnType<typeof counters>;
  readonly #gauges: ReturnType<typeof gauges>;
  readonly #status: () => Promise<DaemonStatus>;

  constructor(hub: EventHub, status: () => Promise<DaemonStatus>) {
    this.#counts = counters(this.#registry);
    this.#gauges = gauges(this.#registry);
    this.#status = status;
    hub.subscribe((event) => this.#count(event));
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async text(): Promise<string> {
    read(this.#gauges, await this.#status());
    return this.#registry.metrics();
  }

  #count(event: DaemonEvent): void {
    const counts = this.#counts;
    switch (event.type) {
      case "run": {
        const { op, queueMs, engineMs, totalMs } = event;
        if (op === "model_forward") counts.steps.inc();
        counts.queue.observe({ op }, queueMs / 1000);
        counts.overhead.observe({ op }, Math.max(0, totalMs - queueMs - engineMs) / 1000);
        return;
      }
      case "batch": {
        const { component, rows, engineMs, requests } = event;
        if (event.error !== undefined) return;
        counts.rows.inc({ component }, rows);
        counts.batchRows.observe({ component }, rows);
        const clients = new Set(requests.map(({ session }) => session)).size;
        counts.batchClients.observe({ component }, clients);
        counts.engine.observe({ component }, engineMs / 1000);
        return;
      }
      case "error":
        counts.errors.inc({ code: event.code, op: event.op });
        return;
      case "session":
        if (event.change === "opened") counts.sessions.inc();
        return;
      case "model":
      case "status":
        return;
    }
  }
}

function counters(registry: Registry) {
  const registers = [registry];
  const counter = <Label extends string = never>(
    name: string,
    help: string,
    labelNames: Label[] = [],
  ) => new Counter({ name: `luna_${name}`, help, labelNames, registers });
  const histogram = (name: string, help: string, [label, buckets]: [string, number[]]) =>
    new Histogram({ name: `luna_${name}`, help, labelNames: [label], buckets, registers });
  return {
    steps: counter("steps_total", "Denoising steps answered."),
    rows: counter("rows_total", "Rows of all batches.", ["component"]),
    errors: counter("errors_total", "Requests that failed.", ["code", "op"]),
    sessions: counter("sessions_opened_total", "Clients that have connected."),
    batchRows: histogram("batch_rows", "Rows of an engine run.", ["component", SIZES]),
    batchClients: histogram("batch_clients", "Clients that shared an engine run.", [
      "component",
      SIZES,
    ]),
    engine: histogram("engine_seconds", "Time of an engine run inside its session.", [
      "component",
      SECONDS,
    ]),
    queue: histogram("queue_seconds", "Time from arrival to the start of the batch.", [
      "op",
      SECONDS,
    ]),
    overhead: histogram("overhead_seconds", "Time in the daemon outside queue and engine.", [
      "op",
      OVERHEAD_SECONDS,
    ]),
  };
}

function gauges(registry: Registry) {
  const registers = [registry];
  const gauge = <Label extends string = never>(
    name: string,
    help: string,
    labelNames: Label[] = [],
  ) => new Gauge({ name: `luna_${name}`, help, labelNames, registers });
  return {
    info: gauge("info", "1, with what this daemon is.", ["version", "device", "provider"]),
    uptime: gauge("uptime_seconds", "Time since the daemon started."),
    // Counted in the engine's supervisor: a counter that is set, not incremented.
    restarts: new Counter({
      name: "luna_engine_restarts_total",
      help: "Engine processes started after a crash.",
      registers,
    }),
    sessions: gauge("sessions", "Clients connected."),
    waiting: gauge("requests_waiting", "Requests that wait for the engine."),
    waitingMax: gauge("requests_waiting_max", "Requests that may wait before QUEUE_FULL."),
    running: gauge("requests_running", "Requests in the running batch."),
    modelBytes: gauge("model_bytes", "Bytes a model's weights take in memory.", ["model"]),
    modelUsers: gauge("model_users", "Runs that use a model now.", ["model"]),
    memory: gauge("resident_memory_bytes", "Resident memory of a process.", ["process"]),
    loraEntries: gauge("lora_cache_entries", "LoRA files parsed and kept."),
    loraBytes: gauge("lora_cache_bytes", "Bytes of the LoRA files kept."),
    overlayBytes: gauge("overlay_bytes", "Bytes of weights that LoRAs change as a whole."),
    storeEntries: gauge("tensor_store_entries", "Tensors and factors held by digest."),
    storeBytes: gauge("tensor_store_bytes", "Bytes held by digest."),
    storeBytesMax: gauge("tensor_store_max_bytes", "Bytes that may be held by digest."),
  };
}

function read(all: ReturnType<typeof gauges>, status: DaemonStatus): void {
  const { daemon, engine, queue, tensorStore } = status;
  const { version } = daemon;
  all.info.reset();
  all.info.set({ version, device: engine.device, provider: engine.provider }, 1);
  all.uptime.set(daemon.uptimeMs / 1000);
  all.restarts.reset();
  all.restarts.inc(engine.restarts);
  all.sessions.set(status.sessions.length);
  all.waiting.set(queue.depth);
  all.waitingMax.set(queue.depthMax);
  all.running.set(queue.running);
  // Models come and go; a label that is not set again must not stay.
  all.modelBytes.reset();
  all.modelUsers.reset();
  for (const { id: model, bytes, users, copies } of status.models) {
    if (copies === 0) continue;
    all.modelBytes.set({ model }, bytes);
    all.modelUsers.set({ model }, users);
  }
  all.memory.set({ process: "daemon" }, daemon.rssBytes);
  all.memory.set({ process: "engine" }, engine.rssBytes);
  all.loraEntries.set(engine.loraCache.entries);
  all.loraBytes.set(engine.loraCache.bytes);
  all.overlayBytes.set(engine.overlays.bytes);
  all.storeEntries.set(tensorStore.entries);
  all.storeBytes.set(tensorStore.bytes);
  all.storeBytesMax.set(tensorStore.bytesMax);
}
