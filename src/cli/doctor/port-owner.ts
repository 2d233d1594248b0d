/** Which program listens on a port of this machine. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

const LISTEN = "0A";

/** Inodes of the sockets that listen on `port`, of /proc/net/tcp or tcp6. */
export function listeningInodes(table: string, port: number): string[] {
  const wanted = port.toString(16).toUpperCase().padStart(4, "0");
  return table
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const fields = line.trim().split(/\s+/);
      const isIt = fields[1]?.endsWith(`:${wanted}`) === true && fields[3] === LISTEN;
      return isIt ? (fields[9] ?? []) : [];
    });
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function linuxOwner(port: number): string | undefined {
  const tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(read);
  const inodes = new Set(tables.flatMap((table) => listeningInodes(table, port)));
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      for (const file of readdirSync(`/proc/${pid}/fd`)) {
        const target = readlinkSync(`/proc/${pid}/fd/${file}`);
        if (!inodes.has(/^socket:\[(\d+)\]$/.exec(target)?.[1] ?? "")) continue;
        const command = read(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
        return `pid ${pid} (${command.slice(0, 120)})`;
      }
    } catch {
      // Another user's process, or one that has just ended.
    }
  }
  return undefined;
}

/** "pid 123 (node server.js)", or undefined where that cannot be seen. */
export function portOwner(port: number): string | undefined {
  try {
    if (process.platform === "linux") return linuxOwner(port);
    if (process.platform === "win32") {
      // Untested on Windows.
      const lines = execFileSync("netstat", ["-ano", "-p", "TCP"], { encoding: "utf8" });
      const pid = new RegExp(`:${port}\\s+\\S+\\s+LISTENING\\s+(\\d+)`).exec(lines)?.[1];
      return pid && `pid ${pid}`;
    }
    const args = ["-nP", `-iTCP:${port}`, "-sTCP:LISTEN", "-Fpc"];
    const [, pid, name] =
      /^p(\d+)\nc(.*)$/m.exec(execFileSync("lsof", args, { encoding: "utf8" })) ?? [];
    return pid && `pid ${pid} (${name})`;
  } catch {
    return undefined;
  }
}
