import { ERRORS, isErrorCode, LunaError } from "../kernel/index.ts";
import type { ErrorMessage } from "./messages.ts";

/** The wire form of an error. The message text is for people, the code for programs. */
export function toErrorMessage(error: LunaError, id?: number): ErrorMessage {
  const { code, message, details } = error;
  return {
    type: "error",
    ...(id === undefined ? {} : { id }),
    error: {
      code,
      message,
      retryable: ERRORS[code].retryable,
      ...(details === undefined ? {} : { details }),
    },
  };
}

/** The error a peer reported. A code of a newer version becomes INTERNAL, its name kept in the text. */
export function fromErrorMessage({ error }: ErrorMessage): LunaError {
  const { code, message, details } = error;
  const options = details === undefined ? {} : { details };
  return isErrorCode(code)
    ? new LunaError(code, message, options)
    : new LunaError("INTERNAL", `${code}: ${message}`, options);
}
