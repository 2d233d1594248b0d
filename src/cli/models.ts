import type { LunaClient } from "../client/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type Command, type Invocation, JSON_OPTION } from "./command.ts";
import { withDaemon } from "./daemon-client.ts";
import { formatBytes, textTable } from "./table.ts";

const settings = ["daemonUrl", "port", "token", "tokenFile"] as const;

export const models: Command = {
  summary: "Lists the models in the daemon's folders and which are in memory.",
  usage: "[--json]",
  settings,
  options: { json: JSON_OPTION },
  async run({ values, config, print }) {
    const list = await withDaemon(config, (client) => client.list());
    const rows = list.models.map(({ id, bytes, isLoaded }) => [
      id,
      formatBytes(bytes),
      isLoaded ? "in memory" : "",
    ]);
    print(
      values["json"]
        ? JSON.stringify(list.models, null, 2)
        : textTable(["model", "file", ""], rows),
    );
    return 0;
  },
};

export const loras: Command = {
  summary: "Lists the LoRA files that requests can name.",
  usage: "[--json]",
  settings,
  options: { json: JSON_OPTION },
  async run({ values, config, print }) {
    const list = await withDaemon(config, (client) => client.list());
    if (values["json"]) print(JSON.stringify(list.loras, null, 2));
    else print(list.loras.length > 0 ? list.loras.join("\n") : "No LoRA in the folders.");
    return 0;
  },
};

async function withModel(
  { positionals, config }: Invocation,
  use: (client: LunaClient, name: string) => Promise<void>,
): Promise<void> {
  const [name, ...rest] = positionals;
  if (name === undefined || rest.length > 0) {
    throw new LunaError("CONFIG_INVALID", "Name one model; `luna models` lists them.");
  }
  await withDaemon(config, (client) => use(client, name));
}

export const preload: Command = {
  summary: "Loads a model now, so that the first step need not wait for it.",
  usage: "NAME [--pin]",
  hasOperands: true,
  settings,
  options: {
    pin: { type: "boolean", doc: "Keep it in memory until it is unpinned." },
    json: JSON_OPTION,
  },
  async run(invocation) {
    const { values, print } = invocation;
    await withModel(invocation, async (client, name) => {
      const info = await client.preload(name);
      if (values["pin"]) await client.pin(name);
      print(
        values["json"]
          ? JSON.stringify(info, null, 2)
          : `${info.id} is in memory (${formatBytes(info.bytes)}).`,
      );
    });
    return 0;
  },
};

export const unload: Command = {
  summary: "Gives a model's memory back as soon as no step uses it.",
  usage: "NAME",
  hasOperands: true,
  settings,
  options: { json: JSON_OPTION },
  async run(invocation) {
    const { values, print } = invocation;
    await withModel(invocation, async (client, name) => {
      await client.unpin(name);
      await client.unload(name);
      print(
        values["json"] ? JSON.stringify({ unloaded: name }) : `${name} is not in memory any more.`,
      );
    });
    return 0;
  },
};
