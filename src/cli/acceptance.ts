import { AcceptanceBench, type Outcome } from "./acceptance/bench.ts";
import { errors, fourAtOnce, memory, routings } from "./acceptance/instance-cases.ts";
import { loading, longRun, loraCorrectness, type Names, stack } from "./acceptance/model-cases.ts";
import { type Command, JSON_OPTION } from "./command.ts";
import { textTable } from "./table.ts";

/** The embedded model and its LoRAs. */
const NAMES: Names = {
  model: "luna-emoji-v1.safetensors",
  loras: ["blueprint", "pixel", "high-contrast"],
};

const CASES: readonly ((bench: AcceptanceBench) => Promise<Outcome | Outcome[]>)[] = [
  (bench) => loading(bench, NAMES),
  memory,
  (bench) => stack(bench, NAMES),
  (bench) => routings(bench, NAMES),
  (bench) => fourAtOnce(bench, NAMES),
  errors,
  (bench) => longRun(bench, NAMES),
  (bench) => loraCorrectness(bench, NAMES),
];

export const acceptance: Command = {
  summary: "Runs the eight acceptance tests against a real daemon and real instances.",
  usage: "[--json]",
  settings: ["device", "threads", "models"],
  options: { json: JSON_OPTION },
  async run({ values, config, print, note, signal }) {
    const bench = await AcceptanceBench.start(config);
    const outcomes: Outcome[] = [];
    try {
      for (const run of CASES) {
        signal.throwIfAborted();
        for (const outcome of [await run(bench)].flat()) {
          outcomes.push(outcome);
          note(`${outcome.isPassed ? "pass" : "FAIL"}  ${outcome.test}`);
        }
      }
    } finally {
      await bench.close();
    }
    const passed = outcomes.filter(({ isPassed }) => isPassed).length;
    const rows = outcomes.map(({ test, expected, measured, isPassed }) => [
      isPassed ? "pass" : "FAIL",
      test,
      expected,
      measured,
    ]);
    print(
      values["json"]
        ? JSON.stringify({ passed, failed: outcomes.length - passed, outcomes }, null, 2)
        : `\n${textTable(["", "test", "expected", "measured"], rows)}\n\n${passed} passed, ${outcomes.length - passed} failed`,
    );
    return passed === outcomes.length ? 0 : 1;
  },
};
