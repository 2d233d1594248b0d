// Luna's entries in ComfyUI's settings; the Python side reads them from comfy.settings.json.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "Luna.Settings",
  settings: [
    {
      id: "Luna.Takeover",
      name: "Takeover: ComfyUI's own loaders use the Luna daemon",
      tooltip: "LUNA_TAKEOVER=1 does the same.",
      type: "boolean",
      defaultValue: false,
    },
    {
      id: "Luna.DaemonUrl",
      name: "Address of the daemon",
      tooltip: "Empty: LUNA_DAEMON_URL, or ws://127.0.0.1:19283.",
      type: "text",
      defaultValue: "",
    },
    {
      id: "Luna.ReconnectSeconds",
      name: "Seconds a lost daemon may take to come back",
      type: "number",
      defaultValue: 30,
    },
  ],
});
