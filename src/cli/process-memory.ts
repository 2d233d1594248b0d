import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** `rssBytes` counts every resident page, `privateBytes` only those no other process shares. */
export type ProcessMemory = Readonly<{ rssBytes: number; privateBytes?: number }>;

function fromSmaps(pid: number): ProcessMemory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const kilobytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return {
    rssBytes: kilobytes("Rss") * 1024,
    privateBytes: (kilobytes("Private_Clean") + kilobytes("Private_Dirty")) * 1024,
  };
}

/** Memory of another process of this user, or undefined when it is gone. */
export function processMemory(pid: number): ProcessMemory | undefined {
  try {
    if (process.platform === "linux") return fromSmaps(pid);
    if (process.platform === "win32") {
      // Untested on Windows: the fifth field of tasklist's CSV is "12,345 K".
      const csv = execFileSync("tasklist", ["/fi", `PID eq ${pid}`, "/fo", "csv", "/nh"], {
        encoding: "utf8",
      });
      const field = csv.split('","')[4]?.replace(/\D/g, "");
      return field ? { rssBytes: Number(field) * 1024 } : undefined;
    }
    const kilobytes = execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" });
    return { rssBytes: Number(kilobytes.trim()) * 1024 };
  } catch {
    return undefined;
  }
}
