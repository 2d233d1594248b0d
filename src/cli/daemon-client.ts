import { type LunaClient, openModels } from "../client/index.ts";
import type { Config } from "../kernel/index.ts";
import { VERSION } from "../version.ts";

export function daemonUrl(config: Config): string {
  return config.daemonUrl || `ws://127.0.0.1:${config.port}`;
}

/** How a client of this program names itself and finds the daemon. */
export function clientOptions(config: Config, name: string) {
  return {
    client: { name, version: VERSION, pid: process.pid },
    url: daemonUrl(config),
    ...(config.token === "" ? {} : { token: config.token }),
  };
}

/** Runs `use` with a client of the running daemon. Throws DAEMON_NOT_RUNNING without one. */
export async function withDaemon<T>(
  config: Config,
  use: (client: LunaClient) => Promise<T>,
): Promise<T> {
  const client = await openModels({ mode: "force_daemon", ...clientOptions(config, "luna") });
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}
