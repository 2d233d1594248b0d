/** What clients are told of nodes that decide while they run, and pictures sent as messages. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { defineNode, ExecutionBlocker, output, readPictureFile } from "../../src/nodes/index.ts";
import { type Json, startTestInstance, type TestInstance } from "../support/test-instance.ts";

/** Two pictures in its own place: inverted, and inverted twice. */
const twice = defineNode({
  name: "Twice",
  displayName: "Twice",
  category: "test",
  inputs: { image: { type: "IMAGE" } },
  outputs: [output("IMAGE")],
  run: ({ image }) => ({
    outputs: [["b", 0]],
    expand: {
      a: { class_type: "ImageInvert", inputs: { image } },
      b: { class_type: "ImageInvert", inputs: { image: ["a", 0] } },
      p: { class_type: "PreviewImage", inputs: { images: ["a", 0] } },
    },
  }),
});
const block = defineNode({
  name: "Block",
  displayName: "Block",
  category: "test",
  inputs: {},
  outputs: [output("IMAGE")],
  run: () => ({ outputs: [new ExecutionBlocker("nothing to show")] }),
});

let here: TestInstance;
beforeAll(async () => {
  here = await startTestInstance({ nodes: [twice, block] });
});
afterAll(() => here.close());

let clients = 0;
let colors = 0;
const E = (): Json => ({
  class_type: "EmptyImage",
  inputs: { width: 8, height: 4, batch_size: 1, color: ++colors },
});
const save = (from: string): Json => ({
  class_type: "SaveImage",
  inputs: { images: [from, 0], filename_prefix: "g" },
});

async function run(prompt: Json, flags?: Record<string, unknown>) {
  const client_id = `graph-${++clients}`;
  const listener = await here.listen(client_id, flags);
  const { status, json } = await here.post("/prompt", { prompt, client_id });
  expect([status, json.node_errors]).toEqual([200, {}]);
  await listener.end(json.prompt_id);
  return { listener, entry: (await here.get(`/history/${json.prompt_id}`))[json.prompt_id] };
}

test("a switch told by a link: only its side runs, and it is told again after the wait", async () => {
  const { listener, entry } = await run({
    on: { class_type: "PrimitiveBoolean", inputs: { value: false } },
    f: E(),
    t: E(),
    s: {
      class_type: "ComfySwitchNode",
      inputs: { switch: ["on", 0], on_false: ["f", 0], on_true: ["t", 0] },
    },
    o: save("s"),
  });
  expect(listener.of("executing").map(({ node }) => node)).toEqual([
    "on",
    "s",
    "f",
    "s",
    "o",
    null,
  ]);
  expect(entry.status.status_str).toBe("success");
});

test("nodes in a node's place are shown as that node, which runs until they are done", async () => {
  const { listener, entry } = await run({
    1: E(),
    p: { class_type: "Twice", inputs: { image: ["1", 0] } },
    o: save("p"),
  });
  const executing = listener.of("executing").map(({ node, display_node }) => [node, display_node]);
  expect(executing).toContainEqual(["p.0.0.a", "p"]);
  const states = listener.of("progress_state").map(({ nodes }) => nodes as Json);
  expect(
    states.some((nodes) => nodes["p.0.0.b"]?.state === "finished" && nodes.p.state === "running"),
  ).toBe(true);
  expect(states.at(-1)["p.0.0.a"]).toMatchObject({
    ...{ node_id: "p.0.0.a", display_node_id: "p", parent_node_id: "p", real_node_id: "p" },
  });
  expect(states.at(-1).p).toMatchObject({ state: "finished", parent_node_id: null });
  expect(
    listener
      .of("executed")
      .map(({ node, display_node }) => [node, display_node])
      .sort(),
  ).toEqual([
    ["o", "o"],
    ["p.0.0.p", "p"],
  ]);
  expect(entry.meta["p.0.0.p"]).toEqual({
    ...{ node_id: "p.0.0.p", display_node: "p", parent_node: "p", real_node_id: "p" },
  });
});

test("a blocked output is told as an error and the run succeeds without it", async () => {
  const { listener, entry } = await run({
    b: { class_type: "Block", inputs: {} },
    no: save("b"),
    1: E(),
    yes: save("1"),
  });
  expect(listener.of("execution_error")).toMatchObject([
    {
      ...{ node_id: "no", node_type: "SaveImage", exception_type: "ExecutionBlocked" },
      exception_message: "Execution Blocked: nothing to show",
    },
  ]);
  expect(listener.of("execution_error")[0]).not.toHaveProperty("timestamp");
  expect(listener.of("execution_success").length).toBe(1);
  expect(Object.keys(entry.outputs)).toEqual(["yes"]);
  expect(entry.status.messages.map(([type]: [string]) => type)).toEqual([
    ...["execution_start", "execution_cached", "execution_success"],
  ]);
});

test("SaveImageWebsocket sends PNG messages of the kind that the client takes, every time", async () => {
  const prompt = {
    1: { ...E(), inputs: { ...E().inputs, batch_size: 2 } },
    w: { class_type: "SaveImageWebsocket", inputs: { images: ["1", 0] } },
  };
  for (const flags of [undefined, { supports_preview_metadata: true }]) {
    const { listener, entry } = await run(prompt, flags);
    const frames = listener.messages.flatMap((m) => ("bytes" in m ? [m.bytes] : []));
    expect(frames.map((bytes) => bytes.readUInt32BE(0))).toEqual(flags ? [4, 4] : [1, 1]);
    for (const bytes of frames) {
      const begin = flags ? 8 + bytes.readUInt32BE(4) : 8;
      const { width, height } = await readPictureFile(bytes.subarray(begin), "frame");
      expect([width, height]).toEqual([8, 4]);
    }
    expect(entry.outputs).toEqual({});
    expect(listener.of("executed")).toEqual([]);
  }
});
