/** What a new engine process must load again, and what could not be. */
import { LunaError } from "../kernel/index.ts";
import { ChildExited } from "./engine-child.ts";
import { JOB_CRASHES_MAX } from "./limits.ts";
import type { ComponentName, RunItem } from "./port.ts";

export type NetName = Readonly<{ path: string; component: ComponentName }>;
type Net = NetName & Readonly<{ bytes: number }>;

export const netKey = ({ path, component }: NetName): string => `${component}\n${path}`;

/** The nets of a run: its own, and the control nets of its items. */
export function netsOf(net: NetName, items: readonly RunItem[]): NetName[] {
  const paths = new Set(items.flatMap(({ controls = [] }) => controls.map(({ path }) => path)));
  const controls = [...paths].flatMap((path) =>
    (["control-hint", "control-net"] as const).map((component) => ({ path, component })),
  );
  return [net, ...controls];
}

export class LoadedNets {
  readonly #nets = new Map<string, Net>();
  /** Nets that could not be loaded again after a crash. */
  readonly #lost = new Set<string>();
  /** How often loading a net again has ended the process. */
  readonly #crashes = new Map<string, number>();

  list(): readonly Net[] {
    return [...this.#nets.values()];
  }

  isLost(net: NetName): boolean {
    return this.#lost.has(netKey(net));
  }

  add(net: Net): void {
    const key = netKey(net);
    this.#nets.set(key, net);
    this.#lost.delete(key);
    this.#crashes.delete(key);
  }

  /** All of a path's nets when no component is named. */
  remove(path: string, component?: ComponentName): void {
    for (const [key, net] of this.#nets) {
      if (net.path !== path) continue;
      if (component === undefined || component === net.component) this.#nets.delete(key);
    }
    for (const key of this.#lost) if (key.endsWith(`\n${path}`)) this.#lost.delete(key);
  }

  /**
   * After a load that failed: the reason when the net is given up, which is at once, or when loading
   * has ended the process twice.
   */
  giveUp(net: NetName, error: unknown): LunaError | undefined {
    const key = netKey(net);
    const crashes = (this.#crashes.get(key) ?? 0) + 1;
    this.#crashes.set(key, crashes);
    if (error instanceof ChildExited && crashes < JOB_CRASHES_MAX) return undefined;
    this.#nets.delete(key);
    this.#crashes.delete(key);
    this.#lost.add(key);
    return error instanceof ChildExited
      ? new LunaError("ENGINE_CRASHED", `Loading ended the engine ${crashes} times.`)
      : LunaError.from(error);
  }
}
