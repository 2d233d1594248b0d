/** Nodes that decide while they run: lazy inputs, nodes in their own place, blocked outputs. */
import { expect, test } from "vitest";
import { FakeServices } from "../../test/support/fake-models.ts";
import {
  defineNode,
  ExecutionBlocker,
  type ExpandedGraph,
  NODE_DEFINITIONS,
  output,
} from "../nodes/index.ts";
import { createWorkflowRunner, type WorkflowEvent } from "./index.ts";

const nodes = [
  defineNode({
    name: "Join",
    displayName: "Join",
    category: "test",
    inputs: { a: { type: "*" }, b: { type: "*", isOptional: true } },
    outputs: [output("*")],
    run: ({ a, b }) => ({ outputs: [`(${String(a)}+${String(b ?? "")})`] }),
  }),
  defineNode({
    name: "Show",
    displayName: "Show",
    category: "test",
    isOutput: true,
    inputs: { value: { type: "*" } },
    outputs: [],
    run: ({ value }) => ({ outputs: [], ui: { text: [value] } }),
  }),
  /** Joins its input n times, a node a time, by making the next of its kind. */
  defineNode({
    name: "Repeat",
    displayName: "Repeat",
    category: "test",
    inputs: { value: { type: "*" }, times: { type: "INT" } },
    outputs: [output("*")],
    run: ({ value, times }) => {
      if (times === 0) return { outputs: [value] };
      const expand = {
        j: { class_type: "Join", inputs: { a: value } },
        r: { class_type: "Repeat", inputs: { value: ["j", 0], times: times - 1 } },
      };
      return { outputs: [["r", 0]], expand };
    },
  }),
  /** Makes the nodes that its test gives, and passes on what a link into them stands for. */
  defineNode({
    name: "Make",
    displayName: "Make",
    category: "test",
    inputs: { graph: { type: "STRING" }, out: { type: "STRING" }, parts: { type: "*" } },
    outputs: [output("*")],
    run: ({ graph, out }) => ({
      outputs: [[out, 0]],
      expand: JSON.parse(graph) as ExpandedGraph,
    }),
  }),
  defineNode({
    name: "Block",
    displayName: "Block",
    category: "test",
    inputs: { message: { type: "STRING", isOptional: true } },
    outputs: [output("*", "open"), output("*", "blocked")],
    run: ({ message }) => ({ outputs: ["x", new ExecutionBlocker(message)] }),
  }),
  defineNode({
    name: "Parts",
    displayName: "Parts",
    category: "test",
    inputs: { text: { type: "STRING" } },
    outputs: [{ type: "*", name: "parts", isList: true }],
    run: ({ text }) => ({ outputs: [text.split(",")] }),
  }),
];

const definitions = new Map([
  ...NODE_DEFINITIONS,
  ...nodes.map((each) => [each.name, each] as const),
]);
const makeRunner = (concurrency = 1) =>
  createWorkflowRunner({ definitions, services: new FakeServices(), concurrency });

const node = (class_type: string, inputs: Record<string, unknown>) => ({ class_type, inputs });

async function run(prompt: Record<string, unknown>, runner = makeRunner()) {
  const events: WorkflowEvent[] = [];
  const onEvent = (event: WorkflowEvent) => void events.push(event);
  const result = await runner.run(JSON.stringify(prompt), { onEvent });
  const executing = events.flatMap((e) => (e.type === "executing" ? [e.node] : []));
  return { ...result, events, executing, text: (id: string) => result.outputs.get(id)?.["text"] };
}

const string = (value: string) => node("PrimitiveString", { value });

test("a switch makes the side that it takes, also when it is told by a link", async () => {
  const prompt = (isOn: boolean, turn: unknown) => ({
    b: node("PrimitiveBoolean", { value: isOn }),
    f: string("no"),
    t: string("yes"),
    s: node("ComfySwitchNode", { switch: turn, on_false: ["f", 0], on_true: ["t", 0] }),
    o: node("Show", { value: ["s", 0] }),
  });
  const runner = makeRunner();
  const on = await run(prompt(true, ["b", 0]), runner);
  // Told again each time that the node asks for more, as ComfyUI does.
  expect(on.executing).toEqual(["b", "s", "t", "s", "o"]);
  expect(on.text("o")).toEqual(["yes"]);
  const again = await run(prompt(true, ["b", 0]), runner);
  expect(again.executing).toEqual([]);
  const off = await run(prompt(false, ["b", 0]), runner);
  expect([off.executing, off.text("o")]).toEqual([["b", "s", "f", "s", "o"], ["no"]]);
  expect((await run(prompt(true, false))).executing).toEqual(["s", "f", "s", "o"]);
});

test("nodes in a node's own place run under its name and feed its outputs", async () => {
  const graph = JSON.stringify({
    a: string("inner"),
    j: node("Join", { a: ["a", 0], b: ["outer", 0] }),
    s: node("Show", { value: ["j", 0] }),
  });
  const prompt = {
    outer: string("outer"),
    p: node("Make", { graph, out: "j", parts: "" }),
    o: node("Show", { value: ["p", 0] }),
  };
  const runner = makeRunner();
  const made = await run(prompt, runner);
  expect(made.text("o")).toEqual(["(inner+outer)"]);
  expect(made.text("p.0.0.s")).toEqual(["(inner+outer)"]);
  expect(made.events).toContainEqual({
    type: "expanded",
    node: "p",
    nodes: ["p.0.0.a", "p.0.0.j", "p.0.0.s"],
  });
  expect(made.executing.sort()).toEqual(["o", "outer", "p", "p.0.0.a", "p.0.0.j", "p.0.0.s"]);
  expect((await run(prompt, runner)).executing).toEqual([]);
});

test("each run over a list makes nodes of its own, and nodes made may make others", async () => {
  const prompt = {
    l: node("Parts", { text: "x,y" }),
    r: node("Repeat", { value: ["l", 0], times: 3 }),
    o: node("Show", { value: ["r", 0] }),
  };
  for (const concurrency of [1, 4]) {
    const made = await run(prompt, makeRunner(concurrency));
    expect(made.text("o")).toEqual(["(((x+)+)+)", "(((y+)+)+)"]);
    expect(made.executing).toContain("r.1.0.r.0.0.r.0.0.r");
  }
  const deep = { ...prompt, r: node("Repeat", { value: "z", times: 200 }) };
  expect(String((await run(deep)).text("o")).length).toBe(1 + 3 * 200);
});

test("nodes that cannot be made are one clear error of the node that made them", async () => {
  const make = (graph: object, out = "a") =>
    run({
      p: node("Make", { graph: JSON.stringify(graph), out, parts: "" }),
      q: node("Join", { a: ["p", 0] }),
      o: node("Show", { value: ["q", 0] }),
    });
  const refused = (text: RegExp) => ({
    code: "WORKFLOW_INVALID",
    message: expect.stringMatching(text),
    details: expect.objectContaining({ nodeId: "p" }),
  });
  await expect(make({ a: node("Nope", {}) })).rejects.toMatchObject(refused(/class Nope/));
  await expect(make({ a: node("Join", { a: ["zz", 0] }) })).rejects.toMatchObject(refused(/zz/));
  const cycle = { a: node("Join", { a: ["b", 0] }), b: node("Join", { a: ["a", 0] }) };
  await expect(make(cycle)).rejects.toMatchObject(refused(/cycle/));
  // A node that needs the one that made it would wait for ever.
  const back = { a: node("Join", { a: ["q", 0] }) };
  await expect(make(back)).rejects.toMatchObject(refused(/wait for it/));
  const failing = { a: node("VAEDecode", { samples: "", vae: "" }) };
  await expect(make(failing)).rejects.toMatchObject({
    details: { nodeId: "p", nodeType: "VAEDecode" },
  });
});

test("a blocked output stops what depends on it and nothing else", async () => {
  const prompt = (message?: string) => ({
    b: node("Block", message === undefined ? {} : { message }),
    j: node("Join", { a: ["b", 1] }),
    stopped: node("Show", { value: ["j", 0] }),
    runs: node("Show", { value: ["b", 0] }),
  });
  const told = await run(prompt("no reference picture"));
  expect([...told.outputs.keys()]).toEqual(["runs"]);
  expect(told.events.filter(({ type }) => type === "blocked")).toMatchObject([
    { node: "j", message: "no reference picture" },
  ]);
  expect(told.events.at(-1)).toEqual({ type: "succeeded" });
  const silent = await run(prompt());
  expect(silent.events.some(({ type }) => type === "blocked")).toBe(false);
  expect([...silent.outputs.keys()]).toEqual(["runs"]);
});
