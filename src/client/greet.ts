import { LunaError } from "../kernel/index.ts";
import {
  decodeFrame,
  encodeFrame,
  fromErrorMessage,
  PROTOCOL_VERSION,
  parseDaemonMessage,
  type Transport,
  type Welcome,
} from "../protocol/index.ts";
import { CONNECT_MS_MAX } from "./limits.ts";

export type Greeting = Readonly<{
  /** Shown in the daemon's list of sessions. */
  client: Readonly<{ name: string; version: string; pid?: number }>;
  token?: string;
}>;

/** Says hello and waits for the welcome. Throws what the daemon answers instead, or its silence. */
export async function greet(transport: Transport, greeting: Greeting): Promise<Welcome> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise<Welcome>((resolve, reject) => {
      const fail = (text: string) => reject(new LunaError("DAEMON_NOT_RUNNING", text));
      timer = setTimeout(
        () => fail(`The daemon did not greet within ${CONNECT_MS_MAX} ms.`),
        CONNECT_MS_MAX,
      );
      transport.onClose((reason) => fail(`The daemon closed the connection: ${reason}`));
      transport.onMessage((bytes) => {
        try {
          resolve(readWelcome(bytes));
        } catch (error) {
          reject(error);
        }
      });
      const { client, token } = greeting;
      const hello = { type: "hello", protocol: PROTOCOL_VERSION, client } as const;
      transport.send(encodeFrame(token === undefined ? hello : { ...hello, token }));
    });
  } catch (error) {
    transport.close("no welcome");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function readWelcome(bytes: Uint8Array): Welcome {
  const message = parseDaemonMessage(decodeFrame(bytes).message);
  if (message.type === "welcome") return message;
  if (message.type === "error") throw fromErrorMessage(message);
  throw new LunaError("FRAME_MALFORMED", "The daemon answered before it greeted.");
}
