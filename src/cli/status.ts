import type { DaemonStatus } from "../protocol/index.ts";
import { type Command, JSON_OPTION } from "./command.ts";
import { withDaemon } from "./daemon-client.ts";
import { formatBytes, textTable } from "./table.ts";

const milliseconds = (value: number): string => value.toFixed(1);

/** The status as people read it. */
export function statusText(status: DaemonStatus): string {
  const { daemon, engine, queue, batches, tensorStore } = status;
  const models = status.models
    .filter((model) => model.copies > 0)
    .map((model) => [
      model.id,
      String(model.copies),
      formatBytes(model.bytes),
      String(model.users),
      model.isPinned ? "pinned" : "",
      model.components.join(" "),
    ]);
  const sessions = status.sessions.map((session) => [
    session.name,
    String(session.steps),
    String(session.pending),
    milliseconds(session.overheadMs.p50),
    milliseconds(session.overheadMs.p95),
    session.loras.map(({ name, strength }) => `${name}:${strength}`).join(" "),
  ]);
  const shared = Object.entries(batches.clients).map(
    ([clients, runs]) => `${clients} clients: ${runs}`,
  );
  return [
    `Luna daemon ${daemon.version}, pid ${daemon.pid}, up ${Math.round(daemon.uptimeMs / 1000)} s`,
    `Engine on ${engine.device} (${engine.provider}), pid ${engine.pid}, ${formatBytes(engine.rssBytes)} resident, ${engine.restarts} restarts`,
    `Queue ${queue.depth} of ${queue.depthMax}; ${batches.total} batches${shared.length > 0 ? ` (${shared.join(", ")})` : ""}`,
    `LoRA cache ${engine.loraCache.entries} files, ${formatBytes(engine.loraCache.bytes)}; tensors ${tensorStore.entries}, ${formatBytes(tensorStore.bytes)}`,
    "",
    models.length > 0
      ? textTable(["model in memory", "copies", "bytes", "users", "", "parts"], models)
      : "No model is in memory.",
    "",
    sessions.length > 0
      ? textTable(["client", "steps", "waiting", "overhead p50 ms", "p95 ms", "LoRAs"], sessions)
      : "No client is connected.",
  ].join("\n");
}

export const status: Command = {
  summary: "Shows what the running daemon holds in memory and what its clients do.",
  usage: "[--json]",
  settings: ["daemonUrl", "port", "token", "tokenFile"],
  options: { json: JSON_OPTION },
  async run({ values, config, print }) {
    const facts = await withDaemon(config, (client) => client.status());
    print(values["json"] ? JSON.stringify(facts, null, 2) : statusText(facts));
    return 0;
  },
};
