"""ComfyUI on a Luna daemon. Modules without `comfy` imports (frame, websocket, connection, tensors,
errors) run in any Python with torch; the others need to run inside ComfyUI."""

VERSION = "0.1.0"
PROTOCOL = 1
