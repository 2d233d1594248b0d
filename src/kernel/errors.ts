/**
 * Every failure Luna reports. Codes are public API: never rename one, never reuse one.
 * `status` is the HTTP status, `retryable` says whether the same request may succeed later.
 */
export const ERRORS = {
  CANCELLED: { status: 499, retryable: true },
  CHECKPOINT_UNSUPPORTED: { status: 422, retryable: false },
  CONFIG_INVALID: { status: 400, retryable: false },
  CONNECTION_LOST: { status: 503, retryable: true },
  DAEMON_NOT_RUNNING: { status: 503, retryable: true },
  DEADLINE_EXCEEDED: { status: 504, retryable: true },
  DEVICE_UNAVAILABLE: { status: 503, retryable: false },
  DISK_FULL: { status: 507, retryable: true },
  ENGINE_CRASHED: { status: 503, retryable: true },
  ENGINE_FAILED: { status: 500, retryable: false },
  FILE_UNREADABLE: { status: 422, retryable: false },
  FRAME_MALFORMED: { status: 400, retryable: false },
  INTERNAL: { status: 500, retryable: false },
  LIMIT_EXCEEDED: { status: 413, retryable: false },
  LORA_MALFORMED: { status: 422, retryable: false },
  LORA_UNSUPPORTED: { status: 422, retryable: false },
  MEMORY_EXCEEDED: { status: 507, retryable: true },
  MODEL_UNKNOWN: { status: 404, retryable: false },
  ORIGIN_REFUSED: { status: 403, retryable: false },
  PATH_REFUSED: { status: 403, retryable: false },
  PROTOCOL_VERSION: { status: 426, retryable: false },
  QUEUE_FULL: { status: 429, retryable: true },
  REQUEST_INVALID: { status: 400, retryable: false },
  REQUEST_POISONED: { status: 422, retryable: false },
  SHUTTING_DOWN: { status: 503, retryable: true },
  TENSOR_MALFORMED: { status: 400, retryable: false },
  TENSOR_UNKNOWN: { status: 409, retryable: true },
  UNAUTHORIZED: { status: 401, retryable: false },
  WORKFLOW_INVALID: { status: 400, retryable: false },
} as const satisfies Record<string, { status: number; retryable: boolean }>;

export type ErrorCode = keyof typeof ERRORS;

/** What the system says when there is no room, or no room for this user. */
const NO_ROOM: readonly unknown[] = ["ENOSPC", "EDQUOT"];

/** An operating error with a stable code; broken invariants are asserts instead. */
export class LunaError extends Error {
  override readonly name = "LunaError";
  readonly code: ErrorCode;
  /** Machine-readable facts a caller may act on, such as the missing digests. */
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options?: ErrorOptions & { details?: Readonly<Record<string, unknown>> },
  ) {
    super(message, options);
    this.code = code;
    this.details = options?.details;
  }

  get isRetryable(): boolean {
    return ERRORS[this.code].retryable;
  }

  static from(cause: unknown): LunaError {
    if (cause instanceof LunaError) return cause;
    if (cause instanceof Error && cause.name === "AbortError") {
      return new LunaError("CANCELLED", "The request was cancelled.", { cause });
    }
    const text = cause instanceof Error ? cause.message : String(cause);
    if (cause instanceof Error && "code" in cause && NO_ROOM.includes(cause.code)) {
      return new LunaError("DISK_FULL", `The disk is full (${text}): make room.`, { cause });
    }
    return new LunaError("INTERNAL", `Internal error: ${text}`, { cause });
  }

  static isCode(error: unknown, code: ErrorCode): error is LunaError {
    return error instanceof LunaError && error.code === code;
  }
}

/** True for a string that is one of our codes: what a peer sent may come from a newer version. */
export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERRORS, code);
}
