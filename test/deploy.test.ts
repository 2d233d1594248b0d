/** The files under deploy/ agree with the code: metrics, settings, addresses. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { SETTINGS } from "../src/kernel/index.ts";
import { createHttpApp } from "../src/server/index.ts";
import { createTestDaemon } from "./support/test-daemon.ts";

const read = (path: string): string => readFileSync(join(import.meta.dirname, "..", path), "utf8");

async function metricNames(): Promise<Set<string>> {
  const daemon = await createTestDaemon();
  const app = createHttpApp(daemon.core);
  const { body } = await app.inject({ url: "/metrics", headers: { host: "localhost" } });
  await app.close();
  await daemon.close();
  return new Set([...body.matchAll(/^# TYPE (\S+)/gm)].map(([, name = ""]) => name));
}

test("dashboard, alerts and the operations page name metrics that there are, and all of them", async () => {
  const names = await metricNames();
  const namedIn = (path: string) =>
    [...read(path).matchAll(/\bluna_[a-z_]+/g)].map(([name]) =>
      name.replace(/_(bucket|sum|count)$/, ""),
    );
  for (const path of ["deploy/grafana/luna-daemon.json", "deploy/prometheus/luna-alerts.yml"]) {
    for (const name of namedIn(path)) expect(names, path).toContain(name);
  }
  expect(new Set(namedIn("docs/operations.md"))).toEqual(names);
});

test("YAML and JSON can be read, and the compose file starts what it should", () => {
  const compose = parse(read("deploy/compose.yaml"), { merge: true });
  const { daemon, ...instances } = compose.services;
  expect(daemon.image).toBe("luna-daemon");
  expect(Object.keys(instances)).toEqual(["instance-1", "instance-2"]);
  for (const instance of Object.values<Record<string, unknown>>(instances)) {
    expect(instance["read_only"]).toBe(true);
    expect(instance["depends_on"]).toEqual({ daemon: { condition: "service_healthy" } });
  }
  const { groups } = parse(read("deploy/prometheus/luna-alerts.yml"));
  for (const { alert, expr, annotations } of groups[0].rules) {
    expect(expr && annotations.summary && annotations.todo, alert).toBeTruthy();
  }
  expect(parse(read("deploy/prometheus/prometheus.yml")).scrape_configs).toHaveLength(1);
  expect(JSON.parse(read("deploy/grafana/luna-daemon.json")).panels.length).toBeGreaterThan(8);
});

test("unit and image set settings that there are", () => {
  const known = Object.keys(SETTINGS).map(
    (name) =>
      `LUNA_${name
        .replace(/MiB/, "_MIB")
        .replace(/[A-Z](?!IB)/g, "_$&")
        .toUpperCase()}`,
  );
  const files = ["deploy/systemd/luna-daemon.service", "deploy/Dockerfile", "deploy/compose.yaml"];
  for (const path of files) {
    for (const [, name] of read(path).matchAll(/\b(LUNA_[A-Z_]+)[=:]/g)) {
      expect(known, path).toContain(name);
    }
  }
});
