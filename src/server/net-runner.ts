/**
 * The way of a request through the engine: tensors by digest, LoRAs by name, the net loaded, the
 * queue, and the answer in the client's type. One queue, because the engine is one device.
 */
import type { ComponentName } from "../checkpoint/index.ts";
import type { LoraUse } from "../engine/index.ts";
import { type Logger, LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import type { BatchEvent, LoraSpec, Request, Timings } from "../protocol/index.ts";
import type { Lease } from "../registry/index.ts";
import {
  BatchCaps,
  type BatchFacts,
  BatchQueue,
  type CapStatus,
  type Outcome,
  type Part,
} from "../scheduler/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { controlUses, type LeasedControls, leaseControls } from "./controls.ts";
import type { EventHub } from "./event-hub.ts";
import { toWire } from "./float-tensors.ts";
import type { LoraFactors } from "./lora-factors.ts";
import { buildJob, joinResults, type NetJob, type NetResult, partItem } from "./net-job.ts";
import type { DaemonOptions } from "./ports.ts";
import { type RunInputs, type Tensors, textInputs, unetInputs, vaeInputs } from "./run-inputs.ts";
import type { TensorStore } from "./tensor-store.ts";

export type RunRequest = Request<"model_forward" | "clip_encode" | "vae_encode" | "vae_decode">;

export type RunAnswer = Readonly<{
  tensors: ReadonlyMap<string, Tensor>;
  timings: Timings;
  warnings: readonly string[];
}>;

export type RunCall = Readonly<{
  /** The session, and the name its client gave. */
  client: string;
  name: string;
  tensors: Tensors;
  signal: AbortSignal;
}>;

/** A named LoRA as it was found: a file, or the warning that there is none. */
type FoundLora = Readonly<{ use: LoraUse } | { warning: string }>;

export class NetRunner {
  readonly #options: DaemonOptions;
  readonly #store: TensorStore;
  readonly #queue: BatchQueue<NetJob, NetResult>;
  readonly #now: () => number;
  readonly #events: EventHub;
  readonly #logger: Logger;
  readonly #rows: Record<string, number> = {};
  readonly #clients: Record<string, number> = {};
  #batches = 0;

  constructor(
    options: DaemonOptions,
    store: TensorStore,
    { now, events }: { now: () => number; events: EventHub },
  ) {
    this.#options = options;
    this.#store = store;
    this.#now = now;
    this.#events = events;
    this.#logger = options.logger ?? SILENT_LOGGER;
    this.#queue = new BatchQueue({
      now,
      execute: (parts, lane) => this.#execute(parts, lane),
      join: joinResults,
      lanes: options.engine.lanes ?? 1,
      ...(options.batchRows ? { caps: new BatchCaps(options.batchRows) } : {}),
      onBatch: (facts) => this.#count(facts),
    });
  }

  get queueState(): BatchQueue<NetJob, NetResult>["state"] {
    return this.#queue.state;
  }

  /** Engine runs by rows and by clients. */
  get batches(): Readonly<{
    total: number;
    rows: Record<string, number>;
    clients: Record<string, number>;
  }> {
    return { total: this.#batches, rows: { ...this.#rows }, clients: { ...this.#clients } };
  }

  /** Rows of a run by shape, as measured; the key names the file without its folders. */
  get caps(): readonly CapStatus[] {
    return this.#queue.caps.map((cap) => ({ ...cap, key: cap.key.replace(/^.*[\\/]/, "") }));
  }

  close(): void {
    this.#queue.close();
  }

  /** Throws TENSOR_UNKNOWN with the digests that must be put again, and all that may go wrong. */
  async run(request: RunRequest, call: RunCall): Promise<RunAnswer> {
    const arrivedAtMs = this.#now();
    // Before anything is awaited, so that what was put before this frame cannot be forgotten yet.
    const given = this.#gather(request, call.tensors);
    // Both ask the disk whether a file was replaced; side by side, that is one wait.
    const search = Promise.all(given.loras.map((lora) => this.#findLora(lora, request)));
    search.catch(() => undefined);
    const { registry } = this.#options;
    const lease = await registry.acquire(request.model, componentOf(request));
    let controlled: LeasedControls | undefined;
    try {
      const inputs = checkInputs(request, given.tensors, lease);
      controlled = await leaseControls(registry, ("controls" in request && request.controls) || []);
      const controls = controlUses(controlled, { unet: lease.checkpoint, tensors: inputs.tensors });
      const found = await search;
      const loras = found.flatMap((lora) => ("use" in lora ? [lora.use] : []));
      const missing = found.flatMap((lora) => ("warning" in lora ? [lora.warning] : []));
      // Not in the queue yet, so that no batch waits for a file to be read.
      if (loras.length > 0)
        await this.#options.engine.prepare?.(lease.path, lease.component, loras);
      const { priority, deadlineMs } = request;
      const weight = this.#options.clientWeights?.get(call.name);
      const standing = {
        client: call.client,
        ...(weight === undefined ? {} : { weight }),
        ...(priority === undefined ? {} : { priority }),
      };
      const job = buildJob({ request, inputs, loras, controls, lease, standing });
      const submittedAtMs = this.#now();
      const outcome = await this.#queue.submit(job, call.signal, deadlineMs);
      const waitedMs = submittedAtMs - arrivedAtMs;
      return buildAnswer(outcome, inputs, { waitedMs, missing });
    } finally {
      controlled?.release();
      lease.release();
      // As the lease does for the net's file: the next step finds the disk's answer.
      for (const { spec } of given.loras) {
        if ("name" in spec) registry.resolveLora(spec.name).catch(() => undefined);
      }
    }
  }

  async #execute(parts: readonly Part<NetJob>[], lane: number): Promise<readonly NetResult[]> {
    const [head] = parts;
    if (!head) return [];
    try {
      const { outputs, engineMs } = await this.#runEngine(head.job, parts, lane);
      this.#logger.debug("batch.done", {
        component: head.job.component,
        jobs: parts.length,
        engineMs,
      });
      this.#events.publish(batchEvent(head.job, parts, { engineMs }));
      return outputs.map((output) => ({ output, engineMs }));
    } catch (cause) {
      const { code } = LunaError.from(cause);
      this.#events.publish(batchEvent(head.job, parts, { engineMs: 0, error: code }));
      throw cause;
    }
  }

  /** A request that does not fit beside idle models is run again without them. */
  async #runEngine({ path, component }: NetJob, parts: readonly Part<NetJob>[], lane: number) {
    const { engine, registry } = this.#options;
    const items = parts.map(partItem);
    for (;;) {
      try {
        return await engine.run(path, component, items, { lane });
      } catch (error) {
        if (parts.length > 1 || !LunaError.isCode(error, "MEMORY_EXCEEDED")) throw error;
        if (!(await registry.evictIdle())) throw error;
      }
    }
  }

  #count({ rows, clients }: BatchFacts): void {
    this.#batches++;
    this.#rows[rows] = (this.#rows[rows] ?? 0) + 1;
    this.#clients[clients] = (this.#clients[clients] ?? 0) + 1;
  }

  /** Inline tensors and those named by digest, and the LoRAs with factors where named by digest. */
  #gather(request: RunRequest, inline: Tensors): { tensors: Tensors; loras: GivenLora[] } {
    const tensors = new Map(inline);
    const unknown: string[] = [];
    for (const [slot, digest] of Object.entries(request.refs ?? {})) {
      if (tensors.has(slot)) {
        throw new LunaError("REQUEST_INVALID", `Tensor "${slot}" is both inline and in refs.`);
      }
      const tensor = this.#store.get(digest);
      if (tensor) tensors.set(slot, tensor);
      else unknown.push(digest);
    }
    const specs = "loras" in request ? (request.loras ?? []) : [];
    const loras: GivenLora[] = [];
    // Strength 0 is no LoRA at all, bit for bit.
    for (const spec of specs.filter(({ strength }) => strength !== 0)) {
      if ("name" in spec) loras.push({ spec });
      else {
        const factors = this.#store.getLora(spec.digest);
        if (factors) loras.push({ spec, factors });
        else unknown.push(spec.digest);
      }
    }
    if (unknown.length === 0) return { tensors, loras };
    throw new LunaError(
      "TENSOR_UNKNOWN",
      `The daemon does not have ${unknown.length} of the tensors named: put them again.`,
      { details: { digests: unknown } },
    );
  }

  async #findLora({ spec, factors }: GivenLora, request: RunRequest): Promise<FoundLora> {
    const { strength } = spec;
    if ("name" in spec) {
      const file = await this.#options.registry.resolveLora(spec.name);
      if (!file) return { warning: `LoRA '${spec.name}' not found, skipped.` };
      return { use: { source: { type: "file", ...file }, strength } };
    }
    const component = componentOf(request);
    const tensors = factors?.components.get(component) ?? new Map<string, Tensor>();
    const digest = `${spec.digest}/${component}`;
    return { use: { source: { type: "factors", digest, tensors }, strength } };
  }
}

type GivenLora = Readonly<{ spec: LoraSpec; factors?: LoraFactors }>;

function componentOf(request: RunRequest): ComponentName {
  switch (request.op) {
    case "model_forward":
      return "unet";
    case "clip_encode":
      return request.encoder;
    case "vae_encode":
      return "vae-encoder";
    case "vae_decode":
      return "vae-decoder";
  }
}

function checkInputs(request: RunRequest, tensors: Tensors, { checkpoint }: Lease): RunInputs {
  switch (request.op) {
    case "model_forward":
      return unetInputs(tensors, checkpoint, request);
    case "clip_encode":
      return textInputs(tensors, checkpoint, request);
    case "vae_encode":
      return vaeInputs(tensors, checkpoint, "image");
    case "vae_decode":
      return vaeInputs(tensors, checkpoint, "latent");
  }
}

function batchEvent(
  { model, component }: NetJob,
  parts: readonly Part<NetJob>[],
  outcome: Pick<BatchEvent, "engineMs" | "error">,
): BatchEvent {
  return {
    type: "batch",
    atMs: Date.now(),
    ...{ model, component },
    rows: parts.reduce((sum, { range }) => sum + range.rows, 0),
    requests: parts.map(({ job: { client, item }, range: { rows } }) => ({
      session: client,
      rows,
      loras: item.loras.map(({ source, strength }) => ({
        name: source.type === "file" ? source.name : source.digest,
        strength,
      })),
    })),
    ...outcome,
  };
}

function buildAnswer(
  { result: { output, engineMs }, queueMs, batch }: Outcome<NetResult>,
  { dtype }: RunInputs,
  { waitedMs, missing }: { waitedMs: number; missing: readonly string[] },
): RunAnswer {
  const tensors = new Map(
    [...output.tensors].map(([name, tensor]) => [name, toWire(tensor, dtype)]),
  );
  const timings = { queueMs: waitedMs + queueMs, engineMs, batch };
  return { tensors, timings, warnings: [...missing, ...output.warnings] };
}
