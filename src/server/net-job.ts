/** A request as the scheduler sees it: what it may share a run with, and how its rows are cut. */
import type { ComponentName } from "../checkpoint/index.ts";
import type { ControlUse, LoraUse, RunItem, RunOutput } from "../engine/index.ts";
import type { Lease } from "../registry/index.ts";
import type { Job, Part, Priority, Range } from "../scheduler/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { CONTROL_COST } from "./limits.ts";
import type { RunRequest } from "./net-runner.ts";
import type { RunInputs, Tensors } from "./run-inputs.ts";
import { itemTile } from "./vae-tile.ts";

export type NetJob = Job &
  Readonly<{ model: string; path: string; component: ComponentName; item: RunItem }>;

/** What a run gave for the rows of one job. */
export type NetResult = Readonly<{ output: RunOutput; engineMs: number }>;

/** Whose a request is and how urgent. */
export type Standing = Readonly<{ client: string; weight?: number; priority?: Priority }>;

type JobParts = Readonly<{
  request: RunRequest;
  inputs: RunInputs;
  loras: readonly LoraUse[];
  controls: readonly ControlUse[];
  lease: Lease;
  standing: Standing;
}>;

export function buildJob({ request, inputs, loras, controls, lease, standing }: JobParts): NetJob {
  const { model, path, component, checkpoint } = lease;
  const { tensors, rows, rowsMax, tokens, isSplittable, shapeKey } = inputs;
  const rowCost = inputs.rowCost * (1 + CONTROL_COST * controlledShare(controls, rows));
  const shape = { rows, rowsMax, rowCost, isSplittable, ...(tokens ? { tokens } : {}) };
  const batch = { ...standing, ...shape, model, path, component };
  const refs = Object.entries(request.refs ?? {});
  const digests = refs.length === 0 ? {} : { digests: new Map(refs) };
  const item: RunItem = { tensors, loras, ...digests, ...(controls.length > 0 && { controls }) };
  const batchKey = `${path} ${component} ${shapeKey}`;
  if (request.op === "model_forward") {
    const { features } = request;
    if (features === undefined) return { ...batch, item, batchKey };
    // The graph with those inputs is slower: others do not wait for it.
    return { ...batch, item: { ...item, features }, batchKey: `${batchKey} features` };
  }
  if (request.op === "clip_encode") {
    const { layer, isLayerNormed } = request;
    return { ...batch, item: { ...item, layer, isLayerNormed }, batchKey };
  }
  const tile = itemTile(request, tensors, checkpoint);
  const tiledKey = `${batchKey} ${tile?.size} ${tile?.overlap}`;
  return { ...batch, item: tile ? { ...item, tile } : item, batchKey: tiledKey };
}

/** Control nets a row has on average. */
function controlledShare(controls: readonly ControlUse[], rows: number): number {
  const acting = controls.flatMap(({ hintRows }) => hintRows.filter((row) => row >= 0));
  return acting.length / rows;
}

/** The rows of a job that one run computes, as views; all of them are the item itself. */
export function partItem({ job, range }: Part<NetJob>): RunItem {
  const { item, rows } = job;
  if (range.rows === rows) return item;
  const { digests, controls } = item;
  const hints = new Set(controls?.map(({ slot }) => slot));
  const part = `rows ${range.begin}+${range.rows} of ${rows}`;
  const named = Array.from(digests ?? [], ([name, digest]) => {
    return [name, hints.has(name) ? digest : `${digest} ${part}`] as const;
  });
  const tensors: Tensors = new Map(
    Array.from(item.tensors, ([name, tensor]) => [
      name,
      hints.has(name) ? tensor : sliceRows(tensor, rows, range),
    ]),
  );
  return {
    ...{ ...item, tensors },
    ...(digests && { digests: new Map(named) }),
    ...(controls && { controls: controls.map((control) => sliceControl(control, range)) }),
  };
}

/** Hints are not cut: their rows are named. */
function sliceControl(control: ControlUse, { begin, rows }: Range): ControlUse {
  return { ...control, hintRows: control.hintRows.slice(begin, begin + rows) };
}

/** A control of one row stands for all rows. */
function sliceRows(tensor: Tensor, rows: number, range: Range): Tensor {
  const [own = 1, ...inner] = tensor.shape;
  if (own !== rows) return tensor;
  const step = tensor.bytes.byteLength / rows;
  const bytes = tensor.bytes.subarray(range.begin * step, (range.begin + range.rows) * step);
  return { dtype: tensor.dtype, shape: [range.rows, ...inner], bytes };
}

/** The result of a job from those of its rows, in order. */
export function joinResults(parts: readonly NetResult[]): NetResult {
  const tensors = new Map<string, Tensor>();
  for (const name of parts[0]?.output.tensors.keys() ?? []) {
    tensors.set(name, joinRows(parts.flatMap(({ output }) => output.tensors.get(name) ?? [])));
  }
  const warnings = [...new Set(parts.flatMap(({ output }) => output.warnings))];
  const engineMs = parts.reduce((sum, part) => sum + part.engineMs, 0);
  return { output: { tensors, warnings }, engineMs };
}

function joinRows(tensors: readonly Tensor[]): Tensor {
  const [, ...inner] = tensors[0]?.shape ?? [];
  const rows = tensors.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
  const bytes = new Uint8Array(tensors.reduce((sum, part) => sum + part.bytes.byteLength, 0));
  let offset = 0;
  for (const part of tensors) {
    bytes.set(part.bytes, offset);
    offset += part.bytes.byteLength;
  }
  return { dtype: tensors[0]?.dtype ?? "F32", shape: [rows, ...inner], bytes };
}
