import { expect, test } from "vitest";
import { Cadences, planWait } from "./cadences.ts";

const job = { key: "a", rows: 2 };

/** A client that asks again 1 ms after each answer; its steps take 10 ms. */
function steady(steps = 8) {
  const cadences = new Cadences();
  let nowMs = 0;
  for (let step = 0; step < steps; step++) {
    cadences.arrived("c", job, nowMs);
    nowMs += 10;
    cadences.answered("c", nowMs);
    nowMs += 1;
  }
  return { cadences, answeredAtMs: nowMs - 1 };
}

test("a client that comes back after a steady while is due then", () => {
  const { cadences, answeredAtMs } = steady();
  const [due] = cadences.due("a", answeredAtMs);
  expect(due).toMatchObject({ client: "c", rows: 2 });
  expect((due?.latestMs ?? 0) - answeredAtMs).toBeGreaterThanOrEqual(1);
  expect((due?.latestMs ?? 0) - answeredAtMs).toBeLessThan(1.5);
  expect(cadences.due("b", answeredAtMs)).toEqual([]);
  expect(cadences.due("a", answeredAtMs + 5)).toEqual([]);
});

test("a client that did not come is not waited for again until it is steady", () => {
  const { cadences, answeredAtMs } = steady();
  cadences.missed("c");
  expect(cadences.due("a", answeredAtMs)).toHaveLength(1);
  cadences.missed("c");
  expect(cadences.due("a", answeredAtMs)).toEqual([]);
  cadences.arrived("c", job, answeredAtMs + 1);
  cadences.answered("c", answeredAtMs + 11);
  expect(cadences.due("a", answeredAtMs + 11)).toHaveLength(1);
});

const facts = { nowMs: 100, endMs: 120, rows: 2, cap: 8 };
const due = [
  { client: "x", rows: 2, latestMs: 101 },
  { client: "y", rows: 2, latestMs: 104 },
  { client: "z", rows: 2, latestMs: 119 },
];

test("an engine waits as long as the larger run saves more than the wait", () => {
  const expectedMs = (rows: number) => 8 + rows;
  expect(planWait({ ...facts, due, expectedMs })).toEqual({ untilMs: 104, clients: ["x", "y"] });
});

test("it does not wait where rows gain nothing, where there is no room, or where nothing is known", () => {
  expect(planWait({ ...facts, due, expectedMs: (rows) => 5 * rows })).toBeUndefined();
  expect(planWait({ ...facts, cap: 3, due, expectedMs: () => 10 })).toBeUndefined();
  expect(planWait({ ...facts, due, expectedMs: () => undefined })).toBeUndefined();
  expect(planWait({ ...facts, endMs: 100.5, due, expectedMs: () => 10 })).toBeUndefined();
});
