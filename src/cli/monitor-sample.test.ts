import { expect, test } from "vitest";
import { createTestDaemon } from "../../test/support/test-daemon.ts";
import { parseComputeApps } from "./gpu-memory.ts";
import { CSV_HEADER, csvLines, sampleText, takeSample } from "./monitor-sample.ts";

const session = (id: string, steps: number) => ({
  ...{ id, name: 'Anna, "A"', version: "1", pid: 77, connectedMs: 1, pending: 1, steps },
  loras: [{ name: "red.safetensors", strength: 0.5 }],
  ...{ overheadMs: { p50: 1, p95: 2 }, queueMs: { p50: 1, p95: 2 } },
});

test("a sample has a row for daemon, engine and each client, with its own speed", async () => {
  const daemon = await createTestDaemon();
  const status = await daemon.core.status();
  await daemon.close();
  const machine = {
    memory: (pid: number) => (pid === 77 ? { rssBytes: 5e6, privateBytes: 1e6 } : undefined),
    gpu: parseComputeApps("77, 3\nnonsense\n77, 1\n"),
  };
  const at = (atMs: number, steps: number) => ({
    atMs,
    status: { ...status, sessions: [session("a", steps)] },
  });
  const first = takeSample(at(0, 10), undefined, machine);
  const second = takeSample(at(2000, 16), first, machine);
  expect(second.rows.map(({ kind, stepsPerSecond }) => [kind, stepsPerSecond])).toEqual([
    ["daemon", 3],
    ["engine", 3],
    ["client", 3],
  ]);
  expect(second.rows[2]).toMatchObject({ rssBytes: 5e6, gpuBytes: 4 * 2 ** 20, pid: 77 });
  expect(first.rows[2]?.stepsPerSecond).toBe(0);
  expect(sampleText(second)).toMatch(/Anna.*77.*5\.0 MB.*1\.0 MB.*4\.2 MB.*3\.0.*16/);
  const lines = csvLines(second);
  const line = lines[2] ?? "";
  expect(line).toContain('client,"Anna, ""A""",77,5000000,1000000,4194304,3.000,16,1,1.000,');
  expect(CSV_HEADER.split(",")).toHaveLength((lines[0] ?? "").split(",").length);
});
