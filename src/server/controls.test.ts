import { expect, test } from "vitest";
import {
  ADAPTER,
  CONTROL_NET,
  CONTROLLED_UNET,
  UNION_NET,
} from "../../test/support/tiny-control.ts";
import type { Checkpoint, ComponentName, ControlConfig } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { ControlSpec } from "../protocol/index.ts";
import { controlUses, leaseControls } from "./controls.ts";

const base: Checkpoint = {
  ...{ prediction: "eps", isZeroTerminalSnr: false, latentScale: 1, dtype: "F32" },
  textEncoders: [],
};
const unet: Checkpoint = { ...base, unet: { config: CONTROLLED_UNET, weights: new Map() } };
const NETS: Readonly<Record<string, ControlConfig>> = {
  canny: CONTROL_NET,
  x_shuffle_fp16: CONTROL_NET,
  union: UNION_NET,
  adapter: ADAPTER,
  xl: { ...ADAPTER, unshuffle: 16 },
  wide: { ...CONTROL_NET, encoder: { ...CONTROL_NET.encoder, modelChannels: 64 } },
  other: { ...CONTROL_NET, encoder: { ...CONTROL_NET.encoder, contextDim: 9 } },
  labelled: { ...CONTROL_NET, encoder: { ...CONTROL_NET.encoder, admChannels: 8 } },
};

/** Counts what is held; "broken" has no second net. */
function createRegistry() {
  const held = new Set<string>();
  const acquire = async (model: string, component: ComponentName) => {
    const config = NETS[model] ?? CONTROL_NET;
    if (model === "broken" && component === "control-net")
      throw new LunaError("MEMORY_EXCEEDED", "");
    held.add(`${model} ${component}`);
    return {
      ...{ model: `controlnet/${model}.safetensors`, path: `/${model}`, component },
      checkpoint:
        model === "checkpoint" ? unet : { ...base, control: { config, weights: new Map() } },
      release: () => void held.delete(`${model} ${component}`),
    };
  };
  return { held, registry: { acquire } };
}

const tensor = (shape: number[]) => ({ dtype: "F32" as const, shape, bytes: new Uint8Array() });

async function usesOf(specs: readonly ControlSpec[], hints: readonly number[][]) {
  const { registry, held } = createRegistry();
  const leased = await leaseControls(registry, specs);
  const slots = hints.map((shape, index) => [`hint.${index}`, tensor(shape)] as const);
  const tensors = new Map([["x", tensor([4, 4, 6, 9])], ...slots]);
  return { uses: () => controlUses(leased, { unet, tensors }), leased, held };
}

test("nets are held until they are released, and none after a failure", async () => {
  const { registry, held } = createRegistry();
  const specs = ["canny", "adapter"].map((model) => ({ model, strength: 1 }));
  const { release } = await leaseControls(registry, specs);
  expect([...held]).toEqual(["canny control-hint", "canny control-net", "adapter control-hint"]);
  release();
  expect(held.size).toBe(0);
  const broken = [...specs, { model: "broken", strength: 1 }];
  await expect(leaseControls(registry, broken)).rejects.toMatchObject({ code: "MEMORY_EXCEEDED" });
  const none = [{ model: "checkpoint", strength: 1 }];
  await expect(leaseControls(registry, none)).rejects.toThrow(/has no control net/);
  expect(held.size).toBe(0);
});

test("each row has its row of the hint", async () => {
  const specs = [
    { model: "canny", strength: 0.5 },
    { model: "adapter", strength: 1, rows: [3, 1] },
    { model: "x_shuffle_fp16", strength: 1, type: 7 },
  ];
  const { uses } = await usesOf(specs, [
    [2, 3, 48, 72],
    [4, 1, 48, 72],
    [1, 3, 48, 72],
  ]);
  expect(uses()).toEqual([
    { path: "/canny", slot: "hint.0", strength: 0.5, hintRows: [0, 1, 0, 1] },
    { path: "/adapter", slot: "hint.1", strength: 1, hintRows: [-1, 1, -1, 3] },
    {
      ...{ path: "/x_shuffle_fp16", slot: "hint.2", strength: 1, hintRows: [0, 0, 0, 0] },
      ...{ type: 7, isPooled: true },
    },
  ]);
});

test.each([
  [{ model: "xl" }, [1, 1, 48, 80], /control.middle.0 has 64 channels at 1\/4/],
  [{ model: "wide" }, [1, 3, 48, 72], /control.output.0 has 64 channels/],
  [{ model: "other" }, [1, 3, 48, 72], /contexts of 9 numbers, this UNet 8/],
  [{ model: "labelled" }, [1, 3, 48, 72], /"y" of 8 numbers, this UNet 0/],
  [{ model: "union", type: 4 }, [1, 3, 48, 72], /knows 4 kinds/],
  [{ model: "canny", rows: [4] }, [1, 3, 48, 72], /row 4 of 4/],
  [{ model: "canny" }, [1, 1, 48, 72], /\[n, 3, 48, 72\] is needed/],
  [{ model: "canny" }, [65, 3, 48, 72], /at most 64/],
  [{ model: "adapter" }, [1, 1, 48, 64], /"hint.0" is \[1, 1, 48, 64\]/],
])("%j is refused", async (changes, hint, problem) => {
  const { uses } = await usesOf([{ strength: 1, ...changes }], [hint]);
  expect(uses).toThrow(problem);
});

test("a hint that is not there is named", async () => {
  const { uses } = await usesOf([{ model: "canny", strength: 1 }], []);
  expect(uses).toThrow(/"hint.0" is missing/);
});
