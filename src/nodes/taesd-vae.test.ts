import { expect, test } from "vitest";
import { FakeServices, FakeVae, fakeInfo } from "../../test/support/fake-models.ts";
import { floatTensor } from "../tensor/index.ts";
import { NODE_DEFINITIONS, type NodeContext } from "./index.ts";
import { TaesdVae, taesdNames } from "./taesd-vae.ts";

const FILES = ["taesd_decoder.safetensors", "taesd_encoder.safetensors"];
const XL = ["taesdxl_decoder.safetensors", "taesdxl_encoder.safetensors"];

test("a TAESD is listed where both of its files are there", () => {
  expect(taesdNames([...XL, ...FILES])).toEqual(["taesd", "taesdxl"]);
  expect(taesdNames([...FILES, "taesdxl_decoder.safetensors", "taesd3_encoder.x"])).toEqual([
    "taesd",
  ]);
});

test("latents are raw ones of the family, whichever scale the files seem to have", async () => {
  const half = new FakeVae(fakeInfo("vae_approx/taesdxl_decoder.safetensors"));
  const vae = new TaesdVae("taesdxl", { encoder: half, decoder: half });
  const latent = floatTensor([1, 4, 1, 1], Float32Array.of(1, 0.5, -1, 2));
  const scaled = latent.data.map((value) => (value * 0.13025) / half.info.latentScale);
  const expected = await half.decode({ ...latent, data: scaled });
  expect((await vae.decode(latent)).data).toEqual(expected.data);
  const back = await vae.encode(expected);
  expect(back.data[1]).toBeCloseTo(0.5, 5);
  expect(vae.info).toMatchObject({ latentScale: 0.13025, vae: { hasEncoder: true } });
});

test("VAELoader opens both files of the name, and other names as files of the vae folder", async () => {
  const services = new FakeServices({ checkpoints: [...FILES, "kl.safetensors"] });
  const load = (vae_name: string) =>
    // The node asks for its services alone.
    NODE_DEFINITIONS.get("VAELoader")?.run({ vae_name }, services as unknown as NodeContext);
  await load("taesd");
  await load("kl.safetensors");
  expect(services.opened.map(({ kind, name }) => `${kind}/${name}`)).toEqual([
    "vae_approx/taesd_encoder.safetensors",
    "vae_approx/taesd_decoder.safetensors",
    "vae/kl.safetensors",
  ]);
});
