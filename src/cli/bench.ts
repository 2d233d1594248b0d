import { LunaError } from "../kernel/index.ts";
import { batching } from "./bench/batching.ts";
import { BenchBed, type Figures, machine } from "./bench/bed.ts";
import { clients } from "./bench/clients.ts";
import { coldstart } from "./bench/coldstart.ts";
import { fairness } from "./bench/fairness.ts";
import { loraMany } from "./bench/lora-many.ts";
import { loraMix, loraSwitch } from "./bench/loras.ts";
import { overhead } from "./bench/overhead.ts";
import { soak } from "./bench/soak.ts";
import { torchInstancesSuite, torchStepSuite, torchSwitchSuite } from "./bench/torch.ts";
import { engineFlags } from "./child-process.ts";
import { type Command, JSON_OPTION } from "./command.ts";
import { textTable } from "./table.ts";

const SOAK_STEPS = 5_000;

type Suite = Readonly<{
  /** Key of its figures in the JSON. */
  key: string;
  run: (bed: BenchBed, options: { steps: number; python: string }) => Promise<Figures>;
  /** Compares with PyTorch: runs only where a Python that has it is given. */
  needsTorch?: boolean;
}>;

const SUITES: Readonly<Record<string, Suite>> = {
  overhead: { key: "overhead", run: overhead },
  batching: { key: "batching", run: batching },
  fairness: { key: "fairness", run: fairness },
  clients: { key: "clients", run: clients },
  "lora-mix": { key: "loraMix", run: loraMix },
  "lora-switch": { key: "loraSwitch", run: loraSwitch },
  "lora-many": { key: "loraMany", run: loraMany },
  coldstart: { key: "coldstart", run: coldstart },
  soak: { key: "soak", run: (bed, { steps }) => soak(bed, steps) },
  "torch-step": {
    ...{ key: "torchStep", needsTorch: true },
    run: (bed, { python }) => torchStepSuite(bed, python),
  },
  "torch-switch": {
    ...{ key: "torchSwitch", needsTorch: true },
    run: (bed, { python }) => torchSwitchSuite(bed, python),
  },
  "torch-instances": {
    ...{ key: "torchInstances", needsTorch: true },
    run: (bed, { python }) => torchInstancesSuite(bed, python),
  },
};

/** What each figure should be, by its place in the JSON. */
const GOALS: Readonly<Record<string, string>> = {
  "overhead.ws.p50Ms": "<= 1",
  "overhead.ws.p99Ms": "<= 4",
  "overhead.unix.p50Ms": "<= 1",
  "overhead.unix.p99Ms": "<= 4",
  "batching.ratioWorst": ">= 1",
  "fairness.stallSteps": "<= 1",
  "loraMix.ratio": "<= 1.1",
  "loraSwitch.ratio": "<= 1.02",
  "loraSwitch.sd15.ratio": "<= 1.02",
  "loraFirstUse.ms": "<= 30",
  "coldstart.ms": "<= 1500",
  "torchStep.unet32.ratio": ">= 1.5",
  "torchStep.unet64.ratio": ">= 1.3",
};

type Report = Readonly<Record<string, Figures>>;

/** "overhead.ws.p50Ms" and its value, for each number in the report. */
function* numbersIn(value: object, prefix = ""): Generator<[string, number]> {
  for (const [key, inner] of Object.entries(value)) {
    const place = prefix === "" ? key : `${prefix}.${key}`;
    if (typeof inner === "number") yield [place, inner];
    else if (typeof inner === "object" && inner !== null && !Array.isArray(inner)) {
      yield* numbersIn(inner, place);
    }
  }
}

export function benchTable(report: Report): string {
  const rows = [...numbersIn(report)].map(([place, value]) => [
    place,
    String(value),
    GOALS[place] ?? "",
  ]);
  return textTable(["figure", "measured", "goal"], rows);
}

/** The first use of a LoRA is measured by the way and is a figure of its own. */
function withFirstUse(report: Report): Report {
  const { firstUse, ...others } = report["loraSwitch"] ?? {};
  if (typeof firstUse !== "object") return report;
  return { ...report, loraSwitch: others, loraFirstUse: { ...firstUse } };
}

/** The suites that were named, or all that can run. Throws CONFIG_INVALID. */
function suiteNames(named: readonly string[], python: string | undefined): readonly string[] {
  const all = Object.keys(SUITES);
  for (const name of named) {
    if (!Object.hasOwn(SUITES, name)) {
      throw new LunaError("CONFIG_INVALID", `There is no suite "${name}": ${all.join(", ")}.`);
    }
    if (SUITES[name]?.needsTorch && python === undefined) {
      throw new LunaError("CONFIG_INVALID", `${name} compares with PyTorch: add --torch PYTHON.`);
    }
  }
  if (named.length > 0) return named;
  return all.filter((name) => python !== undefined || !SUITES[name]?.needsTorch);
}

export const bench: Command = {
  summary: `Measures this machine: ${Object.keys(SUITES).join(", ")}. Run it when nothing else runs.`,
  usage: "[SUITE]... [--torch PYTHON] [--steps N] [--quick] [--json]",
  hasOperands: true,
  settings: ["device", "threads"],
  options: {
    quick: { type: "boolean", doc: "Only show that it all runs; no figures to quote." },
    torch: {
      type: "string",
      value: "PYTHON",
      doc: "Compare with PyTorch, run by this Python; writes a model of 3.4 GB for the time being.",
    },
    steps: { type: "string", value: "N", doc: `Steps of the soak (default ${SOAK_STEPS}).` },
    json: JSON_OPTION,
  },
  async run({ values, positionals, config, print, note, signal }) {
    const python = values["torch"] === undefined ? undefined : String(values["torch"]);
    const names = suiteNames(positionals, python);
    const steps = Number(values["steps"] ?? SOAK_STEPS);
    if (!Number.isSafeInteger(steps) || steps < 100) {
      throw new LunaError("CONFIG_INVALID", `--steps ${values["steps"]}: a whole number from 100.`);
    }
    const bed = await BenchBed.open({
      note,
      signal,
      engineFlags: engineFlags(config),
      isQuick: values["quick"] === true,
    });
    const report: Record<string, Figures> = { machine: machine() };
    try {
      for (const name of names) {
        const suite = SUITES[name];
        if (suite === undefined) continue;
        note(`${name} ...`);
        report[suite.key] = await suite.run(bed, {
          ...{ steps: bed.amount(steps), python: python ?? "" },
        });
      }
    } finally {
      // What was measured is told even if the rest cannot be.
      const figures = withFirstUse(report);
      print(values["json"] ? JSON.stringify(figures, null, 2) : `\n${benchTable(figures)}`);
      await bed.close();
    }
    return 0;
  },
};
