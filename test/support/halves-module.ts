/** src/tensor/halves-wasm.ts as halves.wat gives it. */
import { readFile } from "node:fs/promises";
import loadWabt from "wabt";

const LINE_LENGTH = 96;

export async function halvesModule(): Promise<string> {
  const path = new URL("../../src/tensor/halves.wat", import.meta.url);
  const wabt = await loadWabt();
  const parsed = wabt.parseWat("halves.wat", await readFile(path, "utf8"), { simd: true });
  const { buffer } = parsed.toBinary({});
  parsed.destroy();
  const text = Buffer.from(buffer).toString("base64");
  const lines = text.match(new RegExp(`.{1,${LINE_LENGTH}}`, "g")) ?? [];
  return [
    "// Made by `npm run wasm` from halves.wat.",
    "export const HALVES_WASM =",
    `${lines.map((line) => `  "${line}"`).join(" +\n")};`,
    "",
  ].join("\n");
}
