import fc from "fast-check";
import { expect, test } from "vitest";
import { planEviction, type Resident } from "./plan-eviction.ts";

const resident = fc.record({
  bytes: fc.integer({ min: 0, max: 20 }),
  users: fc.integer({ min: 0, max: 1 }),
  isPinned: fc.boolean(),
  usedAt: fc.integer({ min: 0, max: 1000 }),
});
const sum = (residents: readonly Resident[]) =>
  residents.reduce((all, { bytes }) => all + bytes, 0);

test("room is made by what is idle, oldest first, no more than needed; or it cannot be made", () => {
  const property = fc.property(
    fc.uniqueArray(resident, { selector: ({ usedAt }) => usedAt, maxLength: 8 }),
    fc.integer({ min: 0, max: 30 }),
    fc.integer({ min: 0, max: 80 }),
    (records, bytes, bytesMax) => {
      const residents = records.map((record, index) => ({ ...record, key: String(index) }));
      const keys = planEviction(residents, bytes, bytesMax);
      const fixed = residents.filter(({ users, isPinned }) => users > 0 || isPinned);
      if (keys === undefined) {
        expect(sum(fixed) + bytes).toBeGreaterThan(bytesMax);
        return;
      }
      const evicted = residents.filter(({ key }) => keys.includes(key));
      const kept = residents.filter(({ key }) => !keys.includes(key));
      expect(evicted.every(({ users, isPinned }) => users === 0 && !isPinned)).toBe(true);
      expect(sum(kept) + bytes).toBeLessThanOrEqual(bytesMax);
      const newest = evicted.find(({ key }) => key === keys.at(-1));
      expect(sum(kept) + bytes + (newest?.bytes ?? bytesMax + 1)).toBeGreaterThan(bytesMax);
      const idleKept = kept.filter(({ users, isPinned }) => users === 0 && !isPinned);
      for (const { usedAt } of idleKept) expect(usedAt).toBeGreaterThan(newest?.usedAt ?? -1);
    },
  );
  fc.assert(property);
});
