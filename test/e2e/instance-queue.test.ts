/**
 * The queue while a prompt runs, and interrupting it.
 * The numbers are those of the cases recorded from ComfyUI 0.18.1 with a logging proxy.
 */
import { afterAll, expect, test } from "vitest";
import { defineNode, output } from "../../src/nodes/index.ts";
import { E, S, startApiTest } from "../support/api-test.ts";
import type { Json, Listener } from "../support/test-instance.ts";

/** The node runs until a test lets it go on, telling its progress. */
const gates = new Map<string, () => void>();
const slow = defineNode({
  name: "Slow",
  displayName: "Slow",
  category: "test",
  inputs: { image: { type: "IMAGE" }, gate: { type: "STRING" } },
  outputs: [output("IMAGE")],
  async run({ image, gate }, { signal, progress }) {
    progress({ value: 1, max: 2 });
    await new Promise<void>((resolve, reject) => {
      gates.set(gate, resolve);
      signal.addEventListener("abort", () => reject(new Error("aborted")));
    });
    progress({ value: 2, max: 2 });
    return { outputs: [image] };
  },
});

const { here, close } = await startApiTest([slow]);
afterAll(close);

async function slowPrompt(gate: string): Promise<{ id: string; listener: Listener }> {
  const listener = await here.listen(gate);
  const node = { class_type: "Slow", inputs: { image: ["1", 0], gate } };
  const prompt = { 1: E(), s: node, 2: S("s") };
  const { json } = await here.post("/prompt", { prompt, client_id: gate });
  await listener.until(({ type, data }) => type === "progress" && data["value"] === 1);
  return { id: json.prompt_id, listener };
}

test("16 the queue: order, front, delete and clear while one runs", async () => {
  const { id, listener } = await slowPrompt("queue");
  const post = async (extra: Json) =>
    (await here.post("/prompt", { prompt: { 1: E(), 2: S() }, ...extra })).json.prompt_id;
  const [first, second] = [await post({}), await post({})];
  const front = await post({ front: true });
  const queue = await here.get("/queue");
  expect(queue.queue_running.map((item: Json[]) => [item.length, item[1]])).toEqual([[5, id]]);
  const sorted = queue.queue_pending.sort((a: Json, b: Json) => a[0] - b[0]);
  expect(sorted.map((item: Json) => item[1])).toEqual([front, first, second]);
  expect((await here.get("/prompt")).exec_info.queue_remaining).toBe(4);
  await here.post("/queue", { delete: [second, id] });
  await here.post("/api/queue", { clear: true });
  expect((await here.get("/queue")).queue_pending).toEqual([]);
  expect((await here.get("/queue")).queue_running.length).toBe(1);
  const late = await here.listen("queue");
  expect(late.of("status")[0]).toMatchObject({ sid: "queue" });
  await late.until(({ type, data }) => type === "executing" && data["node"] === "s");
  gates.get("queue")?.();
  await late.end(id);
  expect(await here.get(`/history/${second}`)).toEqual({});
  expect(listener.of("execution_success")).toEqual([]); // The newer socket of this id hears it.
});

test("17 interrupting another prompt does nothing; an empty body stops the one that runs", async () => {
  const { id, listener } = await slowPrompt("stop");
  expect((await here.post("/interrupt", { prompt_id: "other" })).status).toBe(200);
  expect((await here.get("/queue")).queue_running.length).toBe(1);
  expect((await here.post("/api/interrupt", "")).status).toBe(200);
  await listener.end(id);
  expect(listener.of("execution_interrupted")).toEqual([
    {
      ...{ prompt_id: id, node_id: "s", node_type: "Slow", executed: ["1"] },
      timestamp: expect.any(Number),
    },
  ]);
  const entry = (await here.get(`/history/${id}`))[id];
  expect(entry.status).toMatchObject({ status_str: "error", completed: false });
  expect((await here.get(`/api/jobs/${id}`)).status).toBe("cancelled");
});
