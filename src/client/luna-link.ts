/**
 * What the models of one client share: the peer, which tensors and LoRA factors it has been given,
 * the step log, and the warnings already said.
 */
import { LunaError } from "../kernel/index.ts";
import type { LoraSpec, RequestBody } from "../protocol/index.ts";
import type { FloatTensor, Tensor } from "../tensor/index.ts";
import type { Peer, Reply } from "./peer.ts";
import { StepLog } from "./step-log.ts";
import { TensorMemory } from "./tensor-memory.ts";
import type { CallOptions, LoraRef } from "./types.ts";

type RunOp = "model_forward" | "clip_encode" | "vae_encode" | "vae_decode";

export type RunInputs = Readonly<{
  /** Different each time: sent inside the request. */
  own: ReadonlyMap<string, Tensor>;
  /** Likely to come again: sent once, then named by digest. */
  shared?: ReadonlyMap<string, FloatTensor>;
}>;

/** Puts and retries before everything is sent inside the request. */
const ATTEMPTS_MAX = 3;
/** Times a full daemon is asked again, each after the pause it named. */
const QUEUE_RETRIES_MAX = 8;

export class LunaLink {
  readonly peer: Peer;
  readonly steps = new StepLog();
  readonly say: (line: string) => void;
  readonly #memory = new TensorMemory();
  readonly #loras = new Map<string, ReadonlyMap<string, Tensor>>();
  readonly #said = new Set<string>();

  constructor(peer: Peer, say: (line: string) => void) {
    this.peer = peer;
    this.say = say;
  }

  /** Runs a net; puts what the daemon does not have, again when it forgot. */
  async run<Name extends RunOp>(
    body: RequestBody<Name>,
    inputs: RunInputs,
    options?: CallOptions,
  ): Promise<Reply<Name>> {
    for (let attempt = 1, refusals = 0; ; attempt++) {
      try {
        const reply = await this.#attempt(body, inputs, { ...options, attempt });
        this.#warn(reply.warnings);
        return reply;
      } catch (error) {
        const pauseMs = refusals < QUEUE_RETRIES_MAX ? retryAfter(error) : undefined;
        if (pauseMs !== undefined) {
          refusals++;
          attempt--;
          await pause(pauseMs, options?.signal);
          continue;
        }
        if (!LunaError.isCode(error, "TENSOR_UNKNOWN") || attempt >= ATTEMPTS_MAX) throw error;
        await this.#recover(error);
      }
    }
  }

  /** Sends LoRA factors; the digest it resolves to is their name in a LoraRef. */
  async putLora(tensors: ReadonlyMap<string, Tensor>): Promise<string> {
    const { data } = await this.peer.request({ op: "put_lora" }, tensors);
    this.#loras.set(data.digest, tensors);
    return data.digest;
  }

  #attempt<Name extends RunOp>(
    body: RequestBody<Name>,
    { own, shared = new Map() }: RunInputs,
    { attempt, ...options }: CallOptions & { attempt: number },
  ): Promise<Reply<Name>> {
    // The last attempt names nothing, so that a daemon without room still computes.
    const memory = attempt < ATTEMPTS_MAX ? this.#memory : new TensorMemory();
    const { inline, refs, puts } = memory.plan(this.peer.era, shared);
    // Frames arrive in order: the run need not wait for the answer. If the put fails, the run says so.
    if (puts.size > 0) this.peer.request({ op: "put_tensors" }, puts).catch(() => undefined);
    const { priority, deadlineMs } = options;
    const standing = {
      ...(priority === undefined ? {} : { priority }),
      ...(deadlineMs === undefined ? {} : { deadlineMs: Math.max(1, Math.ceil(deadlineMs)) }),
    };
    const named =
      Object.keys(refs).length > 0 ? { ...body, ...standing, refs } : { ...body, ...standing };
    return this.peer.request<Name>(named, new Map([...own, ...inline]), options);
  }

  async #recover({ details }: LunaError): Promise<void> {
    const digests = Array.isArray(details?.["digests"]) ? details["digests"].map(String) : [];
    this.#memory.forget(digests);
    for (const digest of digests) {
      const factors = this.#loras.get(digest);
      if (factors) await this.peer.request({ op: "put_lora" }, factors);
    }
  }

  #warn(warnings: readonly string[]): void {
    for (const warning of warnings) {
      if (this.#said.has(warning)) continue;
      this.#said.add(warning);
      this.say(`[LunaDaemon] Warning: ${warning}`);
    }
  }
}

/** When a full daemon wants to be asked again, with some spread so that not all come at once. */
function retryAfter(error: unknown): number | undefined {
  if (!LunaError.isCode(error, "QUEUE_FULL")) return undefined;
  const ms = error.details?.["retryAfterMs"];
  return typeof ms === "number" ? ms * (1 + Math.random()) : undefined;
}

/** Ends early when the caller gives up; the next request then says so. */
function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    const stop = (): void => {
      clearTimeout(timer);
      resolve();
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** The stack as a request names it, for the net or for the text encoder. */
export function loraSpecs(
  loras: readonly LoraRef[],
  side: "strengthModel" | "strengthClip",
): LoraSpec[] {
  return loras
    .filter((lora) => lora[side] !== 0)
    .map(({ name, [side]: strength }) =>
      name.startsWith("sha256:") ? { digest: name, strength } : { name, strength },
    );
}
