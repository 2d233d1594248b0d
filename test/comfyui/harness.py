"""A daemon and headless ComfyUI processes, driven as a person's browser would: through /prompt."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
COMFYUI = os.environ.get("COMFYUI_PATH", "")
MODELS = Path(
    os.environ.get("LUNA_TEST_MODELS", Path(tempfile.gettempdir()) / "luna-comfyui-models")
)
DAEMON = os.environ.get("LUNA_TEST_DAEMON", str(ROOT / "dist" / "cli" / "main.js"))
# Loading a checkpoint of 0.6 GB beside other work is the longest wait; steps take tens of ms.
PROMPT_SECONDS = 600.0
START_SECONDS = 600.0


# A run that is ended from outside must not leave its processes behind.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_models(kind):
    """Writes the models once; they stay for the next run of the tests."""
    done = MODELS / f".{kind}-{models_version(kind)}"
    if not done.exists():
        script = str(HERE / "make_models.py")
        subprocess.run(
            [sys.executable, script, str(MODELS), kind], check=True, stdout=subprocess.DEVNULL
        )
        done.touch()


def models_version(kind):
    """Counted by hand in make_models.py, which cannot be imported without ComfyUI."""
    text = (HERE / "make_models.py").read_text()
    return re.search(rf"^{kind.upper()}_VERSION = (\d+)$", text, re.M).group(1)


def rss_bytes(pid, *fields):
    """Resident memory of a process: all of it, or named parts of it (RssAnon, RssFile)."""
    wanted = fields or ("VmRSS",)
    lines = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":" in line
    )
    return sum(int(lines[field].split()[0]) * 1024 for field in wanted)


class Process:
    """A child with its output in a log file."""

    def __init__(self, command, log, env=None, cwd=None):
        self.log = Path(log)
        self._file = open(log, "wb")
        self.process = subprocess.Popen(
            command, stdout=self._file, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
            cwd=cwd, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, test, what, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while not test():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{what} did not happen:\n{self.output()[-3000:]}")
            time.sleep(0.05)

    def kill(self):
        """The process and its children, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._file.close()


class Daemon(Process):
    def __init__(self, folder, port=None, models=MODELS):
        self.port = port or free_port()
        command = ["node", DAEMON, "serve", "--models", str(models), "--port", str(self.port)]
        super().__init__(command, folder / f"daemon-{self.port}.log")
        self.wait_for(lambda: "WebSocket server running" in self.output(), "The daemon's start")

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    def status(self):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/v1/status", timeout=10
        ) as answer:
            return json.load(answer)


class PromptFailed(Exception):
    """A prompt ended with an error; the text is ComfyUI's exception message."""


class Comfy(Process):
    """One ComfyUI with a base folder of its own, the models shared by link."""

    def __init__(self, folder, name, env=None, with_pack=True, others=()):
        self.base = folder / name
        (self.base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        (self.base / "models").symlink_to(MODELS)
        packs = {"luna-test-nodes": HERE / "test_pack", **{each.name: each for each in others}}
        if with_pack:
            packs["luna-daemon"] = ROOT / "comfyui"
        for pack, place in packs.items():
            (self.base / "custom_nodes" / pack).symlink_to(place)
        self.port = free_port()
        command = [
            sys.executable, str(Path(COMFYUI) / "main.py"), "--cpu", "--base-directory", str(self.base),
            "--port", str(self.port), "--disable-api-nodes", "--fp32-text-enc", "--disable-auto-launch",
            "--preview-method", "latent2rgb",
        ]  # fmt: skip
        clean = {"LUNA_TAKEOVER": "0", "LUNA_DAEMON_URL": "ws://127.0.0.1:9", **(env or {})}
        super().__init__(command, folder / f"{name}.log", clean)
        self.wait_for(self._answers, f"The start of ComfyUI {name}")

    def _answers(self):
        try:
            self.get("/system_stats")
            return True
        except OSError:
            return False

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def post(self, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
                return json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            raise PromptFailed(error.read().decode()) from error

    def queue(self, workflow):
        return self.post("/prompt", {"prompt": workflow})["prompt_id"]

    def finish(self, prompt_id, seconds=PROMPT_SECONDS):
        """Waits for a prompt. Raises PromptFailed."""
        entry = {}

        def is_done():
            entry.update(self.get(f"/history/{prompt_id}").get(prompt_id, {}))
            return bool(entry)

        self.wait_for(is_done, f"The end of prompt {prompt_id}", seconds)
        for kind, data in entry["status"]["messages"]:
            if kind == "execution_error":
                raise PromptFailed(data["exception_message"])
            if kind == "execution_interrupted":
                raise PromptFailed("interrupted")
        return entry["outputs"]

    def run(self, workflow):
        return self.finish(self.queue(workflow))

    def latents(self, prefix):
        """The latest tensors that SaveLatent wrote under `prefix`."""
        from safetensors.torch import load_file

        files = sorted((self.base / "output").glob(f"{prefix}_*.latent"))
        return load_file(files[-1])["latent_tensor"]

    def pixels(self, prefix):
        import numpy
        from PIL import Image

        files = sorted((self.base / "output").glob(f"{prefix}_*.png"))
        return numpy.asarray(Image.open(files[-1]))


class Folder:
    """A temporary folder that stays where LUNA_TEST_KEEP is set."""

    def __enter__(self):
        self.path = Path(tempfile.mkdtemp(prefix="luna-comfyui-"))
        return self.path

    def __exit__(self, *_):
        if os.environ.get("LUNA_TEST_KEEP"):
            print(f"kept {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)
