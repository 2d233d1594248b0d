import type { EngineInfo } from "../engine/index.ts";
import type { DaemonStatus } from "../protocol/index.ts";
import type { ModelStatus } from "../registry/index.ts";
import type { NetRunner } from "./net-runner.ts";
import type { DaemonOptions } from "./ports.ts";
import type { Session } from "./session.ts";
import type { TensorStore } from "./tensor-store.ts";

type StatusParts = Readonly<{
  options: DaemonOptions;
  store: TensorStore;
  runner: NetRunner;
  sessions: readonly Session[];
  uptimeMs: number;
}>;

/** All figures of the daemon at one moment. */
export async function readStatus(parts: StatusParts): Promise<DaemonStatus> {
  const { options, store, runner, sessions, uptimeMs } = parts;
  const [models, engine] = await Promise.all([options.registry.list(), options.engine.info()]);
  const { pid, device, provider, rssBytes, restarts, loraCache, overlays } = engine;
  return {
    daemon: {
      version: options.version,
      pid: process.pid,
      uptimeMs,
      rssBytes: process.memoryUsage.rss(),
    },
    models: models.map((model) => modelStatus(model, engine)),
    sessions: sessions.flatMap((session) => session.toStatus() ?? []),
    queue: runner.queueState,
    batches: { ...runner.batches, caps: [...runner.caps] },
    engine: { pid, device, provider, rssBytes, restarts, loraCache, overlays },
    tensorStore: store.state,
  };
}

/** `copies` is counted in the engine: how often the net loaded most often is there. */
function modelStatus(model: ModelStatus, { loaded }: EngineInfo): DaemonStatus["models"][number] {
  const { id, isPinned, nets } = model;
  const copiesOf = nets.map(
    (net) =>
      loaded.filter(({ path, component }) => path === net.path && component === net.component)
        .length,
  );
  return {
    id,
    isPinned,
    copies: Math.max(0, ...copiesOf),
    bytes: nets.reduce((sum, net) => sum + net.bytes, 0),
    users: nets.reduce((sum, net) => sum + net.users, 0),
    components: nets.map(({ component }) => component),
  };
}
