/** The HTTP side as an OpenAPI document; a test compares it with the routes. */
import { z } from "zod";
import { errorSchema, statusSchema } from "../protocol/index.ts";
import { tryRequestSchema } from "./try-it.ts";

type Operation = Readonly<Record<string, unknown>>;

const schemaOf = (schema: z.ZodType): unknown => {
  const { $schema: _dialect, ...rest } = z.toJSONSchema(schema, { io: "input" });
  return rest;
};
const json = (description: string, schema: unknown): Operation => ({
  description,
  content: { "application/json": { schema } },
});
const text = (description: string, type: string): Operation => ({
  description,
  content: { [type]: { schema: { type: "string" } } },
});
const reference = (name: string) => ({ $ref: `#/components/schemas/${name}` });
const refusals = {
  "401": json("The token is missing or wrong.", reference("Error")),
  "403": json("The host name or the origin is not the daemon's own.", reference("Error")),
};

const READINESS = {
  type: "object",
  required: ["status"],
  properties: { status: { enum: ["ready", "not ready"] }, reason: { type: "string" } },
};
const HEALTH = {
  type: "object",
  required: ["status", "version", "pid"],
  properties: {
    status: { const: "ok" },
    version: { type: "string" },
    pid: { type: "integer" },
  },
};

/** Operations that need no token are marked by an empty `security`. */
const OPEN = { security: [] };

const PATHS: Readonly<Record<string, Readonly<Record<string, Operation>>>> = {
  "/": {
    get: {
      ...OPEN,
      summary: "The dashboard; a WebSocket upgrade here begins a session (docs/protocol.md).",
      responses: { "200": text("The page.", "text/html"), "403": refusals["403"] },
    },
  },
  "/dashboard/{file}": {
    get: {
      ...OPEN,
      summary: "Scripts and styles of the dashboard.",
      parameters: [{ name: "file", in: "path", required: true, schema: { type: "string" } }],
      responses: {
        "200": { description: "The file." },
        "403": refusals["403"],
        "404": json("There is no such file.", reference("Error")),
      },
    },
  },
  "/health": {
    get: {
      ...OPEN,
      summary: "The process is alive. Restart it when this fails.",
      responses: { "200": json("It is.", HEALTH), "403": refusals["403"] },
    },
  },
  "/ready": {
    get: {
      ...OPEN,
      summary: "The engine runs and new work is taken. Send no work while this fails.",
      responses: {
        "200": json("Ready.", READINESS),
        "403": refusals["403"],
        "503": json("Not ready, with the reason.", READINESS),
      },
    },
  },
  "/metrics": {
    get: {
      summary: "Figures for Prometheus.",
      responses: { "200": text("Prometheus' text format.", "text/plain"), ...refusals },
    },
  },
  "/v1/status": {
    get: {
      summary: "What the daemon holds in memory and what its clients do.",
      responses: { "200": json("All figures.", reference("Status")), ...refusals },
    },
  },
  "/v1/models": {
    get: {
      summary: "The models of the status.",
      responses: {
        "200": json("The models.", {
          type: "object",
          required: ["models"],
          properties: { models: { $ref: "#/components/schemas/Status/properties/models" } },
        }),
        ...refusals,
      },
    },
  },
  "/v1/openapi.json": {
    get: {
      summary: "This document.",
      responses: { "200": json("OpenAPI 3.1.", { type: "object" }), ...refusals },
    },
  },
  "/v1/try": {
    post: {
      summary: "Makes one picture and tells how it forms. Served by `luna serve`.",
      requestBody: {
        required: true,
        content: { "application/json": { schema: reference("TryRequest") } },
      },
      responses: {
        "200": text(
          "A line of JSON for each event: progress (step, steps, png?), log (line), then picture (png) or error.",
          "application/x-ndjson",
        ),
        "400": json("The request is not valid.", reference("Error")),
        "429": json("Too many pictures are being made.", reference("Error")),
        ...refusals,
      },
    },
  },
};

export function openApiDocument(version: string): Readonly<Record<string, unknown>> {
  return {
    openapi: "3.1.0",
    info: {
      title: "Luna Daemon, HTTP",
      version,
      license: { name: "MIT", identifier: "MIT" },
      description: "Inference itself goes over WebSocket: docs/protocol.md.",
    },
    servers: [{ url: "/" }],
    security: [{ token: [] }],
    paths: PATHS,
    components: {
      securitySchemes: {
        token: {
          type: "http",
          scheme: "bearer",
          description: "Where the daemon was given a token.",
        },
      },
      schemas: {
        Error: schemaOf(z.object({ error: errorSchema.shape.error })),
        Status: schemaOf(statusSchema),
        TryRequest: schemaOf(tryRequestSchema),
      },
    },
  };
}
