/** Against ComfyUI: goldens of test/reference/text.py. */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { expect, test } from "vitest";
import { floatTensor, type Tensor } from "../tensor/index.ts";
import type { EncodeTokens } from "./encode-rows.ts";
import {
  createClipTokenizer,
  type EncoderKind,
  encodePrompt,
  extractLoraTags,
  type LoadEmbedding,
  parsePromptWeights,
  refinerVector,
  sdxlVector,
  selectEmbedding,
  type TextEncoderShape,
  type TokenRow,
  tokenizePrompt,
} from "./index.ts";

const WIDTH = 4;
const asset = new URL("../../assets/clip/merges.txt.gz", import.meta.url);
const tokenizer = createClipTokenizer(() => gunzipSync(readFileSync(asset)).toString("utf8"));

function golden<T>(name: string): T {
  const url = new URL(`../../test/fixtures/goldens/${name}`, import.meta.url);
  return JSON.parse(readFileSync(url, "utf8"));
}

const loadEmbedding: LoadEmbedding = async (name) => {
  if (name === "two") {
    return floatTensor(
      [2, WIDTH],
      Float32Array.from({ length: 2 * WIDTH }, (_, i) => 0.5 - 0.1 * i),
    );
  }
  if (name === "wide") return floatTensor([3, WIDTH + 1], new Float32Array(15).fill(1));
  return undefined;
};

type GoldenRow = readonly [readonly (number | string)[], readonly number[]];

function compact(rows: readonly TokenRow[], pad: number): GoldenRow[] {
  return rows.map((row) => {
    expect(row.length).toBe(77);
    let end = row.length;
    while (row[end - 1]?.token === pad && row[end - 1]?.weight === 1) end--;
    const kept = row.slice(0, end);
    const names = kept.map(({ token }) =>
      typeof token === "number" ? token : `v${(token[0] ?? 0).toFixed(4)}x${token.length}`,
    );
    const weights = kept.every(({ weight }) => weight === 1) ? [] : kept.map((t) => t.weight);
    return [names, weights] as const;
  });
}

test("tokens, weights and rows equal ComfyUI's SDTokenizer", async () => {
  const cases = golden<{ text: string; l: GoldenRow[]; g: GoldenRow[] }[]>("text-tokens.json");
  expect(cases.length).toBeGreaterThan(200);
  for (const { text, l, g } of cases) {
    for (const [encoder, rows, pad] of [
      ["clip-l", l, 49_407],
      ["clip-g", g, 0],
    ] as const) {
      const made = await tokenizePrompt(text, { tokenizer, encoder, loadEmbedding });
      expect({ text, rows: compact(made, pad) }).toEqual({ text, rows });
    }
  }
});

/** The closed formula of test/reference/text.py in place of a text encoder. */
function fakeEncoder(layers: Readonly<Record<string, number>>): EncodeTokens {
  return async ({ encoder, tokens, embeddings = [], layer, isLayerNormed }) => {
    const count = layers[encoder] ?? 0;
    const rows = tokens.length;
    const state = (row: number, column: number, channel: number, number: number): number => {
      const found = embeddings.find((e) => e.row === row && e.column === column);
      const id = tokens[row]?.[column] ?? 0;
      const embedding = found?.vector[channel] ?? Math.fround(Math.sin(0.37 * id + channel));
      return Math.fround(Math.sin(embedding + 0.05 * column + 0.01 * channel + 0.3 * number));
    };
    const norm = (x: number) => Math.fround(x * 0.5 + 0.25);
    const hidden = new Float32Array(rows * 77 * WIDTH);
    const pooled = new Float32Array(rows * WIDTH);
    for (let row = 0; row < rows; row++) {
      const end = tokens[row]?.indexOf(49_407) ?? 0;
      for (let channel = 0; channel < WIDTH; channel++) {
        pooled[row * WIDTH + channel] = norm(state(row, end, channel, count));
        for (let column = 0; column < 77; column++) {
          const value = state(row, column, channel, count + layer + 1);
          hidden[(row * 77 + column) * WIDTH + channel] = isLayerNormed ? norm(value) : value;
        }
      }
    }
    return {
      hidden: floatTensor([rows, 77, WIDTH], hidden),
      pooled: floatTensor([rows, WIDTH], pooled),
      projected: floatTensor(
        [rows, WIDTH],
        pooled.map((v) => v * 2 - 0.125),
      ),
    };
  };
}

const ENCODERS: Record<string, TextEncoderShape[]> = {
  sd1: [{ kind: "clip-l", width: WIDTH, layers: 12 }],
  sd2: [{ kind: "clip-h", width: WIDTH, layers: 24 }],
  sdxl: [
    { kind: "clip-l", width: WIDTH, layers: 12 },
    { kind: "clip-g", width: WIDTH, layers: 32 },
  ],
  refiner: [{ kind: "clip-g", width: WIDTH, layers: 32 }],
};
const fake = fakeEncoder({ "clip-l": 12, "clip-h": 24, "clip-g": 32 });

function largestDifference(actual: ArrayLike<number>, expected: readonly number[]): number {
  expect(actual.length).toBe(expected.length);
  return expected.reduce((worst, v, i) => Math.max(worst, Math.abs(v - (actual[i] ?? 9))), 0);
}

test("encodings of SD1, SD2, SDXL and the refiner equal ComfyUI's to 1e-5", async () => {
  type Case = {
    model: string;
    layer: number | null;
    text: string;
    shape: number[];
    context: number[];
    pooled: number[];
  };
  for (const c of golden<Case[]>("text-encodings.json")) {
    const { context, pooled } = await encodePrompt(c.text, {
      tokenizer,
      encoders: ENCODERS[c.model] ?? [],
      encode: fake,
      loadEmbedding,
      ...(c.layer === null ? {} : { layer: c.layer }),
    });
    expect(context.shape).toEqual(c.shape);
    const step = Math.floor(context.data.length / 150) | 1;
    const picked = context.data.filter((_, i) => i % step === 0);
    expect({ ...c, d: largestDifference(picked, c.context) < 1e-5 }).toEqual({ ...c, d: true });
    expect(largestDifference(pooled.data, c.pooled)).toBeLessThan(1e-5);
  }
});

test("two texts for SDXL are continued with empty prompts to the same length", async () => {
  const target = { tokenizer, encoders: ENCODERS["sdxl"] ?? [], encode: fake };
  const long = "word ".repeat(100);
  const both = await encodePrompt({ l: "a", g: long }, target);
  expect(both.context.shape).toEqual([1, 154, 2 * WIDTH]);
  const empty = await encodePrompt("", target);
  const row = (data: Float32Array, token: number) =>
    data.slice(token * 2 * WIDTH, token * 2 * WIDTH + WIDTH);
  expect(row(both.context.data, 77)).toEqual(row(empty.context.data, 0));
});

test("size vectors equal ComfyUI's encode_adm", () => {
  const pooled = floatTensor(
    [1, 8],
    Float32Array.from({ length: 8 }, (_, i) => -1 + (2 * i) / 7),
  );
  type Case = { model: string; given: Record<string, number | string>; y: number[] };
  for (const { model, given, y } of golden<Case[]>("text-sizes.json")) {
    const number = (name: string) => (name in given ? Number(given[name]) : undefined);
    const entries = Object.entries({
      width: number("width"),
      height: number("height"),
      cropWidth: number("crop_w"),
      cropHeight: number("crop_h"),
      targetWidth: number("target_width"),
      targetHeight: number("target_height"),
      aestheticScore: number("aesthetic_score"),
    }).filter(([, value]) => value !== undefined);
    const size = { width: 0, height: 0, ...Object.fromEntries(entries) };
    const made =
      model === "SDXL"
        ? sdxlVector(pooled, size)
        : refinerVector(pooled, size, given["prompt_type"] === "negative");
    // 1 unit in the last place of an angle of 1,000 radians is 6e-5.
    expect(largestDifference(made.data, y)).toBeLessThan(1e-4);
  }
});

test("LoRA tags leave the prompt, with the text encoder's weight falling back to the model's", () => {
  const { text, loras } = extractLoraTags("a <lora:x:0.8>b<lora:y z:1:-0.5> <lora:w> <lora:v:no>");
  expect(text).toBe("a b  <lora:v:no>");
  expect(loras).toEqual([
    { name: "x", strengthModel: 0.8, strengthClip: 0.8 },
    { name: "y z", strengthModel: 1, strengthClip: -0.5 },
    { name: "w", strengthModel: 1, strengthClip: 1 },
  ]);
  expect(() => extractLoraTags("<lora:x:1>".repeat(65))).toThrow(/65 LoRAs, limit 64/);
});

test("a missing embedding is named once and left out", async () => {
  const lines: string[] = [];
  const options = { tokenizer, encoder: "clip-l", loadEmbedding } as const;
  const rows = await tokenizePrompt("cat embedding:none dog", {
    ...options,
    warn: (line) => lines.push(line),
  });
  expect(rows).toEqual(await tokenizePrompt("cat dog", options));
  expect(lines).toEqual(["Warning: embedding 'none' not found"]);
});

test("an embedding file gives the vectors of its encoder", () => {
  const tensor = (shape: number[], value: number): Tensor => ({
    dtype: "F32",
    shape,
    bytes: new Uint8Array(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value).buffer),
  });
  const pick = (tensors: Record<string, Tensor>, kind: EncoderKind) =>
    selectEmbedding({ metadata: {}, tensors: new Map(Object.entries(tensors)) }, kind);
  const both = { clip_g: tensor([2, 3], 7), clip_l: tensor([1, 2], 5) };
  expect(pick(both, "clip-l")?.data).toEqual(new Float32Array([5, 5]));
  expect(pick(both, "clip-g")?.shape).toEqual([2, 3]);
  expect(pick({ emb_params: tensor([4], 1) }, "clip-l")?.shape).toEqual([1, 4]);
  const bundle = {
    a: tensor([9], 0),
    "bundle_emb.n.string_to_param.*": tensor([1, 2], 1),
    "bundle_emb.m.string_to_param.*": tensor([2, 2], 2),
  };
  expect(pick(bundle, "clip-l")?.shape).toEqual([3, 2]);
  expect(() => pick({ a: tensor([1, 2, 3], 0) }, "clip-l")).toThrow(/\[1, 2, 3\]/);
});

test("any text makes whole rows, and weights keep every character that is no syntax", async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: "binary", maxLength: 80 }), async (text) => {
      const rows = await tokenizePrompt(text, { tokenizer, encoder: "clip-l" });
      for (const row of rows) {
        expect(row.length).toBe(77);
        expect(row[0]?.token).toBe(49_406);
      }
    }),
  );
  fc.assert(
    fc.property(fc.stringMatching(/^[a-z :.]{0,40}$/), (text) => {
      expect(
        parsePromptWeights(text)
          .map((part) => part.text)
          .join(""),
      ).toBe(text);
    }),
  );
});

test("absurd prompts are refused with the limit named", async () => {
  const options = { tokenizer, encoder: "clip-l" } as const;
  await expect(tokenizePrompt("a".repeat(100_001), options)).rejects.toThrow(/limit 100000/);
  await expect(tokenizePrompt(`${"(".repeat(300)}a${")".repeat(300)}`, options)).rejects.toThrow(
    /nests more than 200/,
  );
  expect(() => createClipTokenizer(() => "no merges").tokenize("a")).toThrow(/48894 are needed/);
});
