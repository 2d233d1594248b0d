/**
 * A token file: one token a line, with what it may do. `#` begins a comment.
 *
 *     3yS...w                                              no limits
 *     9fK...q name=studio connections=4 rows=32 priority=normal manage=no
 */
import { LunaError } from "./errors.ts";

/** From the most urgent to the least. */
const PRIORITIES = ["interactive", "normal", "bulk"] as const;

/** Absent limits are none. */
export type TokenGrant = Readonly<{
  token: string;
  /** For people and logs. */
  name?: string;
  /** Clients at once. */
  connections?: number;
  /** Requests in flight, of all its clients together. */
  requests?: number;
  /** Rows of those requests. */
  rows?: number;
  /** The most urgent that its requests may be. */
  priority?: (typeof PRIORITIES)[number];
  /** False: it may not load, unload, pin or send models. */
  mayManage?: boolean;
}>;

/** Tokens of one file: a handful of people or machines. */
const TOKENS_MAX = 1000;

/** Throws CONFIG_INVALID with the number of the line; its text may be a secret. */
export function parseTokenFile(text: string, path: string): TokenGrant[] {
  const grants: TokenGrant[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const [token, ...limits] = line
      .replace(/(^|\s)#.*$/, "")
      .split(/\s+/)
      .filter(Boolean);
    if (token === undefined) continue;
    const complain = (problem: string) =>
      new LunaError("CONFIG_INVALID", `${path}, line ${index + 1}: ${problem}`);
    if (grants.some((grant) => grant.token === token)) {
      throw complain("this token has a line already.");
    }
    grants.push({ token, ...parseLimits(limits, complain) });
  }
  if (grants.length > TOKENS_MAX) {
    throw new LunaError(
      "CONFIG_INVALID",
      `${path} has ${grants.length} tokens, limit ${TOKENS_MAX}.`,
    );
  }
  return grants;
}

type Complain = (problem: string) => LunaError;
type Limits = { -readonly [Key in keyof Omit<TokenGrant, "token">]: TokenGrant[Key] };

function parseLimits(words: readonly string[], complain: Complain): Limits {
  const limits: Limits = {};
  for (const word of words) {
    const [key = "", value = ""] = word.split("=");
    switch (key) {
      case "name":
        limits.name = value;
        break;
      case "connections":
      case "requests":
      case "rows":
        if (!/^[1-9]\d{0,5}$/.test(value)) throw complain(`${key} is a whole number from 1.`);
        limits[key] = Number(value);
        break;
      case "priority": {
        const priority = PRIORITIES.find((each) => each === value);
        if (priority === undefined) throw complain(`priority is one of ${PRIORITIES.join(", ")}.`);
        limits.priority = priority;
        break;
      }
      case "manage":
        if (value !== "yes" && value !== "no") throw complain("manage is yes or no.");
        limits.mayManage = value === "yes";
        break;
      default:
        throw complain(
          "after the token come name, connections, requests, rows, priority or manage, each with =.",
        );
    }
  }
  return limits;
}
