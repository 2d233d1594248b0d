/** The daemon's protocol as docs/protocol.md has it, as far as a page needs it: frames without tensors. */
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const RECONNECT_MS = { first: 500, most: 8000 };

/** A frame is a safetensors file: length of the header, header; the message lies in its metadata. */
export function encodeFrame(message) {
  const header = encoder.encode(
    JSON.stringify({ __metadata__: { luna: JSON.stringify(message) } }),
  );
  const bytes = new Uint8Array(8 + header.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(header, 8);
  return bytes;
}

export function decodeFrame(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(decoder.decode(new Uint8Array(buffer, 8, length)));
  return JSON.parse(header.__metadata__.luna);
}

export class DaemonError extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

/** "bearer." and the token in base64url: what a browser can show when it opens a WebSocket. */
function subprotocols(token) {
  if (token === "") return ["luna"];
  const bytes = String.fromCharCode(...encoder.encode(token));
  const text = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["luna", `bearer.${text}`];
}

/** A session that comes back by itself. `onState(isOpen)`, `onEvents(events, dropped)`. */
export class Daemon {
  #token;
  #handlers;
  #socket;
  #pending = new Map();
  #nextId = 1;
  #pauseMs = RECONNECT_MS.first;

  constructor(token, handlers) {
    this.#token = token;
    this.#handlers = handlers;
    this.#open();
  }

  request(op, fields = {}) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#pending.set(id, { resolve, reject });
      this.#send({ type: "request", id, op, ...fields });
    });
  }

  #open() {
    const address = location.origin.replace(/^http/, "ws");
    const socket = new WebSocket(`${address}/v1/ws`, subprotocols(this.#token));
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      const client = { name: "dashboard", version: "1" };
      const token = this.#token === "" ? {} : { token: this.#token };
      this.#send({ type: "hello", protocol: 1, client, ...token });
    };
    socket.onmessage = ({ data }) => this.#receive(decodeFrame(data));
    socket.onclose = () => {
      this.#handlers.onState(false);
      for (const { reject } of this.#pending.values()) {
        reject(new DaemonError({ code: "CONNECTION_LOST", message: "The daemon is away." }));
      }
      this.#pending.clear();
      setTimeout(() => this.#open(), this.#pauseMs);
      this.#pauseMs = Math.min(this.#pauseMs * 2, RECONNECT_MS.most);
    };
  }

  #send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(encodeFrame(message));
  }

  #receive(message) {
    if (message.type === "event") {
      this.#handlers.onEvents(message.events, message.dropped);
    } else if (message.type === "welcome") {
      this.#pauseMs = RECONNECT_MS.first;
      this.#send({ type: "request", id: this.#nextId++, op: "watch" });
      this.#handlers.onState(true);
    } else {
      const pending = this.#pending.get(message.id);
      this.#pending.delete(message.id);
      if (message.type === "result") pending?.resolve(message.data);
      else pending?.reject(new DaemonError(message.error));
    }
  }
}
