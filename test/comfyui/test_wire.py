"""The pack without ComfyUI: frames, digests, low-rank factors' names, the connection. Needs torch."""

import os
import re
import sys
import threading
import unittest
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "comfyui"))

from luna_daemon import frame, lora_tags, tensors  # noqa: E402
from luna_daemon.connection import Connection  # noqa: E402
from luna_daemon.daemon import Daemon, Run  # noqa: E402
from luna_daemon.errors import LunaError  # noqa: E402
from luna_daemon.text_rows import text_tensors  # noqa: E402
from fake_server import FakeServer  # noqa: E402


def page_bytes(title):
    """The bytes of a hex dump in docs/protocol.md."""
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    dump = re.search(rf"```hex {title}\n(.*?)```", page, re.S).group(1)
    lines = [line[6:53].split() for line in dump.splitlines()]
    return bytearray(int(each, 16) for line in lines for each in line)


class Frames(unittest.TestCase):
    def test_reads_the_frames_of_the_page(self):
        message, found = frame.decode(page_bytes("model_forward"))
        self.assertEqual(message["op"], "model_forward")
        self.assertEqual(found["x"].flatten().tolist(), [1.0, 2.0, -0.5, 0.0])
        self.assertEqual(found["timesteps"].tolist(), [999.0])

    def test_writes_the_hello_of_the_page(self):
        hello = {"type": "hello", "protocol": 1, "client": {"name": "mine", "version": "1.0"}}
        self.assertEqual(b"".join(frame.encode(hello)), bytes(page_bytes("hello")))

    def test_what_is_written_is_read(self):
        given = {
            "half": torch.randn(3, 5).half(),
            "floats": torch.randn(2, 3, 4).transpose(0, 2),
            "whole": torch.arange(7),
            "brain": torch.randn(4).bfloat16(),
            "none": torch.zeros(0, 4),
            "double": torch.randn(2, dtype=torch.float64),
        }
        message, found = frame.decode(bytearray(b"".join(frame.encode({"a": "ü"}, given))))
        self.assertEqual(message, {"a": "ü"})
        for name, tensor in given.items():
            wanted = tensor.float() if tensor.dtype == torch.float64 else tensor
            self.assertTrue(torch.equal(found[name], wanted), name)

    def test_what_is_read_can_be_written_to(self):
        _, found = frame.decode(bytearray(b"".join(frame.encode({}, {"x": torch.ones(2)}))))
        found["x"].mul_(3)
        self.assertEqual(found["x"].tolist(), [3.0, 3.0])

    def test_a_header_that_claims_too_much_is_an_error(self):
        with self.assertRaises(ValueError):
            frame.decode(bytearray(b"\xff" * 8 + b"{}"))


class Digests(unittest.TestCase):
    def test_the_digest_of_the_page(self):
        page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
        wanted = re.search(r"```digest\n.*?(sha256:[0-9a-f]{64})\n", page, re.S).group(1)
        self.assertEqual(tensors.digest(torch.tensor([1.0, 2.0])), wanted)

    def test_equal_content_is_one_tensor(self):
        memory = tensors.SlotMemory()
        context = torch.randn(1, 77, 768)
        first = memory.digest_of("context", context)
        self.assertEqual(memory.digest_of("context", context.clone()), first)
        self.assertNotEqual(memory.digest_of("context", context + 1), first)
        self.assertIsNone(memory.digest_of("y", torch.zeros(4)))

    def test_residuals_are_named_once_they_repeat(self):
        memory = tensors.SlotMemory()
        same = torch.randn(1, 320, 8, 8)
        self.assertIsNone(memory.digest_if_repeated("c", same))
        named = memory.digest_if_repeated("c", same.clone())
        self.assertEqual(named, tensors.digest(same))
        other = same.clone()
        other.view(-1)[1] += 1  # Not one of the values that tell tensors apart at first sight.
        self.assertEqual(memory.digest_if_repeated("c", other), tensors.digest(other))


class Texts(unittest.TestCase):
    def test_tags(self):
        text, loras = lora_tags.extract_lora_tags("a <lora:x:0.5:0.2> b <lora:y> c <lora:z:no>")
        self.assertEqual(text, "a  b  c <lora:z:no>")
        self.assertEqual(loras, [("x", 0.5, 0.2), ("y", 1.0, 1.0)])

    def test_names(self):
        files = ["styles/blue.safetensors", "red.safetensors"]
        self.assertEqual(lora_tags.find_lora("red", files), "red.safetensors")
        self.assertEqual(lora_tags.find_lora("blue", files), "styles/blue.safetensors")
        self.assertIsNone(lora_tags.find_lora("green", files))

    def test_embeddings_keep_their_places_and_wrong_ones_are_dropped(self):
        row = [49406, 5, torch.ones(4), torch.ones(9), *[49407] * 73]
        found = text_tensors([row], width=4, pad=49407)
        self.assertEqual(found["tokens"].shape, (1, 77))
        self.assertEqual(found["embedding_positions"].tolist(), [[0, 2]])
        self.assertEqual(found["tokens"][0, 3].item(), 49407)


class Connections(unittest.TestCase):
    def daemon(self, server, **options):
        options = {"grace": 5.0, "say": lambda line: None, **options}
        daemon = Daemon(server.url, **options)
        self.addCleanup(daemon.connection.close)
        return daemon

    def step(self, value=1.0):
        x = torch.full((1, 4, 2, 2), value)
        own = {"x": x, "timesteps": torch.ones(1)}
        shared = {"context": torch.arange(77 * 768).reshape(1, 77, 768).float()}
        return Run("model_forward", {"model": "m"}, own, shared)

    def test_the_daemon_is_told_the_process(self):
        with FakeServer() as server:
            self.daemon(server).run(self.step())
            self.assertEqual(server.client["pid"], os.getpid())

    def test_context_travels_once(self):
        with FakeServer() as server:
            daemon = self.daemon(server)
            for value in (1.0, 2.0):
                out = daemon.run(self.step(value)).tensors["out"]
                self.assertTrue(torch.equal(out, torch.full((1, 4, 2, 2), value / 10)))
            self.assertEqual(server.ops, ["put_tensors", "model_forward", "model_forward"])
            self.assertEqual(sorted(server.tensors[-1]), ["timesteps", "x"])

    def test_what_the_daemon_forgot_is_put_again(self):
        with FakeServer() as server:
            daemon = self.daemon(server)
            daemon.run(self.step())
            server.forget()
            daemon.run(self.step())
            self.assertEqual(server.ops[2:], ["model_forward", "put_tensors", "model_forward"])

    def test_a_daemon_without_room_gets_everything_inline(self):
        with FakeServer(keeps=False) as server:
            self.daemon(server).run(self.step())
            self.assertEqual(sorted(server.tensors[-1]), ["context", "timesteps", "x"])

    def test_another_daemon_on_the_same_port_goes_on(self):
        with FakeServer() as server:
            daemon = self.daemon(server)
            daemon.run(self.step())
            server.restart()
            daemon.run(self.step())
            self.assertEqual(server.ops, ["put_tensors", "model_forward"])

    def test_lost_in_the_middle_of_a_step(self):
        with FakeServer() as server:
            daemon = self.daemon(server)
            daemon.run(self.step())
            server.drop_next()
            daemon.run(self.step())

    def test_no_daemon_is_told_at_once(self):
        with self.assertRaises(LunaError) as caught:
            Daemon("ws://127.0.0.1:9").run(self.step())
        self.assertEqual(caught.exception.code, "DAEMON_NOT_RUNNING")
        self.assertIn("npx luna serve", str(caught.exception))

    def test_lost_for_good(self):
        with FakeServer() as server:
            daemon = self.daemon(server, grace=0.2)
            daemon.run(self.step())
            server.close()
            with self.assertRaises(LunaError) as caught:
                daemon.run(self.step())
            self.assertEqual(caught.exception.code, "CONNECTION_LOST")

    def test_an_interrupt_cancels_and_the_connection_lives_on(self):
        stop = threading.Event()

        def poll():
            if stop.is_set():
                stop.clear()
                raise KeyboardInterrupt

        with FakeServer() as server:
            daemon = self.daemon(server, poll=poll)
            daemon.run(self.step())
            server.hold_next(stop.set)
            with self.assertRaises(KeyboardInterrupt):
                daemon.run(self.step(5.0))
            out = daemon.run(self.step(3.0)).tensors["out"]
            self.assertAlmostEqual(out[0, 0, 0, 0].item(), 0.3, places=6)
            self.assertIn("cancel", server.messages)

    def test_the_other_version_is_named(self):
        with FakeServer(refuses=("PROTOCOL_VERSION", "The client speaks protocol 1")) as server:
            with self.assertRaises(LunaError) as caught:
                Connection(server.url).open()
        self.assertEqual(caught.exception.code, "PROTOCOL_VERSION")

    def test_a_message_in_fragments_and_pings_between(self):
        with FakeServer(fragment=1000) as server:
            out = self.daemon(server).run(self.step()).tensors["out"]
            self.assertEqual(out.shape, (1, 4, 2, 2))


if __name__ == "__main__":
    unittest.main()
