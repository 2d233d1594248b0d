/** Against ComfyUI 0.18.1: golden of test/reference/object_info.py. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { NODE_DEFINITIONS } from "../nodes/index.ts";
import { describeNodes } from "./object-info.ts";
import { toWireJson } from "./wire-json.ts";

type Plain = Readonly<{
  inputs: Record<string, Record<string, [unknown, Record<string, unknown>]>>;
  outputs: unknown;
  isInputList: unknown;
  isOutput: unknown;
  displayName: unknown;
  category: unknown;
}>;

const golden: Record<string, Plain> = JSON.parse(
  readFileSync(new URL("../../test/fixtures/goldens/object-info.json", import.meta.url), "utf8"),
);
const KEPT = Object.keys({
  ...{ default: 0, min: 0, max: 0, step: 0, round: 0, multiline: 0 },
  ...{ control_after_generate: 0, advanced: 0, lazy: 0, image_upload: 0 },
});
/** The editor resolves such a type from what is linked; here anything goes. */
const ANY = "COMFY_MATCHTYPE_V3";
/** May be left out here: prompts from before ComfyUI had them still run. */
const LENIENT = ["noise_mask", "temporal_size", "temporal_overlap"];

async function describeAll(): Promise<Record<string, Plain>> {
  const lists = { listFiles: async () => ["a file"], listInputImages: async () => ["a file"] };
  const described = await describeNodes(NODE_DEFINITIONS.values(), lists);
  // As clients read it.
  const nodes = JSON.parse(toWireJson(described)) as Record<string, Record<string, never>>;
  return Object.fromEntries(Object.entries(nodes).map(([name, node]) => [name, plain(node)]));
}

function plain(node: Record<string, never>): Plain {
  const { input, output, output_name, output_is_list } = node as unknown as {
    input: Record<string, Record<string, [unknown, Record<string, unknown>]>>;
    output: string[];
    output_name: string[];
    output_is_list: boolean[];
  };
  const group = (name: string) =>
    Object.fromEntries(
      Object.entries(input[name] ?? {}).map(([key, [type, options]]) => {
        const kept = Object.entries(options).filter(([option]) => KEPT.includes(option));
        const isFiles = Array.isArray(type) && type[0] === "a file";
        return [key, [isFiles ? "FILES" : type, Object.fromEntries(kept)]];
      }),
    ) as Plain["inputs"][string];
  return {
    inputs: { required: group("required"), optional: group("optional") },
    outputs: output.map((type, slot) => [type, output_name[slot], output_is_list[slot]]),
    isInputList: node["is_input_list"],
    isOutput: node["output_node"],
    displayName: node["display_name"],
    category: node["category"],
  };
}

const all = ({ inputs }: Plain) => ({ ...inputs["required"], ...inputs["optional"] });

test("stock nodes are described as ComfyUI describes them", async () => {
  const mine = await describeAll();
  const differences: string[] = [];
  for (const [name, theirs] of Object.entries(golden)) {
    const own = mine[name];
    if (own === undefined) {
      differences.push(`${name} is missing`);
      continue;
    }
    const tell = (what: string, a: unknown, b: unknown) => {
      const [here, there] = [JSON.stringify(a), JSON.stringify(b)?.replaceAll(ANY, "*")];
      if (here !== there) differences.push(`${name} ${what}: ${here}, ComfyUI has ${there}`);
    };
    for (const group of ["required", "optional"]) {
      const strict = (inputs: Plain["inputs"][string] = {}) =>
        Object.keys(inputs).filter((input) => !LENIENT.includes(input));
      tell(`${group} inputs`, strict(own.inputs[group]), strict(theirs.inputs[group]));
      for (const [input, [type, options]] of Object.entries(theirs.inputs[group] ?? {})) {
        const [ownType, ownOptions = {}] = all(own)[input] ?? [];
        // Some combos offer less here, in the same order: samplers, other models' encoders.
        const isPart = Array.isArray(type) && Array.isArray(ownType);
        const offered = isPart ? type.filter((each) => ownType.includes(each)) : type;
        tell(`${input} type`, ownType, offered);
        // Where ComfyUI gives no default, its editor takes the same one.
        const sorted = (value: object) => Object.entries({ default: 0, ...value }).sort();
        tell(`${input} options`, sorted(ownOptions), sorted(options));
      }
    }
    for (const key of ["outputs", "isInputList", "isOutput", "displayName", "category"] as const) {
      // The editor shows the class where there is no other name.
      tell(key, own[key], theirs[key] ?? name);
    }
  }
  expect(differences).toEqual([]);
});
