import type { DaemonCore } from "./daemon-core.ts";
import { READY_MS_MAX } from "./limits.ts";

export type Readiness = Readonly<{ status: "ready" } | { status: "not ready"; reason: string }>;

/**
 * Whether a request sent now would be served. An engine that is starting again or loading answers
 * late: new clients had better wait.
 */
export async function readReadiness(core: DaemonCore): Promise<Readiness> {
  if (core.isClosing) return { status: "not ready", reason: "The daemon is shutting down." };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), READY_MS_MAX);
  });
  try {
    const engine = await Promise.race([core.options.engine.info(), late]);
    if (engine === undefined) {
      return { status: "not ready", reason: `The engine has not answered for ${READY_MS_MAX} ms.` };
    }
    if (engine.pid === 0) return { status: "not ready", reason: "The engine is not running." };
    return { status: "ready" };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    return { status: "not ready", reason };
  } finally {
    clearTimeout(timer);
  }
}
