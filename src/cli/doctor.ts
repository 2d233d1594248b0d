import { existsSync } from "node:fs";
import { link, mkdtemp, rm, stat } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { startEngine } from "../engine/index.ts";
import { deviceOf } from "../engine-options.ts";
import { type Config, LunaError } from "../kernel/index.ts";
import { modelFoldersOf } from "../model-paths.ts";
import { ALL_KINDS, ModelFiles } from "../registry/index.ts";
import { VERSION } from "../version.ts";
import { isOlder } from "./comfyui.ts";
import { type Command, JSON_OPTION } from "./command.ts";
import { withDaemon } from "./daemon-client.ts";
import { checkLibraries } from "./doctor/device-libraries.ts";
import type { Finding } from "./doctor/finding.ts";
import { portOwner } from "./doctor/port-owner.ts";
import { formatBytes } from "./table.ts";

/** As package.json's "engines". */
const NODE_MIN = "20.11";
const CONNECT_MS = 1_000;

function checkNode(): Finding {
  const isOld = isOlder(process.versions.node, NODE_MIN);
  const fact = `Node ${process.versions.node} on ${process.platform}/${process.arch}`;
  if (!isOld) return { check: "node", state: "ok", fact };
  return {
    check: "node",
    state: "problem",
    fact,
    todo: `Install Node ${NODE_MIN} or newer.`,
  };
}

async function checkFolders(config: Config): Promise<Finding[]> {
  const folders = modelFoldersOf(config);
  const files = new ModelFiles(folders, () => performance.now());
  const counts: string[] = [];
  for (const kind of ALL_KINDS) counts.push(`${(await files.list(kind)).length} ${kind}`);
  const fact = counts.join(", ");
  const missing = config.models.filter((folder) => !existsSync(folder));
  const found: Finding[] = missing.map((folder) => ({
    check: "model folder",
    state: "problem",
    fact: `${folder} does not exist.`,
    todo: "Correct --models, LUNA_MODELS or luna.toml.",
  }));
  const hasModel =
    (await files.list("checkpoints")).length + (await files.list("diffusion_models")).length > 0;
  found.push(
    hasModel
      ? { check: "models", state: "ok", fact }
      : {
          check: "models",
          state: "problem",
          fact,
          todo: "Point --models at ComfyUI's models folder; only .safetensors files are read.",
        },
  );
  if ((await files.list("loras")).length === 0) {
    found.push({
      check: "loras",
      state: "advice",
      fact: "No LoRA file was found.",
      todo: "Put them into <models>/loras.",
    });
  }
  return found;
}

/** Can ONNX Runtime be given a hard link to the checkpoints (one file system), or must it read them? */
async function checkLinks(config: Config): Promise<Finding> {
  const files = new ModelFiles(modelFoldersOf(config), () => performance.now());
  const [checkpoint] = await files.list("checkpoints");
  if (checkpoint === undefined)
    return { check: "hard links", state: "ok", fact: "No checkpoint to try." };
  const folder = await mkdtemp(join(tmpdir(), "luna-doctor-"));
  try {
    await link(checkpoint.path, join(folder, "weights"));
    return { check: "hard links", state: "ok", fact: "Weights can be mapped from the checkpoint." };
  } catch {
    return {
      check: "hard links",
      state: "advice",
      fact: `${tmpdir()} is on another file system than ${checkpoint.path}.`,
      todo: "The engine links beside the checkpoint instead, or reads it into memory where it may not write. Set TMPDIR to a folder on the models' disk to be sure of the first.",
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function isPortTaken(config: Config): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: config.host, port: config.port, timeout: CONNECT_MS });
    const answer = (isTaken: boolean) => () => {
      socket.destroy();
      resolve(isTaken);
    };
    socket
      .once("connect", answer(true))
      .once("error", answer(false))
      .once("timeout", answer(false));
  });
}

async function checkDaemon(config: Config): Promise<Finding> {
  const check = "daemon";
  try {
    return await withDaemon(config, async (client): Promise<Finding> => {
      const { daemon, engine } = await client.status();
      const fact = `Daemon ${daemon.version} runs (pid ${daemon.pid}, ${engine.device}).`;
      if (daemon.version === VERSION && engine.restarts === 0) return { check, state: "ok", fact };
      if (daemon.version === VERSION) {
        return {
          check,
          state: "advice",
          fact: `${fact} Its engine has been started again ${engine.restarts} times.`,
          todo: "Look for engine.crashed in the daemon's log: memory or the driver, most often.",
        };
      }
      return {
        check,
        state: "problem",
        fact,
        todo: `This is ${VERSION}: restart the daemon from this version.`,
      };
    });
  } catch (error) {
    const known = LunaError.from(error);
    if (await isPortTaken(config)) {
      return {
        check,
        state: "problem",
        fact: `Port ${config.port} answers, but not as a Luna daemon for this program: ${known.message} It belongs to ${portOwner(config.port) ?? "a program of another user"}.`,
        todo:
          known.code === "UNAUTHORIZED"
            ? "Set LUNA_TOKEN or --token-file to the daemon's token."
            : `Stop that program or choose another port with --port (and LUNA_DAEMON_URL for clients).`,
      };
    }
    return {
      check,
      state: "advice",
      fact: "No daemon runs.",
      todo: "Start it with: npx luna serve",
    };
  }
}

/** ComfyUI processes on the daemon whose node pack is of another version. */
async function checkPacks(config: Config): Promise<Finding[]> {
  const check = "ComfyUI nodes";
  try {
    return await withDaemon(config, async (client) => {
      const { sessions } = await client.status();
      return sessions
        .filter(({ name, version }) => name.startsWith("comfyui-") && version !== VERSION)
        .map(({ name, version }) => ({
          check,
          state: "problem" as const,
          fact: `${name} has nodes of version ${version}, this is ${VERSION}.`,
          todo: "Run: npx luna comfyui install PATH_TO_COMFYUI, and restart that ComfyUI.",
        }));
    });
  } catch {
    // No daemon: said by the check before.
    return [];
  }
}

async function checkDevice(config: Config): Promise<Finding> {
  const check = "device";
  const device = deviceOf(config);
  try {
    const engine = await startEngine({ device });
    const { provider, device: found } = await engine.info();
    await engine.close();
    return {
      check,
      state: "ok",
      fact: `The engine starts on ${found} (${provider}) and passes its self-test.`,
    };
  } catch (error) {
    return {
      check,
      state: "problem",
      fact: LunaError.from(error).message,
      todo: "Use --device cpu, or follow the message. NVIDIA's binaries are not part of a normal install: ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node brings them; ONNXRUNTIME_NODE_INSTALL=skip npm ci leaves them out where they cannot be downloaded.",
    };
  }
}

async function checkMemory(config: Config): Promise<Finding> {
  const budget = config.memoryMiB * 2 ** 20;
  const fact = `${formatBytes(totalmem())} in this machine, budget for models ${budget === 0 ? "automatic" : formatBytes(budget)}.`;
  if (budget <= totalmem()) return checkLargest(config, fact);
  return {
    check: "memory",
    state: "problem",
    fact,
    todo: "Lower memoryMiB: models would be swapped out.",
  };
}

/** A model above the budget is never loaded. */
async function checkLargest(config: Config, fact: string): Promise<Finding> {
  const check = "memory";
  const files = new ModelFiles(modelFoldersOf(config), () => performance.now());
  const models = [...(await files.list("checkpoints")), ...(await files.list("diffusion_models"))];
  const sizes = await Promise.all(
    models.map(async ({ id, path }) => ({
      id,
      bytes: await stat(path).then(
        ({ size }) => size,
        () => 0,
      ),
    })),
  );
  const budget = config.memoryMiB > 0 ? config.memoryMiB * 2 ** 20 : totalmem() * 0.75;
  const large = sizes.filter(({ bytes }) => bytes > budget);
  if (large.length === 0) return { check, state: "ok", fact };
  const names = large.map(({ id, bytes }) => `${id} (${formatBytes(bytes)})`).join(", ");
  return {
    check,
    state: "advice",
    fact: `${fact} Larger than the budget as files: ${names}.`,
    todo: "Raise memoryMiB, or take F16 files: some parts of these cannot be loaded together.",
  };
}

/** Who can read the file can use the daemon. */
async function checkTokenFile({ tokenFile }: Config): Promise<Finding[]> {
  if (tokenFile === "" || process.platform === "win32") return [];
  const { mode } = await stat(tokenFile);
  if ((mode & 0o077) === 0) return [{ check: "token file", state: "ok", fact: "It is private." }];
  const fact = `${tokenFile} can be read by other users of this machine.`;
  return [{ check: "token file", state: "advice", fact, todo: `chmod 600 ${tokenFile}` }];
}

export const doctor: Command = {
  summary: "Checks this machine, the configuration and the daemon, and says what to do.",
  usage: "[--json]",
  settings: [
    "models",
    "extraModelPaths",
    "host",
    "port",
    "daemonUrl",
    "device",
    "memoryMiB",
    "token",
    "tokenFile",
  ],
  options: { json: JSON_OPTION },
  async run({ values, config, print }) {
    const findings = [
      checkNode(),
      ...(await checkFolders(config)),
      await checkLinks(config),
      await checkMemory(config),
      ...(await checkTokenFile(config)),
      await checkDevice(config),
      ...checkLibraries(deviceOf(config)),
      await checkDaemon(config),
      ...(await checkPacks(config)),
    ];
    if (values["json"]) print(JSON.stringify(findings, null, 2));
    else {
      const marks = { ok: "✓", advice: "·", problem: "✗" } as const;
      for (const { check, state, fact, todo } of findings) {
        print(`${marks[state]} ${check.padEnd(12)} ${fact}`);
        if (todo !== undefined) print(`  ${" ".repeat(12)} → ${todo}`);
      }
    }
    return findings.some(({ state }) => state === "problem") ? 1 : 0;
  },
};
