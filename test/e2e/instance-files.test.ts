/**
 * Pictures that come and go: uploads, /view, metadata, names; and what model files say of themselves.
 * The numbers are those of the cases recorded from ComfyUI 0.18.1 with a logging proxy.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readPictureFile, readPngText } from "../../src/nodes/index.ts";
import { floatTensor, fromFloat, serializeSafetensors } from "../../src/tensor/index.ts";
import { E, S, startApiTest } from "../support/api-test.ts";
import type { Json } from "../support/test-instance.ts";

const { here, run, close } = await startApiTest();
afterAll(close);

/** A small picture made by the instance itself. */
async function picture(changes: Json = {}): Promise<Buffer> {
  const { entry } = await run({ 1: E(changes), 2: S() });
  return readFileSync(join(here.folders.output, entry.outputs["2"].images[0].filename));
}

async function upload(bytes: Buffer, fields: Record<string, string> = {}, name = "u.png") {
  const form = new FormData();
  form.set("image", new File([new Uint8Array(bytes)], name));
  for (const [key, value] of Object.entries(fields)) form.set(key, value);
  const response = await here.fetch("/upload/image", { method: "POST", body: form });
  const text = await response.text();
  return { status: response.status, json: text === "" ? {} : JSON.parse(text) };
}

test("18 uploads: same name, counted up, overwritten, in a subfolder, refused", async () => {
  const [one, two] = [await picture(), await picture()];
  expect((await upload(one)).json).toEqual({ name: "u.png", subfolder: "", type: "input" });
  expect((await upload(one)).json.name).toBe("u.png");
  expect((await upload(two)).json.name).toBe("u (1).png");
  expect((await upload(two, { overwrite: "true" })).json.name).toBe("u.png");
  expect((await upload(one, { subfolder: "s/x" })).json).toMatchObject({ subfolder: "s/x" });
  expect((await upload(one, { subfolder: "../.." })).status).toBe(400);
  const empty = await here.fetch("/upload/image", { method: "POST", body: new FormData() });
  expect(empty.status).toBe(400);
  const load = { class_type: "LoadImage", inputs: { image: "s/x/u.png" } };
  expect((await run({ 1: load, 2: S() })).entry.status.completed).toBe(true);
});

test("19 /view: found, refused, previews and channels", async () => {
  await writeFile(join(here.folders.output, "v.png"), await picture());
  const get = (query: string) => here.fetch(`/view?${query}`);
  const good = await get("filename=v.png&type=output&rand=1");
  expect([good.status, good.headers.get("content-type")]).toEqual([200, "image/png"]);
  expect(good.headers.get("content-disposition")).toBe('filename="v.png"');
  const etag = good.headers.get("etag") ?? "";
  const cached = await here.fetch("/view?filename=v.png", { headers: { "if-none-match": etag } });
  expect(cached.status).toBe(304);
  const part = await here.fetch("/view?filename=v.png", { headers: { range: "bytes=1-3" } });
  expect([part.status, await part.text()]).toEqual([206, "PNG"]);
  expect((await get("filename=v.png")).status).toBe(200);
  expect((await get("filename=v.png&type=input")).status).toBe(404);
  expect((await get("filename=v.png&type=bogus")).status).toBe(400);
  expect((await get("filename=../v.png")).status).toBe(400);
  expect((await get("filename=v.png&subfolder=../..")).status).toBe(403);
  for (const channel of ["rgba", "rgb", "a"]) {
    const reply = await get(`filename=v.png&channel=${channel}`);
    expect([reply.status, reply.headers.get("content-type")]).toEqual([200, "image/png"]);
  }
  for (const [query, type] of [
    ["preview=webp;90", "image/webp"],
    ["preview=jpeg", "image/jpeg"],
    ["preview=jpeg;50&channel=rgb", "image/jpeg"],
    ["preview=jpeg&channel=a", "image/webp"],
    ["preview=bmp", "image/webp"],
  ]) {
    const reply = await get(`filename=v.png&${query}`);
    expect([query, reply.status, reply.headers.get("content-type")]).toEqual([query, 200, type]);
    const small = await readPictureFile(new Uint8Array(await reply.arrayBuffer()), "small");
    const whole = await readPictureFile(await readFile(join(here.folders.output, "v.png")), "v");
    expect([small.width, small.height]).toEqual([whole.width, whole.height]);
  }
});

test("20 a saved picture holds the prompt, then what came along, in ASCII", async () => {
  const extra_data = { extra_pnginfo: { workflow: { é: 1.5 }, other: ["é"] } };
  const prompt = { 1: E({ width: "64" }), 2: S("1", { filename_prefix: "é" }) };
  const { entry } = await run(prompt, { extra_data });
  const [image] = entry.outputs["2"].images;
  const chunks = readPngText(readFileSync(join(here.folders.output, image.filename)));
  expect(chunks.map(([key]) => key)).toEqual(["prompt", "workflow", "other"]);
  expect(chunks[1]?.[1]).toBe('{"\\u00e9": 1.5}');
  expect(chunks[0]?.[1]).toContain('"width": 64,');
  expect(chunks[0]?.[1]).toContain('"filename_prefix": "\\u00e9"');
});

test("21 names: counters, tokens, batch numbers, previews", async () => {
  const names = async (prompt: Json) =>
    ((await run(prompt)).entry.outputs["2"].images as Json[]).map((image) => image.filename);
  const save = (prefix: string) => S("1", { filename_prefix: prefix });
  const picture = () => E({ batch_size: 2 });
  expect(await names({ 1: picture(), 2: save("n") })).toEqual(["n_00001_.png", "n_00002_.png"]);
  expect(await names({ 1: E(), 2: save("n") })).toEqual(["n_00003_.png"]);
  const year = new Date().getFullYear();
  const tokens = await names({ 1: E(), 2: save("w%width%x%height%_%year%_%date:yyyy%") });
  expect(tokens).toEqual([`w64x32_${year}_%date:yyyy%_00001_.png`]);
  expect(await names({ 1: picture(), 2: save("k%batch_num%") })).toEqual([
    "k0_00001_.png",
    "k1_00002_.png",
  ]);
  const preview = { class_type: "PreviewImage", inputs: { images: ["1", 0] } };
  const [name] = await names({ 1: E(), 2: preview });
  expect(name).toMatch(/^ComfyUI_temp_[a-z]{5}_00001_\.png$/);
  expect(existsSync(join(here.folders.temp, name))).toBe(true);
});

test("/view_metadata: what a file of a model folder says of itself", async () => {
  const folder = join(here.folders.root, "models", "loras", "styles");
  await mkdir(folder, { recursive: true });
  const tensors = new Map([["a", fromFloat(floatTensor([2], Float32Array.of(1, 2)))]]);
  const metadata = { ss_network_dim: "8", title: "\u00e9", ss_tags: '{"a": 1}' };
  const files = { "named.safetensors": serializeSafetensors(tensors, metadata) };
  const others = { "plain.safetensors": serializeSafetensors(tensors), "named.txt": Buffer.of(1) };
  const broken = { "broken.safetensors": Buffer.from("no safetensors") };
  for (const [name, bytes] of Object.entries({ ...files, ...others, ...broken })) {
    await writeFile(join(folder, name), bytes);
  }
  const get = (path: string) => here.fetch(`/view_metadata/${path}`);
  const found = await get("loras?filename=styles%2Fnamed.safetensors");
  expect([found.status, found.headers.get("content-type")]).toEqual([
    200,
    "application/json; charset=utf-8",
  ]);
  expect(await found.json()).toEqual(metadata);
  expect(await here.get("/api/view_metadata/loras?filename=styles/named.safetensors")).toEqual(
    metadata,
  );
  for (const [path, status] of [
    ["loras?filename=styles/plain.safetensors", 404],
    ["loras?filename=styles/missing.safetensors", 404],
    ["loras?filename=styles/named.txt", 404],
    ["loras?filename=red.safetensors", 404],
    ["vae?filename=styles/named.safetensors", 404],
    ["nowhere?filename=styles/named.safetensors", 404],
    ["loras", 404],
    ["loras?filename=../../x.safetensors", 403],
    ["loras?filename=styles/broken.safetensors", 400],
  ] as const) {
    expect([path, (await get(path)).status]).toEqual([path, status]);
  }
});
