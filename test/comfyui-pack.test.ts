import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "..");
const read = (path: string): string => readFileSync(join(root, path), "utf8");

const python = process.env["COMFYUI_PYTHON"] ?? "python3";
const hasTorch =
  spawnSync(python, ["-c", "import torch, safetensors"], { timeout: 60_000 }).status === 0;

test("the pack has the version of the package", () => {
  const { version } = JSON.parse(read("package.json")) as { version: string };
  expect(read("comfyui/pyproject.toml")).toContain(`version = "${version}"`);
  expect(read("comfyui/luna_daemon/__init__.py")).toContain(`VERSION = "${version}"`);
});

test("pyproject.toml is as the ComfyUI registry wants it, but for an address that is not there yet", () => {
  const text = read("comfyui/pyproject.toml");
  // docs.comfy.org/registry/specifications: no digit first, no two special characters in a row.
  expect(text).toMatch(/^name = "(?!.*comfyui)[a-z](?:[-_.]?[a-z0-9]){1,98}"$/m);
  expect(text).toMatch(/^version = "\d+\.\d+\.\d+"$/m);
  expect(text).toMatch(/^license = \{ file = "LICENSE" \}$/m);
  expect(read("comfyui/LICENSE")).toContain("MIT License");
  expect(text).toMatch(/^classifiers = \["Operating System :: [^"]+"\]$/m);
  expect(text).toMatch(/^PublisherId = "[a-z0-9-]+"$/m);
  expect(text).toMatch(/^requires-comfyui = ">=\d+\.\d+\.\d+"$/m);
});

test("no module of the pack is longer than 400 lines", () => {
  const list = spawnSync("git", ["ls-files", "comfyui/*.py"], { cwd: root, encoding: "utf8" });
  const long = list.stdout
    .split("\n")
    .filter((path) => path !== "" && read(path).split("\n").length > 401);
  expect(long).toEqual([]);
});

test.skipIf(!hasTorch)("the pack's wire speaks the protocol of docs/protocol.md (Python)", () => {
  const run = spawnSync(python, ["-m", "unittest", "test_wire"], {
    cwd: join(root, "test/comfyui"),
    encoding: "utf8",
  });
  expect(run.stderr).toMatch(/\nOK/);
});

type Row = Readonly<{ nodes: string[]; verdict: string; note?: string }>;

function compatTable(): string {
  const table = JSON.parse(read("comfyui/compat.json")) as {
    verdicts: Record<string, string>;
    rows: Row[];
  };
  const rows = table.rows.map(({ nodes, verdict, note = "" }) => {
    if (!(verdict in table.verdicts)) throw new Error(`unknown verdict ${verdict}`);
    return `| ${nodes.join(", ")} | ${verdict} | ${note} |`;
  });
  const verdicts = Object.entries(table.verdicts).map(([name, text]) => `- **${name}**: ${text}`);
  return [...verdicts, "", "| nodes | | |", "|---|---|---|", ...rows].join("\n");
}

test("no page has a number or a word still to come", () => {
  const list = spawnSync("git", ["ls-files", "docs/*.md", "README.md"], {
    cwd: root,
    encoding: "utf8",
  });
  const pages = list.stdout.split("\n").filter((path) => path !== "");
  expect(pages).toContain("docs/comfyui.md");
  const open = pages.filter((path) => /PLACEHOLDER|TODO|TBD|FIXME/.test(read(path)));
  expect(open).toEqual([]);
});

test("the matrix on docs/comfyui.md has numbers within the limit", () => {
  const [, section = ""] =
    /<!-- matrix -->\n([\s\S]*)\n<!-- \/matrix -->/.exec(read("docs/comfyui.md")) ?? [];
  const rows = section.split("\n").slice(2);
  expect(rows.length).toBeGreaterThan(85);
  const form = /^\| .* \| (daemon|local|ignored) \| \d\.\de-0[5-9] \| \d* \|$/;
  expect(rows.filter((row) => !form.test(row))).toEqual([]);
});

test("the table of docs/comfyui.md is compat.json", () => {
  const path = join(root, "docs/comfyui.md");
  const [begin, end] = ["<!-- compat.json -->", "<!-- /compat.json -->"];
  const [head = "", rest = ""] = readFileSync(path, "utf8").split(begin);
  const page = `${head}${begin}\n${compatTable()}\n${end}${rest.split(end)[1] ?? ""}`;
  if (process.env["UPDATE_GOLDENS"]) writeFileSync(path, page);
  expect(readFileSync(path, "utf8")).toBe(page);
});
