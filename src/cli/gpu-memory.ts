import { execFile } from "node:child_process";
import { promisify } from "node:util";

const TIMEOUT_MS = 2_000;
const MIB = 2 ** 20;
/** Once it was not found it is not looked for again. */
let isAbsent = false;

/** Lines of `nvidia-smi --query-compute-apps=pid,used_memory`: "1234, 5678" (MiB). */
export function parseComputeApps(csv: string): ReadonlyMap<number, number> {
  const bytes = new Map<number, number>();
  for (const line of csv.split("\n")) {
    const [, pid, mebibytes] = /^\s*(\d+)\s*,\s*(\d+)/.exec(line) ?? [];
    if (pid === undefined) continue;
    // A process on several GPUs has a line for each.
    bytes.set(Number(pid), (bytes.get(Number(pid)) ?? 0) + Number(mebibytes) * MIB);
  }
  return bytes;
}

/** GPU memory by process; undefined without NVIDIA's tool. */
export async function gpuMemory(): Promise<ReadonlyMap<number, number> | undefined> {
  if (isAbsent) return undefined;
  const args = ["--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"];
  try {
    const { stdout } = await promisify(execFile)("nvidia-smi", args, { timeout: TIMEOUT_MS });
    return parseComputeApps(stdout);
  } catch {
    isAbsent = true;
    return undefined;
  }
}
