// The node pack against a real ComfyUI: needs COMFYUI_PATH and a Python that runs it (COMFYUI_PYTHON).
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../test/comfyui", import.meta.url));
const python = process.env.COMFYUI_PYTHON ?? "python3";
const comfyui = process.env.COMFYUI_PATH;
const built = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

if (comfyui === undefined) {
  console.log("test:comfyui skipped: COMFYUI_PATH is not set.");
} else if (!existsSync(built)) {
  console.error("test:comfyui: build first (npm run build).");
  process.exitCode = 1;
} else {
  const chosen = process.argv.slice(2);
  const args = chosen.length > 0 ? chosen : ["discover", "-p", "test_*.py"];
  const run = spawnSync(python, ["-m", "unittest", ...args, "-v"], {
    cwd: folder,
    stdio: "inherit",
  });
  process.exitCode = run.status ?? 1;
}
