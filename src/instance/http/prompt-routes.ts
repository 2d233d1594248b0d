/** /prompt, /queue, /history, /interrupt, /free: ComfyUI's way to run prompts and ask after them. */
import { randomUUID } from "node:crypto";
import { LunaError } from "../../kernel/index.ts";
import {
  isJsonObject,
  type Json,
  type JsonObject,
  parsePrompt,
  type WorkflowRunner,
} from "../../workflow/index.ts";
import { ID_LENGTH_MAX } from "../limits.ts";
import type { PromptLanes } from "../prompt-lanes.ts";
import { historyEntry, type PromptQueue, type QueuedPrompt, queueItem } from "../prompt-queue.ts";
import { readLooseObject, readObject, stringsOf } from "./parse-body.ts";
import { jsonReply, type Reply, type Request, type Routes } from "./router.ts";

export type PromptRoutesOptions = Readonly<{
  queue: PromptQueue;
  lanes: PromptLanes;
  validate: WorkflowRunner["validate"];
  now: () => number;
}>;

/** Keys of extra_data that are secrets: they go nowhere. */
const SECRETS = ["auth_token_comfy_org", "api_key_comfy_org"];

export function promptRoutes(options: PromptRoutesOptions): Routes {
  const { queue, lanes } = options;
  return {
    "GET /prompt": () => jsonReply({ exec_info: { queue_remaining: queue.remaining } }),
    "POST /prompt": (request) => postPrompt(request, options),
    "GET /queue": () =>
      jsonReply({
        queue_running: queue.running.map(queueItem),
        queue_pending: queue.pending.map(queueItem),
      }),
    "POST /queue": async (request) => {
      const body = await readObject(request);
      if (body.get("clear") === true) queue.clearPending();
      queue.deletePending(stringsOf(body.get("delete")));
      return { after: () => lanes.tellRemaining() };
    },
    "GET /history": ({ query }) => jsonReply(listHistory(queue, query)),
    "GET /history/:id": ({ params }) => {
      const found = queue.findFinished(params["id"] ?? "");
      return jsonReply(found === undefined ? {} : { [found.id]: historyEntry(found) });
    },
    "POST /history": async (request) => {
      const body = await readObject(request);
      if (body.get("clear") === true) queue.clearHistory();
      queue.deleteHistory(stringsOf(body.get("delete")));
      return {};
    },
    "POST /interrupt": async (request) => {
      const id = (await readLooseObject(request)).get("prompt_id");
      queue.interrupt(typeof id === "string" && id !== "" ? id : undefined);
      return {};
    },
    "POST /free": async (request) => {
      const body = await readLooseObject(request);
      // Models are the daemon's, shared with others: there is nothing of ours to unload.
      if (body.get("free_memory") === true) lanes.forgetResults();
      return {};
    },
  };
}

async function postPrompt(request: Request, options: PromptRoutesOptions): Promise<Reply> {
  const body = await readObject(request);
  const source = body.get("prompt");
  const number = numberOf(body, options.queue);
  if (source === undefined) {
    return refusal({
      type: "no_prompt",
      message: "No prompt provided",
      details: "No prompt provided",
      extra_info: {},
    });
  }
  const prompt = parsePrompt(source);
  const wanted = body.get("partial_execution_targets");
  const targets = Array.isArray(wanted) ? stringsOf(wanted) : undefined;
  const validation = await options.validate(prompt, targets);
  const { error, nodeErrors } = validation;
  if (error !== undefined) return refusal(error, nodeErrors);
  options.queue.checkRoom();
  const clientId = textOf(body.get("client_id"));
  const createdAtMs = options.now();
  const queued: QueuedPrompt = {
    id: idOf(body),
    number,
    validation,
    extraData: extraDataOf(body, { clientId, createdAtMs }),
    clientId,
    createdAtMs,
  };
  return {
    ...jsonReply({ prompt_id: queued.id, number, node_errors: nodeErrors }),
    after: () => {
      options.queue.put(queued);
      options.lanes.tellRemaining();
      options.lanes.wake();
    },
  };
}

function refusal(error: unknown, nodeErrors: unknown = {}): Reply {
  return jsonReply({ error, node_errors: nodeErrors }, 400);
}

function numberOf(body: JsonObject, queue: PromptQueue): number {
  const given = body.get("number");
  if (given !== undefined && given !== null) {
    const number = typeof given === "boolean" ? Number.NaN : Number(given);
    if (Number.isFinite(number)) return number;
    throw new LunaError("REQUEST_INVALID", `number is ${String(given)}, not a number.`);
  }
  const next = queue.takeNumber();
  return body.get("front") === true ? -next : next;
}

function idOf(body: JsonObject): string {
  const given = body.get("prompt_id");
  if (given === undefined || given === null) return randomUUID();
  const id = String(given);
  if (id.length <= ID_LENGTH_MAX) return id;
  throw new LunaError(
    "LIMIT_EXCEEDED",
    `prompt_id has ${id.length} characters, limit ${ID_LENGTH_MAX}.`,
  );
}

function textOf(value: Json | undefined): string | undefined {
  return value === undefined || value === null ? undefined : String(value);
}

function extraDataOf(
  body: JsonObject,
  { clientId, createdAtMs }: Pick<QueuedPrompt, "clientId" | "createdAtMs">,
): JsonObject {
  const given = body.get("extra_data");
  const extra = new Map(isJsonObject(given) ? given : []);
  for (const secret of SECRETS) extra.delete(secret);
  if (clientId !== undefined) extra.set("client_id", clientId);
  return extra.set("create_time", BigInt(createdAtMs));
}

function listHistory(queue: PromptQueue, query: URLSearchParams): Record<string, unknown> {
  const all = queue.history;
  const count = wholeNumber(query.get("max_items"));
  const offset = wholeNumber(query.get("offset"));
  const begin = offset ?? (count === undefined ? 0 : Math.max(0, all.length - count));
  const end = count === undefined ? all.length : begin + count;
  return Object.fromEntries(all.slice(begin, end).map((entry) => [entry.id, historyEntry(entry)]));
}

/** Undefined for anything but a whole number from 0 on: ComfyUI's offset of -1 means none. */
function wholeNumber(text: string | null): number | undefined {
  return text !== null && /^\d+$/.test(text) ? Number(text) : undefined;
}
