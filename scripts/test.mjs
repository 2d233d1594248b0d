// Runs every test and closes with the line that .ci/run needs: "N passed, N failed".
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = mkdtempSync(join(tmpdir(), "luna-test-"));
const report = join(folder, "report.json");
const vitest = fileURLToPath(new URL("../node_modules/vitest/vitest.mjs", import.meta.url));
const run = spawnSync(
  process.execPath,
  [
    vitest,
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${report}`,
    ...process.argv.slice(2),
  ],
  { stdio: "inherit" },
);
let counts = { numPassedTests: 0, numFailedTests: 1, numFailedTestSuites: 1 };
try {
  counts = JSON.parse(readFileSync(report, "utf8"));
} catch {
  console.error("The test runner left no report.");
}
rmSync(folder, { recursive: true, force: true });
// A suite that fails to load has no failed test of its own, and must still count.
const failed = counts.numFailedTests || (run.status === 0 ? 0 : 1);
console.log(`\n${counts.numPassedTests} passed, ${failed} failed`);
process.exitCode = run.status === 0 && counts.numPassedTests > 0 ? 0 : 1;
