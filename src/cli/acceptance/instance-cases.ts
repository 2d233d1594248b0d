/** The seed's tests with whole instances: memory, the four routings, four at once, errors. */
import { decimal, shortName } from "../../nodes/index.ts";
import { formatBytes } from "../table.ts";
import {
  type AcceptanceBench,
  type InstanceRun,
  type Outcome,
  pictureDifference,
} from "./bench.ts";
import type { Names } from "./model-cases.ts";

/** Nobody listens on the discard port. */
const NO_DAEMON = "ws://127.0.0.1:9";
/** The seed's promise: 10 GB become 3.7. */
const MEMORY_SHARE_MAX = 0.4;
/** One step of 256: rounding of a value that differs in its last float32 bits. */
const PICTURE_DIFFERENCE_MAX = 1;

const modes = (model: string, clip: string): string[] => [
  `model.daemon_mode=${model}`,
  `clip.daemon_mode=${clip}`,
];

function problem({ code, errors }: InstanceRun): string {
  return `ended with ${code}: ${errors.split("\n").at(-1) ?? ""}`;
}

export async function memory(bench: AcceptanceBench): Promise<Outcome> {
  const shared = await bench.instance("memory-daemon", modes("force_daemon", "force_daemon"));
  const local = await bench.instance("memory-local", modes("force_local", "force_local"));
  const test = "2 memory of an instance, with and without the daemon";
  if (!shared.report || !local.report) {
    return {
      test,
      expected: "two runs",
      measured: `${problem(shared)}; ${problem(local)}`,
      isPassed: false,
    };
  }
  const [with_, without] = [
    shared.report.rssBytes,
    local.report.rssBytes + local.report.engineRssBytes,
  ];
  return {
    test,
    expected: `at most ${MEMORY_SHARE_MAX * 100} % of it with the daemon`,
    measured: `${formatBytes(with_)} with, ${formatBytes(without)} without (${formatBytes(local.report.engineRssBytes)} of it its own engine)`,
    isPassed: with_ <= MEMORY_SHARE_MAX * without,
  };
}

type Place = "daemon" | "local";
const PLACES: readonly Place[] = ["daemon", "local"];
const WEIGHTS = { model: 0.8, clip: 0.4 };

/** What the gateway says of a LoRA: one line for each place that gets a part of it. */
function loraLines(lora: string, model: Place, clip: Place): string[] {
  const line = (place: Place, toModel: number, toClip: number) =>
    `LoRA '${lora}' → ${place} (model=${decimal(toModel)}, clip=${decimal(toClip)})`;
  if (model === clip) return [line(model, WEIGHTS.model, WEIGHTS.clip)];
  return [line(model, WEIGHTS.model, 0), line(clip, 0, WEIGHTS.clip)];
}

export async function routings(bench: AcceptanceBench, { loras }: Names): Promise<Outcome[]> {
  const [lora] = loras;
  const prompt = `gateway.positive_prompt=rocket <lora:${lora}:${WEIGHTS.model}:${WEIGHTS.clip}>`;
  const plain = await bench.instance("route-plain", ["gateway.positive_prompt=rocket"]);
  const outcomes: Outcome[] = [];
  let reference: readonly string[] | undefined;
  for (const model of PLACES) {
    for (const clip of PLACES) {
      const sets = [prompt, ...modes(`force_${model}`, `force_${clip}`)];
      const run = await bench.instance(`route-${model}-${clip}`, sets);
      const pictures = run.report?.pictures ?? [];
      reference ??= pictures;
      const difference = await pictureDifference(pictures, reference);
      const ofLora = await pictureDifference(pictures, plain.report?.pictures ?? []);
      const lines = loraLines(lora, model, clip);
      const isRouted = lines.every((line) => run.logs.some((log) => log.endsWith(line)));
      outcomes.push({
        test: `4 model ${model}, CLIP ${clip}`,
        expected: `the same picture (within ${PICTURE_DIFFERENCE_MAX} of 255), its LoRA there`,
        measured: run.report
          ? `difference ${difference}, ${ofLora} from none; ${isRouted ? lines.join(", ") : "LoRA not routed so"}`
          : problem(run),
        isPassed:
          run.report !== undefined &&
          difference <= PICTURE_DIFFERENCE_MAX &&
          ofLora > PICTURE_DIFFERENCE_MAX &&
          isRouted,
      });
    }
  }
  return outcomes;
}

/** LoRAs that the steps of a run had: "blueprint:0.9". */
function lorasOf({ report }: InstanceRun): string {
  const names = report?.loras.map(
    ({ name, strengthModel }) => `${shortName(name)}:${strengthModel}`,
  );
  return names?.join("+") || "none";
}

export async function fourAtOnce(bench: AcceptanceBench, { loras }: Names): Promise<Outcome> {
  const stacks = ["", ...loras.map((lora) => ` <lora:${lora}:0.9:0.5>`)];
  const sets = stacks.map((tags, index) => [
    `gateway.positive_prompt=rocket${tags}`,
    `sampler.seed=${100 + index}`,
  ]);
  const alone: InstanceRun[] = [];
  for (const [index, set] of sets.entries())
    alone.push(await bench.instance(`alone-${index}`, set));
  const together = await Promise.all(
    sets.map((set, index) => bench.instance(`together-${index}`, set)),
  );
  const differences: number[] = [];
  for (const [index, run] of together.entries()) {
    differences.push(
      await pictureDifference(run.report?.pictures ?? [], alone[index]?.report?.pictures ?? []),
    );
  }
  const wanted = ["none", ...loras.map((lora) => `${lora}:0.9`)].join(", ");
  const used = together.map(lorasOf).join(", ");
  return {
    test: "5 four instances at once with different LoRAs, each as if alone",
    expected: `every picture within ${PICTURE_DIFFERENCE_MAX} of 255; ${wanted}`,
    measured: `differences ${differences.join(", ")}; ${used}`,
    isPassed:
      differences.every((difference) => difference <= PICTURE_DIFFERENCE_MAX) && used === wanted,
  };
}

export async function errors(bench: AcceptanceBench): Promise<Outcome[]> {
  const fallback = await bench.instance("auto", modes("auto", "auto"), NO_DAEMON);
  const forced = await bench.instance("forced", modes("force_daemon", "force_daemon"), NO_DAEMON);
  const wrong = await bench.instance("wrong", ["model.ckpt_name=no-such-model.safetensors"]);
  const missing = await bench.instance("missing", [
    "gateway.positive_prompt=rocket <lora:no-such-lora:1>",
  ]);
  const warned = fallback.logs.some((line) => /Daemon is not running/.test(line));
  const skipped = missing.logs.some((line) => /LoRA 'no-such-lora.*not found/.test(line));
  return [
    {
      test: "6 no daemon, auto",
      expected: "local picture and one warning",
      measured: fallback.report
        ? `picture, ${warned ? "warned" : "no warning"}`
        : problem(fallback),
      isPassed: fallback.report !== undefined && warned,
    },
    {
      test: "6 no daemon, force_daemon",
      expected: "Daemon is not running",
      measured: problem(forced),
      isPassed: forced.code !== 0 && /Daemon is not running/.test(forced.errors),
    },
    {
      test: "6 wrong model name",
      expected: "an error that names it",
      measured: problem(wrong),
      isPassed: wrong.code !== 0 && wrong.errors.includes("no-such-model.safetensors"),
    },
    {
      test: "6 missing LoRA",
      expected: "warning, skipped, picture",
      measured: missing.report ? `picture, ${skipped ? "warned" : "no warning"}` : problem(missing),
      isPassed: missing.report !== undefined && skipped,
    },
  ];
}
