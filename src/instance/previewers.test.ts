import { expect, test } from "vitest";
import { FakeServices, FakeVae, fakeInfo } from "../../test/support/fake-models.ts";
import { type LatentPreview, type NodeServices, readPictureFile } from "../nodes/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { latentToPng } from "./latent-preview.ts";
import { createPreviewer } from "./previewers.ts";

const latent = floatTensor([1, 4, 4, 6]);
latent.data.fill(0.4);
const previewOf = (family = "sd1"): LatentPreview => ({
  latent,
  info: { ...fakeInfo("m"), family: family as "sd1" },
});

/** Services whose vae_approx folder has these files; `seen` is what was decoded. */
function withFiles(files: readonly string[], decode?: () => Promise<FloatTensor>) {
  const seen: { name: string; value: number }[] = [];
  const services = new FakeServices() as NodeServices;
  services.listFiles = async (kind) => (kind === "vae_approx" ? files : []);
  services.openCheckpoint = async ({ name }) => {
    const vae = new FakeVae(fakeInfo(name, { latentScale: 2 }));
    const plain = vae.decode.bind(vae);
    vae.decode = async (input) => {
      seen.push({ name, value: input.data[0] ?? 0 });
      return decode ? decode() : plain(input);
    };
    return { vae, location: "daemon", status: "" };
  };
  return { services, seen };
}

const settled = () => new Promise(setImmediate);
const sizeOf = async (png: Uint8Array | undefined) => {
  const { width, height } = await readPictureFile(png ?? new Uint8Array(), "preview");
  return [width, height];
};

test("TAESD's picture stands in for the linear one from the step after it is there", async () => {
  const { services, seen } = withFiles([
    "taesdxl_decoder.st",
    "taesd_encoder.st",
    "taesd_decoder.st",
  ]);
  const previewer = createPreviewer("auto", services);
  expect(previewer(previewOf())).toEqual(latentToPng(previewOf()));
  // While one is decoded, no second one is begun.
  previewer(previewOf());
  await settled();
  // The file's own scale is taken off.
  expect(seen).toEqual([{ name: "taesd_decoder.st", value: Math.fround(0.4) / 2 }]);
  expect(await sizeOf(previewer(previewOf()))).toEqual([48, 32]);
  expect(await sizeOf(latentToPng(previewOf()))).toEqual([6, 4]);
});

test("each family has its own decoder; large pictures are thinned out", async () => {
  const { services, seen } = withFiles(["taesd_decoder.st", "taesdxl_decoder.st"], async () =>
    floatTensor([1, 3, 1100, 2000]),
  );
  const previewer = createPreviewer("taesd", services);
  previewer(previewOf("sdxl"));
  await settled();
  expect(seen.map(({ name }) => name)).toEqual(["taesdxl_decoder.st"]);
  expect(await sizeOf(previewer(previewOf("sdxl")))).toEqual([500, 275]);
});

test("without a decoder, or with a broken one, the linear preview stays", async () => {
  const broken = withFiles(["taesd_decoder.st"], () => Promise.reject(new Error("broken")));
  const absent = withFiles(["taesd_encoder.st", "taesd3_decoder.st"]);
  for (const { services } of [broken, absent]) {
    const previewer = createPreviewer("taesd", services);
    for (let step = 0; step < 3; step++) {
      expect(previewer(previewOf())).toEqual(latentToPng(previewOf()));
      await settled();
    }
  }
  expect(broken.seen.length).toBe(1);
  expect(absent.seen).toEqual([]);
});

test("the method of a prompt's choice", () => {
  const { services } = withFiles([]);
  expect(createPreviewer("none", services)(previewOf())).toBeUndefined();
  expect(createPreviewer("latent2rgb", services)(previewOf())).toEqual(latentToPng(previewOf()));
});
