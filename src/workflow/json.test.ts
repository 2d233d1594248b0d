import fc from "fast-check";
import { expect, test } from "vitest";
import { NODE_DEFINITIONS } from "../nodes/index.ts";
import { isJsonObject, type Json, parseJson, setInput, toPythonJson } from "./index.ts";
import { parsePrompt } from "./prompt.ts";

/** Back to what JSON.parse gives. */
function plain(value: Json): unknown {
  if (typeof value === "bigint") return Number(value);
  if (isJsonObject(value)) {
    // Not by assignment: a key may be "__proto__".
    return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  }
  return Array.isArray(value) ? value.map(plain) : value;
}

test("reads what JSON.parse reads, whatever the white space", () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(0, 1, 2), (value, indent) => {
      const text = JSON.stringify(value, undefined, indent);
      expect(plain(parseJson(text))).toEqual(JSON.parse(text));
      expect(plain(parseJson(toPythonJson(parseJson(text))))).toEqual(JSON.parse(text));
    }),
  );
});

test("refuses what JSON.parse refuses and says where", () => {
  fc.assert(
    fc.property(fc.stringMatching(/^[{}[\]":,0-9 truefalsn.eE+\\-]{0,12}$/), (text) => {
      let isValid = true;
      try {
        JSON.parse(text);
      } catch {
        isValid = false;
      }
      if (isValid) parseJson(text);
      else expect(() => parseJson(text)).toThrow(/not valid JSON: line 1/);
    }),
    { numRuns: 500 },
  );
  expect(() => parseJson('{\n"a": 1,\n}')).toThrow(/line 3 has "}" where a string should be/);
  expect(() => parseJson("[".repeat(101))).toThrow(/more than 100 levels/);
  expect(() => parseJson("1".repeat(401))).toThrow(/401 digits/);
});

test("keeps integers, floats and the order of keys, and writes them as Python does", () => {
  const text =
    '{"10": 18446744073709551615, "2": [1.0, -0.0, 0.1, 1e+16, 1e-05, 0.0001, 123456789.125, 1.5e+300], "a": "\\u00e9\\ud83d\\ude80\\n\\u007f"}';
  expect(toPythonJson(parseJson(text)).replace("\x7f", "\\u007f")).toBe(text);
});

test("--set changes one input", () => {
  const prompt = parsePrompt('{"3": {"class_type": "K", "inputs": {"seed": 1, "name": "x"}}}');
  const set = (text: string) => setInput(prompt, text, NODE_DEFINITIONS).get("3")?.inputs;
  expect(set("3.seed=18446744073709551615")?.get("seed")).toBe(18446744073709551615n);
  expect(set("3.name=a cat=dog")?.get("name")).toBe("a cat=dog");
  expect(set("3.name=a cat. a=dog")?.get("name")).toBe("a cat. a=dog");
  expect(set('3.name=["4", 0]')?.get("name")).toEqual(["4", 0n]);
  expect(() => set("4.seed=1")).toThrow(/no node 4, it has 3/);
  expect(() => set("seed")).toThrow(/not NODE.INPUT=VALUE/);
});

test("--set refuses an input that a known node does not have", () => {
  const prompt = parsePrompt('{"3": {"class_type": "VAEDecode", "inputs": {"old": 1}}}');
  const set = (text: string) => setInput(prompt, text, NODE_DEFINITIONS).get("3")?.inputs;
  expect(set('3.vae=["4", 2]')?.get("vae")).toEqual(["4", 2n]);
  expect(set("3.old=2")?.get("old")).toBe(2n);
  expect(() => set("3.sample=1")).toThrow(/VAEDecode has no input sample, it has samples, vae/);
});
