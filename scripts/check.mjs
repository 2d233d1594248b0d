// Lint, types of sources and of the build, unit tests, all at once: `npm run check`.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const bin = (path) => fileURLToPath(new URL(`../node_modules/${path}`, import.meta.url));
const CHECKS = [
  ["lint", [bin("@biomejs/biome/bin/biome"), "ci"]],
  ["types", [bin("typescript/bin/tsc"), "--noEmit"]],
  // The build sees no types of test tools.
  ["build", [bin("typescript/bin/tsc"), "--noEmit", "-p", "tsconfig.build.json"]],
  ["unit tests", [bin("vitest/vitest.mjs"), "run", "--project", "unit"]],
];

/** Resolves to whether it passed; what it wrote is shown at its end, so that texts do not mix. */
function run([name, args]) {
  return new Promise((resolve) => {
    const startedAtMs = performance.now();
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (chunk) => {
        text += chunk;
      });
    }
    child.once("close", (code) => {
      const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(1);
      process.stdout.write(`${text}\n${code === 0 ? "ok  " : "FAIL"} ${name}, ${seconds} s\n`);
      resolve(code === 0);
    });
  });
}

const passed = await Promise.all(CHECKS.map(run));
process.exitCode = passed.every(Boolean) ? 0 : 1;
