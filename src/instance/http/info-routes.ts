/** What an instance has and can: nodes, models, the machine. */
import { cpus, freemem, totalmem } from "node:os";
import type { LunaClient } from "../../client/index.ts";
import type { NodeServices } from "../../nodes/index.ts";
import type { Definitions } from "../../workflow/index.ts";
import { STATUS_MS_MAX } from "../limits.ts";
import { describeNodes } from "../object-info.ts";
import { FEATURES } from "../socket-hub.ts";
import { KINDS } from "./model-routes.ts";
import { jsonReply, type Routes } from "./router.ts";

export type InfoRoutesOptions = Readonly<{
  definitions: Definitions;
  services: NodeServices;
  version: string;
  /** Who computes: their devices are what system_stats shows. */
  clients: () => Promise<readonly LunaClient[]>;
}>;

/** The version of ComfyUI whose API this is; clients compare it. */
const COMFYUI_VERSION = "0.18.1";
export function infoRoutes(options: InfoRoutesOptions): Routes {
  const { definitions, services } = options;
  return {
    "GET /object_info": async () => jsonReply(await describeNodes(definitions.values(), services)),
    "GET /object_info/:name": async ({ params }) => {
      const found = definitions.get(params["name"] ?? "");
      // An unknown class is an empty answer: clients probe for nodes and wait for one.
      return jsonReply(await describeNodes(found === undefined ? [] : [found], services));
    },
    "GET /features": () => jsonReply(FEATURES),
    "GET /system_stats": async () => jsonReply(await systemStats(options)),
    "GET /extensions": () => jsonReply([]),
    "GET /i18n": () => jsonReply({}),
    "GET /workflow_templates": () => jsonReply({}),
    "GET /global_subgraphs": () => jsonReply({}),
    "GET /node_replacements": () => jsonReply({}),
    "GET /internal/folder_paths": () => jsonReply(Object.fromEntries(KINDS.map((k) => [k, []]))),
    "GET /internal/logs": () => jsonReply(""),
    "GET /internal/logs/raw": () => jsonReply({ entries: [], size: { cols: 80, rows: 24 } }),
    "PATCH /internal/logs/subscribe": () => ({}),
  };
}

async function systemStats({ version, clients }: InfoRoutesOptions): Promise<unknown> {
  return {
    system: {
      os: process.platform,
      ram_total: totalmem(),
      ram_free: freemem(),
      comfyui_version: COMFYUI_VERSION,
      required_frontend_version: "",
      installed_templates_version: "",
      required_templates_version: "",
      python_version: `Node.js ${process.version}`,
      pytorch_version: `luna-daemon ${version}`,
      embedded_python: false,
      argv: [],
    },
    devices: await devices(await clients()),
  };
}

/** Undefined for a daemon that is just restarting: the page must neither fail nor wait for it. */
async function statusOf(client: LunaClient) {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, STATUS_MS_MAX, undefined);
  });
  const status = client.status().catch(() => undefined);
  return await Promise.race([status, late]).finally(() => clearTimeout(timer));
}

async function devices(clients: readonly LunaClient[]): Promise<unknown[]> {
  const listed: unknown[] = [];
  for (const client of clients) {
    const status = await statusOf(client);
    if (status === undefined) continue;
    const { engine, models } = status;
    const used = models.reduce((sum, { bytes }) => sum + bytes, 0);
    const where = client.isDaemon ? "Luna daemon" : "this instance";
    const memory = { vram_total: totalmem(), vram_free: Math.max(0, totalmem() - used) };
    const torch = { torch_vram_total: engine.rssBytes, torch_vram_free: 0 };
    const name = `${engine.device} ${engine.provider} (${where})`;
    listed.push({ name, type: engine.device, index: listed.length, ...memory, ...torch });
  }
  if (listed.length > 0) return listed;
  const memory = { vram_total: totalmem(), vram_free: freemem() };
  const torch = { torch_vram_total: 0, torch_vram_free: 0 };
  const name = `cpu ${cpus()[0]?.model ?? ""} (no daemon yet)`;
  return [{ name, type: "cpu", index: 0, ...memory, ...torch }];
}
