/** The seed's tests that speak to the model itself: loading, stacks, a long run, LoRA correctness. */
import { setTimeout as wait } from "node:timers/promises";
import type { DaemonModel } from "../../client/index.ts";
import { processMemory } from "../process-memory.ts";
import { formatBytes } from "../table.ts";
import {
  type AcceptanceBench,
  contextOf,
  isBitEqual,
  type Outcome,
  relativeError,
  step,
} from "./bench.ts";

const STEPS = 500;
/** Code is compiled and allocators come to rest late; `luna bench soak` shows what comes after. */
const WARM_UP_STEPS = 600;
/** A prompt stays for a picture, and the daemon keeps its context by digest until it needs the room. */
const STEPS_A_PICTURE = 20;
/** Beside the contexts kept by digest; allocators come to rest late, a leak of 16 KB a step would show. */
const GROWTH_BYTES_MAX = 8e6;
const EXACT = 1e-5;

export type Names = Readonly<{ model: string; loras: readonly [string, string, string] }>;

export async function loading(bench: AcceptanceBench, { model: name }: Names): Promise<Outcome> {
  const clients = await Promise.all([1, 2, 3, 4].map((n) => bench.connect(`loading ${n}`)));
  const models = await Promise.all(clients.map((client) => bench.model(client, name)));
  await Promise.all(models.map((model) => step(model)));
  const status = await clients[0]?.status();
  const loaded = status?.models.filter(({ copies }) => copies > 0) ?? [];
  const copies = Math.max(0, ...loaded.map((model) => model.copies));
  const isProxy = models.every((model) => model.model === model);
  return {
    test: "1 loading: registered, proxy returned, one copy",
    expected: "4 clients at once, 1 copy",
    measured: `${loaded.map((model) => model.id).join(", ")}: ${copies} copy, proxy ${isProxy}`,
    isPassed: loaded.length === 1 && copies === 1 && isProxy,
  };
}

export async function stack(bench: AcceptanceBench, names: Names): Promise<Outcome> {
  const client = await bench.connect("stack");
  const model = await bench.model(client, names.model);
  const [first, second] = names.loras;
  const both = model.clone();
  both.addLora(first, 0.8);
  both.addLora(second, 0.4);
  const result = await step(both);
  const seen = (await client.status()).sessions.find(({ name }) => name === "stack")?.loras ?? [];
  const order = seen.map(({ name, strength }) => `${name}:${strength}`).join(" ");
  const single = model.clone();
  single.addLora(first, 0.8);
  const other = model.clone();
  other.addLora(first, 0.4);
  other.addLora(second, 0.8);
  const differences = [await step(model), await step(single), await step(other)].map((output) =>
    relativeError(result.data, output.data),
  );
  return {
    test: "3 a stack applied in order with its strengths",
    expected: `${first}:0.8 ${second}:0.4, unlike base, one alone, strengths swapped`,
    measured: `${order}; differs by ${differences.map((value) => value.toFixed(3)).join(", ")}`,
    isPassed: order === `${first}:0.8 ${second}:0.4` && differences.every((value) => value > 1e-3),
  };
}

async function residentBytes(bench: AcceptanceBench, enginePid: number): Promise<number> {
  // Freed pages go back after a collection, which waits for an idle moment.
  await wait(200);
  const daemon = processMemory(bench.daemon.child.pid ?? 0)?.rssBytes ?? 0;
  return daemon + (processMemory(enginePid)?.rssBytes ?? 0);
}

export async function longRun(bench: AcceptanceBench, names: Names): Promise<Outcome> {
  const client = await bench.connect("long run");
  const plain = await bench.model(client, names.model);
  const loras = names.loras.map((lora) =>
    plain.withLora({ name: lora, strengthModel: 0.7, strengthClip: 0 }),
  );
  const models = [plain, ...loras];
  const enginePid = (await client.status()).engine.pid;
  const samples: number[] = [];
  /** Contexts, which daemon and engine keep within their limits. */
  const kept: number[] = [];
  let context = contextOf(plain, 0);
  for (let count = 1; count <= STEPS + WARM_UP_STEPS; count++) {
    const model = models[count % models.length];
    // The same tensor for all steps of a picture, as a sampler has it: it goes by digest.
    if (count % STEPS_A_PICTURE === 0) context = contextOf(plain, count);
    if (model) await step(model, count, context);
    if (count >= WARM_UP_STEPS && count % 100 === 0) {
      samples.push(await residentBytes(bench, enginePid));
      kept.push(2 * (await client.status()).tensorStore.bytes);
    }
  }
  const grown = (values: readonly number[]) => (values.at(-1) ?? 0) - (values[0] ?? 0);
  const growth = grown(samples) - grown(kept);
  return {
    test: "7 500 steps with flat memory",
    expected: `growth below ${formatBytes(GROWTH_BYTES_MAX)}`,
    measured: `${samples.map(formatBytes).join(" → ")}, growth ${formatBytes(Math.abs(growth))}${growth < 0 ? " less" : ""} beside ${formatBytes(grown(kept))} of contexts`,
    isPassed: growth < GROWTH_BYTES_MAX,
  };
}

const withLora = (model: DaemonModel, name: string, strengthModel: number): DaemonModel =>
  model.withLora({ name, strengthModel, strengthClip: 0 });

function delta(output: Float32Array, base: Float32Array): Float32Array {
  return output.map((value, index) => value - (base[index] ?? 0));
}

export async function loraCorrectness(bench: AcceptanceBench, names: Names): Promise<Outcome[]> {
  const client = await bench.connect("correctness");
  const model = await bench.model(client, names.model);
  const [first, second] = names.loras;
  const base = await step(model);
  const zero = await step(withLora(model, first, 0));
  // Small enough that second-order terms of a strong LoRA vanish, large enough for float32.
  const small = 2e-3;
  const one = delta((await step(withLora(model, first, small))).data, base.data);
  const two = delta((await step(withLora(model, first, 2 * small))).data, base.data);
  const other = delta((await step(withLora(model, second, small))).data, base.data);
  const stacked = await step(withLora(withLora(model, first, small), second, small));
  const sum = one.map((value, index) => value + (other[index] ?? 0));
  const proportion = relativeError(
    two,
    one.map((value) => 2 * value),
  );
  const additivity = relativeError(delta(stacked.data, base.data), sum);
  const strong = await step(withLora(withLora(model, first, 0.8), second, 0.6));
  const swapped = await step(withLora(withLora(model, second, 0.6), first, 0.8));
  const order = relativeError(swapped.data, strong.data);
  const after = await step(model);
  const row = (
    what: string,
    expected: string,
    [measured, isPassed]: [string, boolean],
  ): Outcome => ({
    test: `8 LoRA: ${what}`,
    expected,
    measured,
    isPassed,
  });
  // What is left of second-order terms, and float32 rounding of a difference that small.
  const LINEAR = 0.05;
  return [
    row(
      "strength 0 is the baseline",
      "bit-equal",
      isBitEqual(zero, base) ? ["bit-equal", true] : ["differs", false],
    ),
    row("proportional at small strengths", `within ${LINEAR}`, [
      proportion.toExponential(1),
      proportion < LINEAR,
    ]),
    row("a stack is the sum at small strengths", `within ${LINEAR}`, [
      additivity.toExponential(1),
      additivity < LINEAR,
    ]),
    row("the order does not matter", `within ${EXACT}`, [order.toExponential(1), order < EXACT]),
    row(
      "nothing is left afterwards",
      "bit-equal",
      isBitEqual(after, base) ? ["bit-equal", true] : ["differs", false],
    ),
  ];
}
