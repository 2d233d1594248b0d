/** Hostile variants of valid inputs, the same for the same random numbers. */
import { fromFloat, serializeSafetensors, type Tensor } from "../../src/tensor/index.ts";
import { seededValues } from "./seeded.ts";

/** A whole number below a bound. */
export type Random = (below: number) => number;

/** mulberry32, in the public domain. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

export function pick<T>(values: readonly [T, ...T[]], random: Random): T {
  return values[random(values.length)] ?? values[0];
}

export type Json = null | boolean | number | string | readonly Json[] | { [key: string]: Json };

const deep = (depth: number): Json => {
  let value: Json = 1;
  for (let n = 0; n < depth; n++) value = n % 2 ? [value] : { a: value };
  return value;
};
const HOSTILE: readonly [Json, ...Json[]] = [
  null,
  ...[true, -1, 0, 1.5, 255, 2 ** 31, 2 ** 53, -(2 ** 63), 1e308, 5e-324],
  ...["", " ", "0", "NaN", "__proto__", "constructor", "../../etc/passwd", "C:\\x", "a\u0000b"],
  ...["\ud800", "x".repeat(5000), "sha256:", `sha256:${"0".repeat(64)}`, "😀".repeat(300)],
  ...[[], {}, [[]], [0, 0], [-1, 1], deep(40), Array.from({ length: 300 }, () => 1)],
];
const KEYS: readonly [string, ...string[]] = [
  ...(["__proto__", "toString", "id", "type", "class_type", "inputs"] as const),
  ...["", "x".repeat(3000), "a.b", "0", "-1", "\u0000"],
];

/** A copy with one to three places changed: another value, no value, or a field more. */
export function mutateJson(value: Json, random: Random): Json {
  let result = value;
  for (let left = 1 + random(3); left > 0; left--) result = mutateOnce(result, random);
  return result;
}

function mutateOnce(value: Json, random: Random): Json {
  const isLeaf = typeof value !== "object" || value === null;
  if (isLeaf || random(6) === 0) return pick(HOSTILE, random);
  if (Array.isArray(value)) {
    const at = random(value.length + 1);
    const inner = value[at];
    if (inner === undefined || random(5) === 0) return [...value, pick(HOSTILE, random)];
    if (random(5) === 0) return value.toSpliced(at, 1);
    return value.with(at, mutateOnce(inner, random));
  }
  const fields = Object.entries(value);
  const at = random(fields.length + 1);
  const field = fields[at];
  if (field === undefined) fields.push([pick(KEYS, random), pick(HOSTILE, random)]);
  else if (random(5) === 0) fields.splice(at, 1);
  else if (random(8) === 0) fields[at] = [pick(KEYS, random), field[1]];
  else fields[at] = [field[0], mutateOnce(field[1], random)];
  return Object.fromEntries(fields);
}

const ABSURD = ["-1", "0", "1e309", "1.5", "9007199254740993", "null", "[]", "{}", '""', "true"];
const TOKENS = ['"', "{", "}", "[", "]", ",", ":", "\\", "\u0000", "__metadata__", "luna"];

/** Text with one to four numbers, pieces or characters changed. */
export function mutateText(text: string, random: Random): string {
  let result = text;
  for (let left = 1 + random(4); left > 0; left--) {
    const at = random(result.length + 1);
    const [head, tail] = [result.slice(0, at), result.slice(at)];
    switch (random(5)) {
      case 0:
        result = head + tail.replace(/-?\d+/, ABSURD[random(ABSURD.length)] ?? "0");
        break;
      case 1:
        result = head + (TOKENS[random(TOKENS.length)] ?? "") + tail;
        break;
      case 2:
        result = head + tail.slice(1 + random(20));
        break;
      case 3:
        result = head + tail.slice(0, random(60)) + tail;
        break;
      default:
        result = head + tail.replace(/"[^"]*"/, ABSURD[random(ABSURD.length)] ?? "0");
    }
  }
  return result;
}

/**
 * A safetensors file: cut, bytes changed anywhere, or its header changed as JSON or as text, with a
 * length that fits it or not.
 */
export function mutateFile(file: Uint8Array, random: Random): Uint8Array {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const kind = random(6);
  if (kind === 0) return file.slice(0, random(file.length));
  if (kind === 1) {
    const changed = file.slice();
    for (let left = 1 + random(6); left > 0; left--) changed[random(changed.length)] = random(256);
    return changed;
  }
  const header = new TextDecoder().decode(file.subarray(8, 8 + length));
  const text =
    kind < 4 ? mutateText(header, random) : JSON.stringify(mutateJson(JSON.parse(header), random));
  const bytes = new TextEncoder().encode(text);
  const body = file.subarray(8 + length);
  const changed = new Uint8Array(8 + bytes.length + body.length);
  const told = random(8) === 0 ? random(2 ** 31) : bytes.length;
  new DataView(changed.buffer).setBigUint64(0, BigInt(told), true);
  changed.set(bytes, 8);
  changed.set(body, 8 + bytes.length);
  return changed;
}

const POOL = seededValues("fuzz", 2 ** 16);

export type Shapes = Readonly<Record<string, readonly number[]>>;

const SIDES: readonly [number, ...number[]] = [0, 1, 2, 3, 4, 8, 16, 31, 32, 33, 64, 288];
const VALUES: readonly [number, ...number[]] = [0, 1, -1, 1e38, 1e-45, Number.NaN, -Infinity];
const PARTS: readonly [string, ...string[]] = [
  ...([".alpha", ".dora_scale", ".diff_b", ".lora_mid.weight", ".lokr_w1", ".rescale"] as const),
  ...[".oft_blocks", ".hada_t1", ".set_weight", ".a1.weight", ".reshape_weight", ".nonsense"],
];

/** A valid file of the tensors of `shapes`, some of them missing, more, of other shapes or values. */
export function mutateTensors(shapes: Shapes, random: Random): Uint8Array {
  const entries = Object.entries(shapes).map(([key, shape]) => ({ key, shape }));
  for (let left = random(4); left > 0; left--) {
    const at = random(entries.length);
    const entry = entries[at];
    if (entry === undefined) continue;
    const shape = [...entry.shape];
    const layer = entry.key.replace(/\..*$/, "");
    switch (random(5)) {
      case 0:
        entries.splice(at, 1);
        break;
      case 1:
        entries.push({ key: `${layer}${pick(PARTS, random)}`, shape });
        break;
      case 2:
        entries[at] = {
          key: entry.key,
          shape: shape.toSpliced(random(shape.length + 1), random(2), pick(SIDES, random)),
        };
        break;
      default:
        shape[random(shape.length)] = pick(SIDES, random);
        entries[at] = { key: entry.key, shape };
    }
  }
  const odd = random(4) === 0 ? pick(VALUES, random) : undefined;
  const tensors = entries.flatMap(({ key, shape }): [string, Tensor][] => {
    const count = shape.reduce((product, side) => product * side, 1);
    if (count > POOL.length) return [];
    const data = POOL.slice(0, count);
    if (odd !== undefined && count > 0) data[random(count)] = odd;
    return [[key, fromFloat({ shape, data }, pick(["F32", "F16", "BF16"], random))]];
  });
  return serializeSafetensors(new Map(tensors));
}
