import * as runtime from "onnxruntime-node";
import { expect, test } from "vitest";
import { linearTarget } from "../../test/support/lora-models.ts";
import type { OpChoices } from "../graph/index.ts";
import type { Applied } from "../lora/index.ts";
import { AdapterFeeds } from "./adapter-feeds.ts";
import { ByteBudget } from "./byte-budget.ts";

const CHOICES: OpChoices = { attention: "fused", compute: "float32", rankMin: 0 };
const targets = [linearTarget("a", 3, 2), linearTarget("b", 3, 2)];
const net = { key: "net", targets, norms: [], isFull: false };
const DOWN = "lora.a.down";
const SCALE = "lora.a.scale";

const adapter = (id: string, rank = 1) => {
  const [down, up] = [new Float32Array(2 * rank).fill(1), new Float32Array(3 * rank).fill(2)];
  const factors = new Map([["a", { rank, down, up }]]);
  return (strength: number): Applied => ({ id, factors, strength });
};
const [one, two] = [adapter("one"), adapter("two", 2)];

function feedsWithin(bytesMax: number) {
  const budget = new ByteBudget(bytesMax);
  const feeds = new AdapterFeeds(runtime, CHOICES, budget);
  const of = (...rows: Applied[][]) => {
    budget.startRun();
    return feeds.feeds(net, rows);
  };
  return { of, budget };
}

test("another strength makes new scales and joins nothing again", () => {
  const { of } = feedsWithin(1e6);
  const before = of([one(0.5), two(1)]);
  const after = of([one(0.7), two(1)]);
  expect(after[DOWN]).toBe(before[DOWN]);
  expect([...(after[SCALE]?.data ?? [])]).toEqual([...Float32Array.of(0.7, 1, 1)]);
  expect([...(before[SCALE]?.data ?? [])]).toEqual([0.5, 1, 1]);
});

test("the same stack is found by its content, whatever the order, rows and batch", () => {
  const { of, budget } = feedsWithin(1e6);
  const before = of([one(0.5), two(1)]);
  expect(of([two(1), one(0.5)])[DOWN]).toBe(before[DOWN]);
  expect(of([two(1)], [one(0.5)], [])[DOWN]).toBe(before[DOWN]);
  expect(of([one(0.5), two(1)])).toBe(before);
  expect(budget.facts.entries).toBe(1);
});

test("one adapter alone is fed as it is, without a copy and without bytes of its own", () => {
  const { of, budget } = feedsWithin(1e6);
  const alone = of([one(1)]);
  expect(alone[DOWN]?.data).toBe(one(1).factors.get("a")?.down);
  expect(of([one(0.2)])[DOWN]).toBe(alone[DOWN]);
  expect(budget.facts).toEqual({ entries: 0, bytes: 0 });
});

test("joined inputs go when others need their bytes", () => {
  const { of, budget } = feedsWithin(100);
  const three = adapter("three");
  const before = of([one(1), two(1)]);
  of([one(1), three(1)]);
  of([two(1), three(1)]);
  expect(budget.facts.bytes).toBeLessThanOrEqual(100);
  expect([...(of([one(1), two(1)])[DOWN]?.data ?? [])]).toEqual([...(before[DOWN]?.data ?? [])]);
});

test("many sets of adapters in one batch: factors for each row, found again at other strengths", () => {
  const { of, budget } = feedsWithin(1e6);
  const three = adapter("three");
  const four = adapter("four", 2);
  const rest = [[two(1)], [four(1)], [one(1), three(0.25)], []];
  const before = of([one(0.5)], ...rest);
  expect(before[DOWN]?.dims).toEqual([5, 2, 2]);
  expect([...(before[DOWN]?.data ?? [])].slice(0, 8)).toEqual([1, 1, 0, 0, 1, 1, 1, 1]);
  expect([...(before[SCALE]?.data ?? [])]).toEqual([0.5, 0, 1, 1, 1, 1, 1, 0.25, 0, 0]);
  const after = of([one(0.7)], ...rest);
  expect(after[DOWN]).toBe(before[DOWN]);
  expect(budget.facts.entries).toBe(1);
});
