/** /api/jobs: one list over waiting, running and finished prompts, for the web front end's panels. */
import type { NodeUi } from "../../nodes/index.ts";
import { parseJson, promptToJson } from "../../workflow/index.ts";
import {
  type FinishedPrompt,
  type PromptQueue,
  type QueuedPrompt,
  type RunningPrompt,
  workflowIdOf,
} from "../prompt-queue.ts";
import { jsonReply, type Reply, type Routes } from "./router.ts";

type Job = Readonly<{ id: string; status: string; create_time: number }> &
  Readonly<Record<string, unknown>>;

const STATUSES = ["pending", "in_progress", "completed", "failed", "cancelled"];
const SORTS = ["created_at", "execution_duration"];

/** Bare /jobs is no route in ComfyUI; here it is one, and nobody asks for it. */
export function jobRoutes(queue: PromptQueue): Routes {
  return {
    "GET /jobs": ({ query }) => listJobs(queue, query),
    "GET /jobs/:id": ({ params }) => showJob(queue, params["id"] ?? ""),
  };
}

function listJobs(queue: PromptQueue, query: URLSearchParams): Reply {
  const statuses = (query.get("status") ?? STATUSES.join(",")).split(",").map((s) => s.trim());
  const wrong = statuses.filter((status) => !STATUSES.includes(status));
  if (wrong.length > 0) return problem(`Invalid status value(s): ${wrong.join(", ")}`);
  const sortBy = query.get("sort_by") ?? "created_at";
  if (!SORTS.includes(sortBy)) return problem(`sort_by must be one of: ${SORTS.join(", ")}`);
  const order = query.get("sort_order") ?? "desc";
  if (order !== "asc" && order !== "desc") return problem("sort_order must be 'asc' or 'desc'");
  const limit = query.has("limit") ? Number(query.get("limit")) : null;
  if (limit !== null && !(Number.isInteger(limit) && limit > 0)) {
    return problem("limit must be a positive integer");
  }
  const offset = Math.max(0, Number(query.get("offset") ?? 0) || 0);
  const workflow = query.get("workflow_id");
  const key = (job: Job) => (sortBy === "created_at" ? job.create_time : durationOf(job));
  const jobs = allJobs(queue)
    .filter((job) => statuses.includes(job.status))
    .filter((job) => workflow === null || job["workflow_id"] === workflow)
    .sort((a, b) => (order === "asc" ? key(a) - key(b) : key(b) - key(a)));
  const page = jobs.slice(offset, limit === null ? undefined : offset + limit);
  const pagination = {
    offset,
    limit: limit ?? jobs.length,
    total: jobs.length,
    has_more: offset + page.length < jobs.length,
  };
  return jsonReply({ jobs: page, pagination });
}

function problem(error: string, status = 400): Reply {
  return jsonReply({ error }, status);
}

function durationOf(job: Job): number {
  return Number(job["execution_end_time"] ?? 0) - Number(job["execution_start_time"] ?? 0);
}

function allJobs(queue: PromptQueue): Job[] {
  return [
    ...queue.pending.map((prompt) => openJob(prompt, "pending")),
    ...queue.running.map((prompt) => openJob(prompt, "in_progress")),
    ...queue.history.map(finishedJob),
  ];
}

function openJob(prompt: QueuedPrompt | RunningPrompt, status: string): Job {
  return {
    id: prompt.id,
    status,
    priority: prompt.number,
    create_time: prompt.createdAtMs,
    ...("startedAtMs" in prompt ? { execution_start_time: prompt.startedAtMs } : {}),
    outputs_count: 0,
    workflow_id: workflowIdOf(prompt.extraData),
  };
}

function finishedJob(prompt: FinishedPrompt): Job {
  const { outcome } = prompt;
  const names = { success: "completed", error: "failed", cancelled: "cancelled" } as const;
  const failure = outcome.messages.find(([type]) => type === "execution_error");
  const files = [...outcome.outputs].flatMap(([node, ui]) => filesOf(node, ui));
  return {
    id: prompt.id,
    status: names[outcome.status],
    priority: prompt.number,
    create_time: prompt.createdAtMs,
    execution_start_time: prompt.startedAtMs,
    execution_end_time: prompt.endedAtMs,
    execution_error: failure?.[1],
    outputs_count: files.length,
    preview_output: files.find(({ type }) => type === "output") ?? files[0],
    workflow_id: prompt.workflowId,
  };
}

type OutputFile = Readonly<{ type: unknown; nodeId: string; mediaType: string }>;

/** Pictures and other files a node shows; plain texts are none. */
function filesOf(nodeId: string, ui: NodeUi): OutputFile[] {
  return Object.entries(ui).flatMap(([mediaType, items]) =>
    items.flatMap((item) => {
      const file = Object(item) as Record<string, unknown>;
      return "filename" in file ? [{ ...file, type: file["type"], nodeId, mediaType }] : [];
    }),
  );
}

function showJob(queue: PromptQueue, id: string): Reply {
  const finished = queue.findFinished(id);
  if (finished !== undefined) {
    const item = parseJson(finished.item.text);
    const [, , prompt, extra_data] = Array.isArray(item) ? item : [];
    return jsonReply({
      ...finishedJob(finished),
      outputs: Object.fromEntries(finished.outcome.outputs),
      execution_status: {
        status_str: finished.outcome.status === "success" ? "success" : "error",
        completed: finished.outcome.status === "success",
        messages: finished.outcome.messages,
      },
      workflow: { prompt, extra_data },
    });
  }
  const running = queue.running.find((prompt) => prompt.id === id);
  const open = running ?? queue.pending.find((prompt) => prompt.id === id);
  if (open === undefined) return problem("Job not found", 404);
  return jsonReply({
    ...openJob(open, running === undefined ? "pending" : "in_progress"),
    outputs: {},
    workflow: { prompt: promptToJson(open.validation.prompt), extra_data: open.extraData },
  });
}
