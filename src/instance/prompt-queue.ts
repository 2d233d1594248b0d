/**
 * The prompts of an instance: waiting by number, running, and finished. Every prompt is in exactly
 * one of the three at any moment, because clients ask for them one after another.
 */
import { LunaError } from "../kernel/index.ts";
import type { NodeUi } from "../nodes/index.ts";
import { type Json, type JsonObject, promptToJson, type Validation } from "../workflow/index.ts";
import { HISTORY_MAX, PENDING_MAX } from "./limits.ts";
import { RawJson, toWireJson } from "./wire-json.ts";

export type QueuedPrompt = Readonly<{
  id: string;
  /** Lowest first; negative ones were put in front. */
  number: number;
  validation: Validation;
  /** What the client sent along, without its secrets. */
  extraData: JsonObject;
  clientId: string | undefined;
  createdAtMs: number;
}>;

export type RunningPrompt = QueuedPrompt &
  Readonly<{ abort: AbortController; startedAtMs: number; current: { node: string | undefined } }>;

/** [type, data], as they went over the WebSocket. */
export type RunMessage = readonly [type: string, data: Readonly<Record<string, unknown>>];

export type Outcome = Readonly<{
  status: "success" | "error" | "cancelled";
  outputs: ReadonlyMap<string, NodeUi>;
  /** Of nodes that other nodes have made: their maker, and the prompt's own node behind it. */
  origins: ReadonlyMap<string, Readonly<{ parent: string; real: string }>>;
  messages: readonly RunMessage[];
}>;

export type FinishedPrompt = Readonly<{
  id: string;
  number: number;
  createdAtMs: number;
  startedAtMs: number;
  endedAtMs: number;
  workflowId: string | undefined;
  outcome: Outcome;
  /** [number, id, prompt, extra data, outputs] as text: the largest part by far. */
  item: RawJson;
}>;

/** ComfyUI's five-part item of a queued prompt. */
export function queueItem({ number, id, validation, extraData }: QueuedPrompt): unknown[] {
  return [number, id, promptToJson(validation.prompt), extraData, validation.outputs];
}

/** The id of the editor's workflow that the prompt was made from. */
export function workflowIdOf(extraData: JsonObject): string | undefined {
  const pngInfo = extraData.get("extra_pnginfo");
  const workflow = pngInfo instanceof Map ? (pngInfo.get("workflow") as Json) : undefined;
  const id: unknown = workflow instanceof Map ? workflow.get("id") : undefined;
  return typeof id === "string" ? id : undefined;
}

export class PromptQueue {
  readonly #pending: QueuedPrompt[] = [];
  readonly #running = new Map<string, RunningPrompt>();
  readonly #history = new Map<string, FinishedPrompt>();
  #numbers = 0;

  get pending(): readonly QueuedPrompt[] {
    return this.#pending;
  }

  get running(): readonly RunningPrompt[] {
    return [...this.#running.values()];
  }

  /** Oldest first. */
  get history(): readonly FinishedPrompt[] {
    return [...this.#history.values()];
  }

  get remaining(): number {
    return this.#pending.length + this.#running.size;
  }

  /** The next number; a prompt that is refused has used one up too, as in ComfyUI. */
  takeNumber(): number {
    return this.#numbers++;
  }

  /** Throws QUEUE_FULL: asked before a prompt is accepted. */
  checkRoom(): void {
    if (this.#pending.length < PENDING_MAX) return;
    throw new LunaError("QUEUE_FULL", `${PENDING_MAX} prompts wait already; send it later.`);
  }

  put(prompt: QueuedPrompt): void {
    const isLater = (other: QueuedPrompt) =>
      other.number > prompt.number || (other.number === prompt.number && other.id > prompt.id);
    const place = this.#pending.findIndex(isLater);
    this.#pending.splice(place < 0 ? this.#pending.length : place, 0, prompt);
  }

  /** Moves the first waiting prompt to the running ones. */
  begin(nowMs: number): RunningPrompt | undefined {
    const prompt = this.#pending.shift();
    if (prompt === undefined) return undefined;
    const current = { node: undefined };
    const running = { ...prompt, abort: new AbortController(), startedAtMs: nowMs, current };
    this.#running.set(prompt.id, running);
    return running;
  }

  finish(prompt: RunningPrompt, outcome: Outcome, nowMs: number): void {
    const { id, number, createdAtMs, startedAtMs } = prompt;
    this.#running.delete(id);
    this.#history.delete(id);
    this.#history.set(id, {
      id,
      number,
      createdAtMs,
      startedAtMs,
      endedAtMs: nowMs,
      workflowId: workflowIdOf(prompt.extraData),
      outcome,
      item: new RawJson(toWireJson(queueItem(prompt))),
    });
    const [oldest] = this.#history.keys();
    if (this.#history.size > HISTORY_MAX && oldest !== undefined) this.#history.delete(oldest);
  }

  /** Waiting prompts alone; what runs is interrupted instead. */
  deletePending(ids: readonly string[]): void {
    for (const id of ids) {
      const place = this.#pending.findIndex((prompt) => prompt.id === id);
      if (place >= 0) this.#pending.splice(place, 1);
    }
  }

  clearPending(): void {
    this.#pending.length = 0;
  }

  findFinished(id: string): FinishedPrompt | undefined {
    return this.#history.get(id);
  }

  deleteHistory(ids: readonly string[]): void {
    for (const id of ids) this.#history.delete(id);
  }

  clearHistory(): void {
    this.#history.clear();
  }

  /** Interrupts one running prompt, or all of them without an id. */
  interrupt(id?: string): void {
    for (const prompt of this.#running.values()) {
      if (id === undefined || prompt.id === id) prompt.abort.abort();
    }
  }
}

/** ComfyUI's entry of a finished prompt. */
export function historyEntry({ item, outcome }: FinishedPrompt): unknown {
  const nodes = [...outcome.outputs.keys()];
  return {
    prompt: item,
    outputs: Object.fromEntries(outcome.outputs),
    status: {
      status_str: outcome.status === "success" ? "success" : "error",
      completed: outcome.status === "success",
      messages: outcome.messages,
    },
    meta: Object.fromEntries(
      nodes.map((id) => {
        const { parent = null, real = id } = outcome.origins.get(id) ?? {};
        return [
          id,
          { node_id: id, display_node: real, parent_node: parent, real_node_id: real },
        ] as const;
      }),
    ),
  };
}
