/** Takes prompts from the queue and runs them, several at once where there are several lanes. */
import type { Logger } from "../kernel/index.ts";
import type { JsonObject, WorkflowRunner } from "../workflow/index.ts";
import { SILENCE_MS_MAX } from "./limits.ts";
import type { Outcome, PromptQueue, RunningPrompt } from "./prompt-queue.ts";
import { RunMessages, type RunMessagesOptions } from "./run-messages.ts";
import type { SocketHub } from "./socket-hub.ts";

export type LaneOptions = Readonly<{
  queue: PromptQueue;
  hub: SocketHub;
  /** One a lane: a runner keeps the results of its latest prompt. */
  runners: readonly WorkflowRunner[];
  previewsOf: (prompt: RunningPrompt) => Pick<RunMessagesOptions, "previewer" | "isPreviewShy">;
  now: () => number;
  logger: Logger;
}>;

export class PromptLanes {
  readonly #options: LaneOptions;
  readonly #idle: WorkflowRunner[];
  readonly #busy = new Set<Promise<void>>();
  #mustForget = false;

  constructor(options: LaneOptions) {
    this.#options = options;
    this.#idle = [...options.runners];
  }

  /** Starts what waits, as far as there are idle lanes. */
  wake(): void {
    const { queue, now } = this.#options;
    for (let runner = this.#idle.at(-1); runner !== undefined; runner = this.#idle.at(-1)) {
      const prompt = queue.begin(now());
      if (prompt === undefined) break;
      this.#idle.pop();
      this.tellRemaining();
      const lane = runner;
      const done = this.#run(prompt, lane).finally(() => {
        this.#busy.delete(done);
        this.#idle.push(lane);
        this.#forget();
        this.wake();
      });
      this.#busy.add(done);
    }
  }

  /** Drops kept results as soon as nothing runs. */
  forgetResults(): void {
    this.#mustForget = true;
    this.#forget();
  }

  tellRemaining(): void {
    const { hub, queue } = this.#options;
    hub.broadcast("status", { status: { exec_info: { queue_remaining: queue.remaining } } });
  }

  /** Stops everything and waits for it. */
  async close(): Promise<void> {
    this.#options.queue.clearPending();
    this.#options.queue.interrupt();
    await Promise.allSettled(this.#busy);
  }

  #forget(): void {
    if (!this.#mustForget || this.#busy.size > 0) return;
    this.#mustForget = false;
    for (const runner of this.#options.runners) runner.clear();
  }

  async #run(prompt: RunningPrompt, runner: WorkflowRunner): Promise<void> {
    const { queue, hub, now, previewsOf } = this.#options;
    const messages = new RunMessages(prompt, { hub, now, ...previewsOf(prompt) });
    let isSilent = true;
    const heartbeat = setInterval(() => {
      if (isSilent) messages.tellState();
      isSilent = true;
    }, SILENCE_MS_MAX);
    const outcome = await runner
      .execute(prompt.validation, {
        signal: prompt.abort.signal,
        extraPngInfo: pngInfoOf(prompt),
        onEvent: (event) => {
          isSilent = false;
          messages.tell(event);
        },
      })
      .then(() => messages.succeeded())
      .catch((error: unknown) => messages.failed(error))
      .finally(() => clearInterval(heartbeat));
    // In this order: clients look for the result as soon as they hear of the end.
    const endedAtMs = now();
    queue.finish(prompt, outcome, endedAtMs);
    this.tellRemaining();
    hub.send(prompt.clientId, "executing", { node: null, prompt_id: prompt.id });
    logEnd(this.#options.logger, outcome, { prompt, endedAtMs });
  }
}

function pngInfoOf({ extraData }: RunningPrompt): JsonObject {
  const info = extraData.get("extra_pnginfo");
  return info instanceof Map ? (info as JsonObject) : new Map();
}

/** Ids, codes and times: never what the prompt says. */
function logEnd(
  logger: Logger,
  { status, outputs, messages }: Outcome,
  { prompt, endedAtMs }: Readonly<{ prompt: RunningPrompt; endedAtMs: number }>,
): void {
  const { id, clientId, createdAtMs, startedAtMs } = prompt;
  const [, last = {}] = messages.at(-1) ?? [];
  const failure =
    status === "error" ? { code: last["exception_type"], node: last["node_type"] } : {};
  logger.info("prompt.done", {
    ...{ prompt: id, client: clientId, status, outputs: outputs.size },
    ...{ waitedMs: startedAtMs - createdAtMs, ms: endedAtMs - startedAtMs, ...failure },
  });
  if (failure.code === "INTERNAL") {
    logger.error("node.bug", { prompt: id, node: failure.node, stack: last["traceback"] });
  }
}
