/** What `luna run --json` prints, and a line of `luna run --events`. */
export type RunReport = Readonly<{
  pid: number;
  rssBytes: number;
  /** Memory of this instance's own engine process; 0 when the daemon computed everything. */
  engineRssBytes: number;
  workflow: string;
  /** Absolute paths of the saved PNG files. */
  pictures: readonly string[];
  loras: readonly Readonly<{ name: string; strengthModel: number; strengthClip: number }>[];
  prompts: readonly string[];
  steps: number;
  elapsedMs: number;
  /** From a step's call to its result. */
  stepMs: Quantiles;
  /** The part of it that is neither the engine's session nor waiting for the engine. */
  overheadMs: Quantiles;
}>;

export type Quantiles = Readonly<{ p50: number; p95: number }>;

export type RunEvent =
  | Readonly<{ type: "progress"; value: number; max: number; text: string }>
  | Readonly<{ type: "log"; line: string }>
  | Readonly<{ type: "report"; report: RunReport }>;
