import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseJson, type Validation } from "../workflow/index.ts";
import { mayEnter } from "./access.ts";
import { loadNodePacks } from "./load-node-packs.ts";
import { PromptQueue, type QueuedPrompt } from "./prompt-queue.ts";
import { RawJson, toWireJson } from "./wire-json.ts";

const validation: Validation = { prompt: new Map(), outputs: [], nodeErrors: {}, problems: [] };
const prompt = (id: string, number: number): QueuedPrompt => ({
  ...{ id, number, validation, extraData: new Map(), clientId: undefined, createdAtMs: 0 },
});

test("prompts run by number, equal ones by id, and each is in one place only", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -3, max: 3 }), { maxLength: 20 }), (numbers) => {
      const queue = new PromptQueue();
      const all = numbers.map((number, index) => prompt(String(index).padStart(2, "0"), number));
      for (const each of all) queue.put(each);
      const order: QueuedPrompt[] = [];
      for (let next = queue.begin(1); next !== undefined; next = queue.begin(1)) {
        order.push(next);
        expect(queue.remaining).toBe(all.length - order.length + 1);
        queue.finish(
          next,
          { status: "success", outputs: new Map(), origins: new Map(), messages: [] },
          2,
        );
        expect(queue.findFinished(next.id)?.endedAtMs).toBe(2);
      }
      const key = ({ number, id }: QueuedPrompt): [number, string] => [number, id];
      const sorted = [...all].sort((a, b) => a.number - b.number || (a.id < b.id ? -1 : 1));
      expect(order.map(key)).toEqual(sorted.map(key));
    }),
  );
});

test("interrupting names one running prompt, or means all", () => {
  const queue = new PromptQueue();
  queue.put(prompt("a", 0));
  queue.put(prompt("b", 1));
  const running = [queue.begin(0), queue.begin(0)];
  queue.interrupt("b");
  expect(running.map((each) => each?.abort.signal.aborted)).toEqual([false, true]);
  queue.interrupt();
  expect(running.map((each) => each?.abort.signal.aborted)).toEqual([true, true]);
});

test("JSON for clients is what JSON.stringify writes, and keeps what that would lose", () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      expect(JSON.parse(toWireJson(value))).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
  const came = parseJson('{"10": 1.0, "2": 18446744073709551615}');
  expect(toWireJson({ came, raw: new RawJson("[1]"), left: undefined, big: 2n ** 64n })).toBe(
    '{"came":{"10": 1.0, "2": 18446744073709551615},"raw":[1],"big":18446744073709551616}',
  );
});

test("pages of other sites and foreign host names may not enter", () => {
  const knock = (host?: string, origin?: string, fetchSite?: string) =>
    mayEnter({ host, origin, fetchSite }, ["gpu.lan"]);
  expect(knock("127.0.0.1:8188")).toBe(true);
  expect(knock("localhost:8188", "http://localhost:8188")).toBe(true);
  expect(knock("gpu.lan", "https://gpu.lan")).toBe(true);
  expect(knock("localhost:8188", "http://127.0.0.1:8188")).toBe(false);
  expect(knock("localhost:8188", "null")).toBe(false);
  expect(knock("evil.example:8188", "http://evil.example:8188")).toBe(false);
  expect(knock("127.0.0.1:8188", undefined, "cross-site")).toBe(false);
  expect(knock()).toBe(false);
});

test("a pack's nodes are completed; a faulty one is named", async () => {
  const [vignette] = await loadNodePacks(new URL("../../examples/nodes", import.meta.url).pathname);
  expect(vignette).toMatchObject({ name: "ExampleVignette", isOutput: false, isInputList: false });
  const image = { shape: [1, 3, 3, 3], data: new Float32Array(27).fill(1) };
  const result = await vignette?.run({ image, strength: 1 }, {} as never);
  const [out] = (result?.outputs ?? []) as (typeof image)[];
  expect([out?.data[0], out?.data[12]]).toEqual([0, 1]);
  const folder = await mkdtemp(join(tmpdir(), "luna-nodes-"));
  try {
    await writeFile(join(folder, "bad.mjs"), 'export const node = { name: "Bad", inputs: {} };');
    await expect(loadNodePacks(folder)).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringMatching(/bad\.mjs: a node Bad needs `outputs`/),
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});
