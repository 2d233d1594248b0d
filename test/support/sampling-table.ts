/** Prints the sampler x scheduler table of docs/fidelity.md: npx tsx test/support/sampling-table.ts */
import { SCHEDULER_NAMES } from "../../src/sampling/index.ts";
import { readGolden, relativeError, runCase, type SamplingCase } from "./sampling-cases.ts";

const { cases, tensors } = readGolden<SamplingCase>("grid");
const rows = new Map<string, string[]>();
for (const [key, spec] of Object.entries(cases)) {
  const golden = tensors.get(key);
  if (!golden) throw new Error(`No golden ${key}.`);
  const error = relativeError((await runCase(spec)).data, golden.data);
  const row = rows.get(spec.sampler) ?? [];
  row.push(error.toExponential(1));
  rows.set(spec.sampler, row);
}
console.log(`| sampler | ${SCHEDULER_NAMES.join(" | ")} |`);
console.log(`|---|${SCHEDULER_NAMES.map(() => "---|").join("")}`);
for (const [sampler, errors] of rows) console.log(`| ${sampler} | ${errors.join(" | ")} |`);
