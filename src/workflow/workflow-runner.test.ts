import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { defineNode, type NodeDefinition, type NodeServices, output } from "../nodes/index.ts";
import { createWorkflowRunner, parsePrompt, type WorkflowEvent } from "./index.ts";

const services: NodeServices = {
  openCheckpoint: () => Promise.reject(new Error("not used")),
  daemonStatus: () => Promise.reject(new Error("not used")),
  listFiles: async () => ["a.safetensors", "b.safetensors"],
  listInputImages: async () => [],
  readInputImage: async (name) => (name === "there.png" ? new Uint8Array(1) : undefined),
  listOutputs: async () => [],
  writeOutput: async () => true,
  loadEmbedding: async () => undefined,
  tokenizer: { tokenize: () => [] },
  log: () => undefined,
  now: () => 0,
};

/** Numbers travel as STRING sockets would: the executor does not look at values. */
function fakeNodes(ticks: () => number = () => 0): NodeDefinition[] {
  const wait = async () => {
    for (let i = ticks(); i > 0; i--) await Promise.resolve();
  };
  return [
    defineNode({
      name: "Value",
      displayName: "Value",
      category: "test",
      inputs: {
        text: { type: "STRING" },
        count: { type: "INT", min: 1, max: 100, isOptional: true },
        seed: { type: "SEED", isOptional: true },
        strength: { type: "FLOAT", min: 0, max: 2, isOptional: true },
        mode: { type: "COMBO", choices: ["on", "off"], isOptional: true },
        file: { type: "COMBO", choices: "loras", isOptional: true },
      },
      outputs: [output("STRING")],
      async run({ text, seed }) {
        await wait();
        return { outputs: [seed === undefined ? text : `${text}${seed}`] };
      },
    }),
    defineNode({
      name: "Join",
      displayName: "Join",
      category: "test",
      inputs: {
        a: { type: "LORA_STACK" },
        b: { type: "LORA_STACK", isOptional: true },
      },
      outputs: [output("LORA_STACK")],
      async run({ a, b }) {
        await wait();
        return { outputs: [`(${String(a)}+${String(b ?? "")})`] };
      },
    }),
    defineNode({
      name: "Leaf",
      displayName: "Leaf",
      category: "test",
      inputs: { text: { type: "STRING" } },
      outputs: [output("LORA_STACK")],
      async run({ text }) {
        await wait();
        return { outputs: [text] };
      },
    }),
    defineNode({
      name: "Split",
      displayName: "Split",
      category: "test",
      inputs: { text: { type: "STRING" } },
      outputs: [{ type: "STRING", name: "parts", isList: true }],
      run: ({ text }) => ({ outputs: [text.split(",").filter((part) => part !== "")] }),
    }),
    defineNode({
      name: "Show",
      displayName: "Show",
      category: "test",
      isOutput: true,
      inputs: { value: { type: "LORA_STACK" } },
      outputs: [],
      run: ({ value }, context) => {
        context.progress({ value: 1, max: 1 });
        return { outputs: [], ui: { text: [value] } };
      },
    }),
    defineNode({
      name: "ShowText",
      displayName: "Show text",
      category: "test",
      isOutput: true,
      inputs: { value: { type: "STRING" }, suffix: { type: "STRING", isOptional: true } },
      outputs: [],
      run: ({ value, suffix }, context) => ({
        outputs: [],
        ui: { text: [value + (suffix ?? "")], metadata: context.metadata() },
      }),
    }),
    defineNode({
      name: "Picture",
      displayName: "Picture",
      category: "test",
      isOutput: true,
      inputs: { image: { type: "COMBO", choices: "input images", isOpen: true } },
      outputs: [],
      check: async ({ image }, { readInputImage }) =>
        (await readInputImage(String(image))) === undefined
          ? [["image", `Invalid image file: ${image}`]]
          : [],
      run: () => ({ outputs: [] }),
    }),
    defineNode({
      name: "Fail",
      displayName: "Fail",
      category: "test",
      isOutput: true,
      inputs: { value: { type: "STRING" } },
      outputs: [],
      run: () => Promise.reject(new LunaError("ENGINE_CRASHED", "The engine is gone.")),
    }),
  ];
}

function makeRunner(concurrency = 1, ticks?: () => number) {
  const definitions = new Map(fakeNodes(ticks).map((node) => [node.name, node]));
  return createWorkflowRunner({ definitions, services, concurrency });
}

const node = (class_type: string, inputs: Record<string, unknown>) => ({ class_type, inputs });
const text = (prompt: Record<string, unknown>) => JSON.stringify(prompt);

async function failure(promise: Promise<unknown>): Promise<LunaError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof LunaError)) throw new Error(`Not a LunaError: ${String(error)}`);
  return error;
}

/** Runs a prompt that must be refused; returns ComfyUI's JSON of it. */
async function refusal(prompt: Record<string, unknown>) {
  const error = await failure(makeRunner().run(text(prompt)));
  expect(error.code).toBe("WORKFLOW_INVALID");
  type Fault = { type: string; details: string; message: string; extra_info: object };
  type Details = {
    error: Fault;
    node_errors: Record<string, { errors: Fault[]; dependent_outputs: string[] }>;
  };
  return { text: error.message, ...(error.details as Details) };
}

/** Error types of one node under a Value node with the given inputs. */
async function valueFaults(inputs: Record<string, unknown>) {
  const { node_errors } = await refusal({
    v: node("Value", { text: "x", ...inputs }),
    s: node("ShowText", { value: ["v", 0] }),
  });
  expect(node_errors["v"]?.dependent_outputs).toEqual(["s"]);
  return node_errors["v"]?.errors.map(({ type, details, message }) => [type, details, message]);
}

test("faults are named as ComfyUI names them", async () => {
  expect(await valueFaults({ count: 0 })).toEqual([
    ["value_smaller_than_min", "count", "Value 0 smaller than min of 1"],
  ]);
  expect(await valueFaults({ count: 101, strength: 3 })).toEqual([
    ["value_bigger_than_max", "count", "Value 101 bigger than max of 100"],
    ["value_bigger_than_max", "strength", "Value 3.0 bigger than max of 2.0"],
  ]);
  expect(await valueFaults({ count: "abc" })).toEqual([
    [
      "invalid_input_type",
      "count, abc, invalid literal for int() with base 10: 'abc'",
      "Failed to convert an input value to a INT value",
    ],
  ]);
  expect(await valueFaults({ count: null, strength: "x" })).toEqual([
    [
      "invalid_input_type",
      "count, None, int() argument must be a string, a bytes-like object or a real number, not 'NoneType'",
      "Failed to convert an input value to a INT value",
    ],
    [
      "invalid_input_type",
      "strength, x, could not convert string to float: 'x'",
      "Failed to convert an input value to a FLOAT value",
    ],
  ]);
  expect(await valueFaults({ mode: "zzz" })).toEqual([
    ["value_not_in_list", "mode: 'zzz' not in ['on', 'off']", "Value not in list"],
  ]);
  expect(await valueFaults({ seed: -1 })).toEqual([
    ["value_smaller_than_min", "seed", "Value -1 smaller than min of 0"],
  ]);
  expect(await valueFaults({ seed: 2 ** 65 })).toEqual([
    [
      "value_bigger_than_max",
      "seed",
      "Value 36893488147419103000 bigger than max of 18446744073709551615",
    ],
  ]);
});

test("links are checked: type, slot, node, form", async () => {
  const mismatch = await refusal({
    v: node("Value", { text: "x" }),
    s: node("Show", { value: ["v", 0] }),
  });
  expect(mismatch.node_errors["s"]?.errors[0]?.details).toBe(
    "value, received_type(STRING) mismatch input_type(LORA_STACK)",
  );
  expect(mismatch.error.details).toMatch(/^Return type mismatch between linked nodes: value, /);
  const missing = await refusal({ s: node("Show", { value: ["99", 0] }) });
  expect(missing.node_errors["s"]?.errors[0]).toMatchObject({
    type: "exception_during_validation",
    details: "'99'",
    extra_info: { exception_type: "KeyError" },
  });
  const slot = await refusal({
    l: node("Leaf", { text: "x" }),
    j: node("Join", { a: ["l", 5] }),
    s: node("Show", { value: ["j", 0] }),
  });
  expect(slot.node_errors["j"]?.errors[0]).toMatchObject({
    type: "exception_during_inner_validation",
    details: "tuple index out of range",
  });
  const form = await refusal({ s: node("Show", { value: [1, 2, 3] }) });
  expect(form.node_errors["s"]?.errors[0]?.type).toBe("bad_linked_input");
  const absent = await refusal({ s: node("Show", {}) });
  expect(absent.node_errors["s"]?.errors[0]?.type).toBe("required_input_missing");
  expect(absent.text).toBe("Node s (Show): Required input is missing: value.");
  const picture = await refusal({ p: node("Picture", { image: "nope.png" }) });
  expect(picture.node_errors["p"]?.errors[0]?.details).toBe("image - Invalid image file: nope.png");
});

test("cycles, unknown nodes, prompts without outputs and files that are no prompts are refused", async () => {
  const cycle = await refusal({
    a: node("Join", { a: ["b", 0] }),
    b: node("Join", { a: ["a", 0] }),
    s: node("Show", { value: ["a", 0] }),
  });
  expect(cycle.text).toBe("Nodes form a cycle: a -> b -> a.");
  expect(cycle.error).toMatchObject({ type: "prompt_outputs_failed_validation", details: "" });
  expect(cycle.node_errors).toEqual({});
  const unknown = await refusal({ 1: { class_type: "Nope", inputs: {}, _meta: { title: "T" } } });
  expect(unknown.error).toEqual({
    type: "missing_node_type",
    message: "Node 'T' not found. The custom node may not be installed.",
    details: "Node ID '#1'",
    extra_info: { node_id: "1", class_type: "Nope", node_title: "T" },
  });
  expect((await refusal({ 1: node("Leaf", { text: "" }) })).error.type).toBe("prompt_no_outputs");
  expect((await refusal({ 1: { inputs: {} } })).error.type).toBe("missing_node_type");
  for (const bad of ["[]", "{", '{"a":1}', '{"nodes":[],"links":[]}', '{"1":{"inputs":3}}']) {
    expect((await failure(makeRunner().run(bad))).code).toBe("WORKFLOW_INVALID");
  }
});

test("one good output runs although another is bad, and scalars are converted", async () => {
  const result = await makeRunner().run(
    text({
      good: node("ShowText", { value: 12, suffix: true }),
      bad: node("ShowText", {}),
    }),
  );
  expect(result.outputs.get("good")?.["text"]).toEqual(["12True"]);
  expect(Object.keys(result.validation.nodeErrors)).toEqual(["bad"]);
});

test("metadata is the prompt that ran, as Python writes it, seeds to the last digit", async () => {
  const prompt = `{"10": {"class_type": "Value", "inputs": {"text": "é", "seed": 18446744073709551615,
    "strength": 1}, "is_changed": ["x"]}, "2": {"class_type": "ShowText", "inputs": {"value": ["10", 0]}}}`;
  const workflow = new Map([["n", 0.5]]);
  const result = await makeRunner().run(prompt, {
    extraPngInfo: new Map([["workflow", workflow]]),
  });
  expect(result.outputs.get("2")?.["text"]).toEqual(["é18446744073709551615"]);
  expect(result.outputs.get("2")?.["metadata"]).toEqual([
    [
      "prompt",
      '{"10": {"class_type": "Value", "inputs": {"text": "\\u00e9", "seed": 18446744073709551615, ' +
        '"strength": 1.0}}, "2": {"class_type": "ShowText", "inputs": {"value": ["10", 0]}}}',
    ],
    ["workflow", '{"n": 0.5}'],
  ]);
});

test("lists run a node once an item and short lists repeat their last", async () => {
  const prompt = (parts: string) =>
    text({
      p: node("Split", { text: parts }),
      q: node("Split", { text: "1,2" }),
      s: node("ShowText", { value: ["p", 0], suffix: ["q", 0] }),
    });
  const result = await makeRunner().run(prompt("a,b,c"));
  expect(result.outputs.get("s")?.["text"]).toEqual(["a1", "b2", "c2"]);
  expect((await failure(makeRunner().run(prompt("")))).message).toMatch(/value got an empty list/);
});

test("results are kept for the next prompt under other ids, twins run once", async () => {
  const runner = makeRunner();
  const events: WorkflowEvent[] = [];
  const prompt = (suffix: string, shown: string) =>
    text({
      [`a${suffix}`]: node("Leaf", { text: "x" }),
      [`b${suffix}`]: node("Leaf", { text: "x" }),
      [`j${suffix}`]: node("Join", { a: [`a${suffix}`, 0], b: [`b${suffix}`, 0] }),
      [`s${shown}`]: node("Show", { value: [`j${suffix}`, 0] }),
    });
  const first = await runner.run(prompt("", ""), { onEvent: (event) => events.push(event) });
  expect(first.executed).toEqual(["a", "j", "s"]);
  expect(events.map(({ type }) => type)).toEqual([
    ...["started", "cached", "executing", "finished", "finished", "executing", "finished"],
    ...["executing", "progress", "executed", "finished", "succeeded"],
  ]);
  const second = await runner.run(prompt("2", "2"));
  expect(second.executed).toEqual([]);
  expect(second.cached).toEqual(["a2", "b2", "j2", "s2"]);
  expect(second.outputs.get("s2")).toEqual({ text: ["(x+x)"] });
  await runner.run(text({ z: node("ShowText", { value: "other" }) }));
  expect((await runner.run(prompt("", ""))).executed).toEqual(["a", "j", "s"]);
});

test("a failing node names itself and keeps its code; an abort is CANCELLED", async () => {
  const error = await failure(makeRunner().run(text({ f: node("Fail", { value: "x" }) })));
  expect(error.code).toBe("ENGINE_CRASHED");
  expect(error.message).toBe("Node f (Fail): The engine is gone.");
  expect(error.details).toEqual({ nodeId: "f", nodeType: "Fail", executed: [] });
  const abort = new AbortController();
  const run = makeRunner().run(
    text({ l: node("Leaf", { text: "x" }), s: node("Show", { value: ["l", 0] }) }),
    {
      signal: abort.signal,
      onEvent: (event) => {
        if (event.type === "executing" && event.node === "s") abort.abort();
      },
    },
  );
  expect(await failure(run)).toMatchObject({ code: "CANCELLED", details: { executed: ["l"] } });
});

test("any order of completion gives the same result", async () => {
  const graph = fc
    .array(fc.tuple(fc.nat(), fc.nat()), { minLength: 1, maxLength: 12 })
    .map((links) => {
      const prompt: Record<string, unknown> = { n0: node("Leaf", { text: "seed" }) };
      for (const [i, [a, b]] of links.entries()) {
        prompt[`n${i + 1}`] = node("Join", {
          a: [`n${a % (i + 1)}`, 0],
          b: [`n${b % (i + 1)}`, 0],
        });
      }
      for (const i of [links.length, links.length >> 1]) {
        prompt[`s${i}`] = node("Show", { value: [`n${i}`, 0] });
      }
      return text(prompt);
    });
  await fc.assert(
    fc.asyncProperty(
      graph,
      fc.integer({ min: 1, max: 8 }),
      fc.infiniteStream(fc.nat(9)),
      async (prompt, concurrency, ticks) => {
        const sequential = await makeRunner().run(prompt);
        const next = () => Number(ticks.next().value);
        const parallel = await makeRunner(concurrency, next).run(prompt);
        expect(new Map([...parallel.outputs].sort())).toEqual(
          new Map([...sequential.outputs].sort()),
        );
        expect([...parallel.executed].sort()).toEqual([...sequential.executed].sort());
      },
    ),
  );
});

test("any text is either a prompt or one WORKFLOW_INVALID", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.json(), fc.string(), fc.stringMatching(/^[{}[\]":,0-9a.e\\-]*$/)),
      (source) => {
        try {
          parsePrompt(source);
        } catch (error) {
          expect(LunaError.isCode(error, "WORKFLOW_INVALID")).toBe(true);
        }
      },
    ),
  );
});
