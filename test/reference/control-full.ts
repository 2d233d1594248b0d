/**
 * Half of `control_nets.py --full`: loads FOLDER/unet.safetensors and control.safetensors into an
 * engine process, runs case.safetensors with and without control, and prints one line of JSON.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { argv, stdout } from "node:process";
import { type RunItem, startEngine } from "../../src/engine/index.ts";
import { digestTensor, parseSafetensors, type Tensor, toFloat } from "../../src/tensor/index.ts";
import { relativeError } from "../support/graph-session.ts";

const folder = argv[2] ?? ".";
const { tensors } = parseSafetensors(await readFile(join(folder, "case.safetensors")));
const given = (name: string): Tensor => {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`case.safetensors has no "${name}"`);
  return tensor;
};
const [unet, control] = [join(folder, "unet.safetensors"), join(folder, "control.safetensors")];
const engine = await startEngine({ device: "cpu" });
await engine.load(unet, "unet");
const loads = [
  await engine.load(control, "control-hint"),
  await engine.load(control, "control-net"),
];

const inputs = new Map(["x", "timesteps", "context"].map((name) => [name, given(name)]));
const bare: RunItem = { tensors: inputs, loras: [] };
const hint = given("hint");
const controlled: RunItem = {
  tensors: new Map([...inputs, ["hint.0", hint]]),
  digests: new Map([["hint.0", digestTensor(hint)]]),
  loras: [],
  controls: [{ path: control, slot: "hint.0", strength: 0.8, hintRows: [-1, 0] }],
};
const errors: Record<string, number> = {};
const ms: Record<string, number[]> = {};
for (const [name, item, expected] of [
  ["bare", bare, "bare"],
  ["controlled", controlled, "expected"],
  [
    "all",
    {
      ...controlled,
      controls: [{ path: control, slot: "hint.0", strength: 0.8, hintRows: [0, 0] }],
    },
    "",
  ],
] as const) {
  for (let run = 0; run < 3; run++) {
    const { outputs, engineMs } = await engine.run(unet, "unet", [item]);
    ms[name] = [...(ms[name] ?? []), Math.round(engineMs)];
    const out = outputs[0]?.tensors.get("out");
    if (out === undefined) throw new Error("The engine gave no output.");
    if (expected) errors[name] = relativeError(toFloat(out), toFloat(given(expected)));
  }
}
const { rssBytes } = await engine.info();
await engine.close();
const bytes = loads.reduce((sum, load) => sum + load.bytes, 0);
stdout.write(
  `${JSON.stringify({ error: Math.max(...Object.values(errors)), errors, ms, bytes, rssBytes })}\n`,
);
