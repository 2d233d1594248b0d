/** `npm run faults`: the fault cases of npm test at the size of a bad night. */
import { expect, test } from "vitest";
import {
  expectNothingLost,
  type FaultCase,
  killDaemon,
  killEngine,
} from "../support/fault-cases.ts";

const NIGHT: FaultCase = { each: 50, steps: 20, pauseMs: [200, 3000] };

const tell = (name: string, result: object) =>
  process.stdout.write(`${name}: ${JSON.stringify(result)}\n`);

test("200 pictures of four clients, one row a run, the engine killed at random: the same bytes", async () => {
  const result = await killEngine("1", NIGHT);
  tell("engine killed, one row a run", result);
  expectNothingLost(result, NIGHT);
});

test("the same with shared runs as measured: company changes the last bits only", async () => {
  const result = await killEngine("0", NIGHT);
  tell("engine killed, shared runs", result);
  expectNothingLost(result, NIGHT, 1e-4);
});

test.each(["supervisor", "hand"] as const)(
  "200 pictures of four clients, a daemon killed at random and started again by %s: the same bytes",
  async (healer) => {
    const scenario = { ...NIGHT, pauseMs: [3000, 9000] } as const;
    const result = await killDaemon(healer, scenario);
    tell(`daemon killed, started again by ${healer}`, result);
    expectNothingLost(result, scenario);
    expect(result.kills).toBeGreaterThan(1);
  },
);
