import fc from "fast-check";
import { expect, test } from "vitest";
import type { TokenGrant } from "../kernel/index.ts";
import { parseClientMessage, type Request } from "../protocol/index.ts";
import { floatTensor, fromFloat } from "../tensor/index.ts";
import { Allowances, permitted, type Release, rowsOf } from "./allowances.ts";

const request = (body: object) =>
  parseClientMessage({ type: "request", id: 1, ...body }) as Request;
const step = (priority?: string) =>
  request({ op: "model_forward", model: "m", ...(priority && { priority }) });

test("whatever is taken and given back, no more is out than is allowed", () => {
  const grant: TokenGrant = { token: "t", requests: 3, rows: 8 };
  const move = fc.oneof(fc.record({ rows: fc.nat(9) }), fc.record({ back: fc.nat(5) }));
  fc.assert(
    fc.property(fc.array(move), (moves) => {
      const allowances = new Allowances();
      const out: { rows: number; release: Release }[] = [];
      for (const each of moves) {
        if ("back" in each) {
          const [taken] = out.splice(each.back, 1);
          taken?.release();
          continue;
        }
        const rows = out.reduce((sum, taken) => sum + taken.rows, each.rows);
        const fits = out.length < 3 && rows <= 8;
        const begin = () => allowances.begin(grant, each.rows);
        if (fits) out.push({ rows: each.rows, release: begin() });
        else expect(begin).toThrow(/This token is allowed/);
      }
    }),
  );
});

test("a token's ceiling holds for every priority, and for none given", () => {
  const of = (grant: Partial<TokenGrant>, priority?: string) =>
    (permitted(step(priority), { token: "t", ...grant }) as { priority?: string }).priority;
  expect(of({})).toBeUndefined();
  expect(of({ priority: "interactive" })).toBe("normal");
  expect(of({ priority: "normal" }, "interactive")).toBe("normal");
  expect(of({ priority: "normal" }, "bulk")).toBe("bulk");
  expect(of({ priority: "bulk" })).toBe("bulk");
  expect(permitted(request({ op: "ping" }), { token: "t", priority: "bulk" })).not.toHaveProperty(
    "priority",
  );
});

test("a token that may not manage may still look and compute", () => {
  const grant = { token: "t", mayManage: false };
  const unload = request({ op: "unload", model: "m" });
  expect(() => permitted(unload, grant)).toThrow("This token may not unload models.");
  expect(permitted(unload, { token: "t" })).toBe(unload);
  expect(permitted(step(), grant)).toEqual(step());
});

test("rows are those of the operation's own tensor", () => {
  const x = fromFloat(floatTensor([6, 4, 1, 1]));
  expect(rowsOf(step(), new Map([["x", x]]))).toBe(6);
  expect(rowsOf(step(), new Map())).toBe(0);
  expect(rowsOf(request({ op: "ping" }), new Map([["x", x]]))).toBe(0);
});
