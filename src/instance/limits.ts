/** Bytes of a request body, ComfyUI's own limit; prompts have some KB, uploads some MB. */
export const BODY_BYTES_MAX = 100 * 2 ** 20;
/** Finished prompts that are remembered, as in ComfyUI. */
export const HISTORY_MAX = 10_000;
/** Prompts that wait; a client that loops must not fill the memory. */
export const PENDING_MAX = 10_000;
/** Prompts of one instance that run at once; each has its own cache of results. */
export const CONCURRENCY_MAX = 256;
/** Characters of ids that clients choose (UUIDs have 36). */
export const ID_LENGTH_MAX = 256;
/** Bytes of a client's WebSocket message; the only one that is read has some hundred. */
export const SOCKET_MESSAGE_BYTES_MAX = 2 ** 20;
/** Bytes that wait for a slow socket before its previews are left out (one is 10 to 500 KB). */
export const SOCKET_BACKLOG_BYTES_MAX = 8 * 2 ** 20;
/** A client that hears nothing for 10 to 15 s takes the connection for dead (@saintno/comfyui-sdk). */
export const SILENCE_MS_MAX = 5_000;
/** Longer side of a preview in pixels, as in ComfyUI. */
export const PREVIEW_SIDE_MAX = 512;
/** Files that a listing of user data names; workflow collections have some thousand. */
export const USER_FILES_MAX = 10_000;
/** How often an uploaded picture's name is counted up before it is refused. */
export const UPLOAD_NAMES_MAX = 10_000;
/** How long an idle HTTP connection stays open, as ComfyUI's server has it; with Node's 5 s clients run into closed ones. */
export const KEEP_ALIVE_MS = 75_000;
/** How long /system_stats waits for the daemon's figures; the image's health check gives up after 3 s. */
export const STATUS_MS_MAX = 2_000;
