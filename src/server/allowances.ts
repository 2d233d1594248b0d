/** What each token's clients use together, against what its line in the token file allows. */
import { LunaError, type TokenGrant } from "../kernel/index.ts";
import type { Request } from "../protocol/index.ts";
import type { Tensor } from "../tensor/index.ts";

/** Where no token is wanted, and for what this process asks of itself. */
export const OPEN_GRANT: TokenGrant = { token: "" };

type Counts = { connections: number; requests: number; rows: number };
type Countable = keyof Counts;

/** Gives back what was taken. */
export type Release = () => void;

export class Allowances {
  readonly #used = new Map<TokenGrant, Counts>();

  /** One more client. Throws QUEUE_FULL. */
  connect(grant: TokenGrant): Release {
    return this.#take(grant, { connections: 1 });
  }

  /** One more request in flight. Throws QUEUE_FULL. */
  begin(grant: TokenGrant, rows: number): Release {
    return this.#take(grant, { requests: 1, rows });
  }

  #take(grant: TokenGrant, amounts: Partial<Counts>): Release {
    const used = this.#used.get(grant) ?? { connections: 0, requests: 0, rows: 0 };
    this.#used.set(grant, used);
    // The keys are those of Counts.
    const entries = Object.entries(amounts) as [Countable, number][];
    for (const [what, amount] of entries) {
      const limit = grant[what] ?? Number.POSITIVE_INFINITY;
      if (used[what] + amount <= limit) continue;
      const text = `${limit} ${what} at once, ${used[what]} are in use and ${amount} more are wanted`;
      throw new LunaError("QUEUE_FULL", `This token is allowed ${text}.`);
    }
    for (const [what, amount] of entries) used[what] += amount;
    return () => {
      for (const [what, amount] of entries) used[what] -= amount;
    };
  }
}

/** The tensor whose first axis counts an operation's rows. */
const ROWS_OF: Partial<Record<Request["op"], string>> = {
  model_forward: "x",
  clip_encode: "tokens",
  vae_encode: "image",
  vae_decode: "latent",
};

export function rowsOf({ op }: Request, tensors: ReadonlyMap<string, Tensor>): number {
  return tensors.get(ROWS_OF[op] ?? "")?.shape[0] ?? 0;
}

/** From the most urgent. */
const URGENCY = ["interactive", "normal", "bulk"] as const;
const MANAGING: readonly Request["op"][] = [
  "register_checkpoint",
  "register_model",
  "preload",
  "unload",
  "pin",
  "unpin",
];

/** The request as this token may make it. Throws UNAUTHORIZED for what it may not do at all. */
export function permitted(request: Request, grant: TokenGrant): Request {
  if (grant.mayManage === false && MANAGING.includes(request.op)) {
    throw new LunaError("UNAUTHORIZED", `This token may not ${request.op} models.`);
  }
  if (grant.priority === undefined || ROWS_OF[request.op] === undefined) return request;
  const asked = "priority" in request ? (request.priority ?? "normal") : "normal";
  const isLower = URGENCY.indexOf(asked) >= URGENCY.indexOf(grant.priority);
  // Only operations of the engine come here, and all of them have a priority.
  return { ...request, priority: isLower ? asked : grant.priority } as Request;
}
