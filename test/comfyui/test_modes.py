"""Settings, and the way back to a local model. A fake daemon answers."""

import json
import os
import unittest
from unittest import mock

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import comfy_process as p  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from luna_daemon import settings  # noqa: E402
from luna_daemon.errors import LunaError  # noqa: E402


class Settings(unittest.TestCase):
    def test_environment_then_comfyuis_settings_then_defaults(self):
        place = os.path.join(folder_paths.get_user_directory(), "default")
        os.makedirs(place, exist_ok=True)
        chosen = {"Luna.Takeover": True, "Luna.DaemonUrl": "ws://box:1", "Luna.ReconnectSeconds": 7}
        with mock.patch.dict(os.environ):
            for name in ("LUNA_TAKEOVER", "LUNA_DAEMON_URL", "LUNA_RECONNECT_SECONDS"):
                os.environ.pop(name, None)
            read = lambda: (  # noqa: E731
                settings.is_takeover(), settings.daemon_url(), settings.grace_seconds()
            )  # fmt: skip
            self.assertEqual(read(), (False, "ws://127.0.0.1:19283", 30.0))
            with open(os.path.join(place, "comfy.settings.json"), "w", encoding="utf-8") as file:
                json.dump(chosen, file)
            self.assertEqual(read(), (True, "ws://box:1", 7.0))
            os.environ.update(LUNA_TAKEOVER="0", LUNA_DAEMON_URL="ws://b:2")
            self.assertEqual(read(), (False, "ws://b:2", 7.0))
            self.assertEqual(settings.daemon_url(" ws://c:3 "), "ws://c:3")


class LocalTwins(unittest.TestCase):
    def test_auto_goes_on_locally_in_the_middle_of_a_run(self):
        base, daemon = p.fake_model("auto")
        whole = comfy.sd.load_checkpoint_guess_config(p.path_of("sd1"), False, False)[0]
        lora = p.small_lora()
        wanted = p.sample(p.with_lora(whole, lora, 0.7), steps=3)

        def fail(run):
            raise LunaError("CONNECTION_LOST", "gone")

        daemon.answer = fail
        with self.assertLogs(level="WARNING") as logs:
            found = p.sample(p.with_lora(base, lora, 0.7), steps=3)
        self.assertTrue(torch.equal(found, wanted))
        self.assertIn("Going on locally", "".join(logs.output))
        # The daemon is back: the next run is its again, and the copy is given back.
        daemon.answer = lambda run: run.own["x"] * 0.1
        daemon.runs.clear()
        p.sample(base)
        self.assertEqual(len(daemon.runs), 2)
        self.assertIsNone(base.model.luna.twin._base)


if __name__ == "__main__":
    unittest.main()
