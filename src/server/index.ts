export { OPEN_GRANT } from "./allowances.ts";
export { createDaemonCore, type DaemonCore } from "./daemon-core.ts";
export { createHttpApp } from "./http-app.ts";
export {
  type DaemonListenOptions,
  DEFAULT_PORT,
  type ListeningDaemon,
  listenDaemon,
} from "./listen.ts";
export type { DaemonOptions, ServedModels } from "./ports.ts";
export type { TryEvent, TryIt, TryRequest } from "./try-it.ts";
