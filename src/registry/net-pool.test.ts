import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import { type Loader, NetPool } from "./net-pool.ts";

/** A device of its own size that notes what it is asked for. */
class FakeLoader implements Loader {
  readonly loaded = new Map<string, number>();
  loads = 0;
  bytesMax = Number.POSITIVE_INFINITY;
  failure: LunaError | undefined;

  async load(path: string): Promise<{ bytes: number; ms: number }> {
    await Promise.resolve();
    this.loads += 1;
    if (this.failure !== undefined) throw this.failure;
    const bytes = Number(path.split("-")[1]);
    const used = [...this.loaded.values()].reduce((sum, own) => sum + own, bytes);
    if (used > this.bytesMax) throw new LunaError("MEMORY_EXCEEDED", "The device is full.");
    this.loaded.set(path, bytes);
    return { bytes, ms: 1 };
  }

  async unload(path: string): Promise<void> {
    await Promise.resolve();
    this.loaded.delete(path);
  }
}

const createPool = (bytesMax: number) => {
  const loader = new FakeLoader();
  return { loader, pool: new NetPool({ loader, bytesMax, logger: SILENT_LOGGER }) };
};
const request = (path: string, fingerprint = "1", bytesEstimate = Number(path.split("-")[1])) =>
  ({ path, component: "unet", fingerprint, estimateBytes: () => bytesEstimate }) as const;
const full = expect.objectContaining({ code: "MEMORY_EXCEEDED" });

test("one load however many ask at once; a failure reaches all, and the next may succeed", async () => {
  const { loader, pool } = createPool(100);
  await Promise.all([1, 2, 3].map(() => pool.acquire(request("a-10"))));
  expect(loader.loads).toBe(1);
  expect(pool.status()).toMatchObject([{ path: "a-10", state: "ready", users: 3, bytes: 10 }]);
  loader.failure = new LunaError("FILE_UNREADABLE", "cut");
  const failed = await Promise.allSettled([1, 2].map(() => pool.acquire(request("b-10"))));
  expect(failed.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(loader.loads).toBe(2);
  loader.failure = undefined;
  await pool.acquire(request("b-10"));
});

test("the least recently used goes first; pinned and used ones stay", async () => {
  const { loader, pool } = createPool(30);
  for (const path of ["a-10", "b-10", "c-10"]) (await pool.acquire(request(path)))();
  (await pool.acquire(request("a-10")))();
  (await pool.acquire(request("d-10")))();
  expect([...loader.loaded.keys()]).toEqual(["a-10", "c-10", "d-10"]);
  pool.pin("c-10");
  const release = await pool.acquire(request("a-10"));
  (await pool.acquire(request("e-10")))();
  expect([...loader.loaded.keys()]).toEqual(["a-10", "c-10", "e-10"]);
  await expect(pool.acquire(request("f-20"))).rejects.toEqual(full);
  release();
  (await pool.acquire(request("f-20")))();
  expect([...loader.loaded.keys()]).toEqual(["c-10", "f-20"]);
});

test("a full device makes room although the budget would not ask for it", async () => {
  const { loader, pool } = createPool(1000);
  loader.bytesMax = 20;
  (await pool.acquire(request("a-10")))();
  (await pool.acquire(request("b-10")))();
  const release = await pool.acquire(request("c-20"));
  expect([...loader.loaded.keys()]).toEqual(["c-20"]);
  await expect(pool.acquire(request("d-10"))).rejects.toEqual(full);
  release();
});

test("a net that takes more than was expected makes room afterwards, or does not stay", async () => {
  const { loader, pool } = createPool(30);
  (await pool.acquire(request("a-10")))();
  (await pool.acquire(request("b-25", "1", 5)))();
  expect([...loader.loaded.keys()]).toEqual(["b-25"]);
  await expect(pool.acquire(request("c-40", "1", 5))).rejects.toEqual(full);
  expect([...loader.loaded.keys()]).not.toContain("c-40");
});

test("a replaced file is loaded again once nobody uses the old one", async () => {
  const { loader, pool } = createPool(100);
  const release = await pool.acquire(request("a-10", "old"));
  const fresh = pool.acquire(request("a-10", "new"));
  await new Promise((resolve) => setImmediate(resolve));
  expect(loader.loads).toBe(1);
  release();
  (await fresh)();
  expect(loader.loads).toBe(2);
});

test("unloading waits for who uses it", async () => {
  const { loader, pool } = createPool(100);
  const release = await pool.acquire(request("a-10"));
  const unloaded = pool.unload("a-10");
  await new Promise((resolve) => setImmediate(resolve));
  expect(loader.loaded.size).toBe(1);
  release();
  await unloaded;
  expect(loader.loaded.size).toBe(0);
});

const action = fc.record({
  net: fc.constantFrom("a-1", "b-2", "c-3", "d-4", "e-5"),
  type: fc.constantFrom("acquire", "release", "pin", "unpin", "unload"),
});

test("in any order of actions: never over budget, and what is held is never unloaded", async () => {
  const property = fc.asyncProperty(fc.array(action, { maxLength: 40 }), async (actions) => {
    const { loader, pool } = createPool(8);
    const held: { net: string; release: () => void }[] = [];
    for (const { net, type } of actions) {
      if (type === "pin") pool.pin(net);
      else if (type === "unpin") pool.unpin(net);
      else if (type === "release") held.shift()?.release();
      else if (type === "unload") {
        if (!held.some((lease) => lease.net === net)) await pool.unload(net);
      } else {
        const release = await pool.acquire(request(net)).catch((error: unknown) => {
          expect(error).toEqual(full);
        });
        if (release !== undefined) held.push({ net, release });
      }
      const used = [...loader.loaded.values()].reduce((sum, bytes) => sum + bytes, 0);
      expect(used).toBeLessThanOrEqual(8);
      for (const lease of held) expect(loader.loaded.has(lease.net)).toBe(true);
    }
  });
  await fc.assert(property);
});

test("who holds a net may wait for another one while somebody unloads or replaces the first", async () => {
  const { loader, pool } = createPool(100);
  const release = await pool.acquire(request("a-10"));
  const unloaded = pool.unload("a-10");
  const replaced = pool.acquire(request("a-10", "2"));
  const other = await pool.acquire(request("b-10"));
  expect([...loader.loaded.keys()]).toEqual(["a-10", "b-10"]);
  release();
  await unloaded;
  (await replaced)();
  other();
  expect(
    pool
      .status()
      .map(({ path, users }) => [path, users])
      .sort(),
  ).toEqual([
    ["a-10", 0],
    ["b-10", 0],
  ]);
});
