"""What the tests measured: kept under report/, and as the tables of docs/comfyui.md.
Usage: results.py   (writes the page from the files of the last runs)"""

import json
import os
import re

from harness import HERE, ROOT

REPORT = HERE / "report"
FULL = "At full width (`LUNA_TEST_FULL=1`, which writes 6 GB of models):\n\n"
PAGE = ROOT / "docs" / "comfyui.md"


def keep(name, rows):
    """Adds rows {"case": ...} to report/NAME.json, in place of older ones of the same case. With
    LUNA_TEST_WRITE_DOCS the page follows."""
    REPORT.mkdir(exist_ok=True)
    path = REPORT / f"{name}.json"
    known = {row["case"]: row for row in kept(name)}
    known.update((row["case"], row) for row in rows)
    path.write_text(json.dumps(list(known.values()), indent=1))
    if os.environ.get("LUNA_TEST_WRITE_DOCS"):
        write_page()


def kept(name):
    path = REPORT / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def line(row):
    difference = f"{row['difference']:.1e}" if "difference" in row else "-"
    where = row["expects"] if not row["problem"] else f"{row['expects']}: {row['problem']}"
    return f"| {row['case']} | {where} | {difference} | {row.get('pixels', '')} |"


def matrix_table(names):
    rows = {row["case"]: row for row in kept("matrix") if row["case"] in names}
    if not rows:
        return ""
    head = "| case | computed | largest difference / scale | of a pixel |\n|---|---|---|---|\n"
    return head + "\n".join(line(rows[name]) for name in names if name in rows)


def life_table():
    if not kept("life"):
        return ""
    head = "What happens to a ComfyUI process in its life:\n\n| case | result |\n|---|---|\n"
    return head + "\n".join(f"| {row['case']} | {row['result']} |" for row in kept("life"))


def figures():
    path = REPORT / "figures.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep_figures(name, found):
    """One of the parts of report/figures.json: daemon, local (measure.py), overhead (overhead.py)."""
    REPORT.mkdir(exist_ok=True)
    whole = json.dumps({**figures(), name: found}, indent=1)
    (REPORT / "figures.json").write_text(whole)


def figures_table():
    found = figures()
    remote, local = found.get("daemon", {}), found.get("local", {})

    def pair(name, pick):
        values = []
        for side in (remote, local):
            try:
                values.append(pick(side))
            except KeyError:  # Not measured there.
                values.append("")
        return f"| {name} | {' | '.join(values)} |" if any(values) else ""

    def gigabytes(key):
        return lambda side: f"{side[key] / 1e9:.2f} GB"

    def load(side):
        return f"{side['load']:.1f}"

    def more(side):
        return f"{(side['rss'] - side['rss_start']) / 1e9:.2f} GB"

    def seconds(run):
        return lambda side: f"{side[run]['first_step_s']:.1f} s"

    if not found:
        return ""
    head = "Memory and time of one workflow, SD1.5 at full width in float32, random weights"
    head += (
        "".join(f", {side['side']}x{side['side']}" for side in (remote or local,) if side) + ":\n\n"
    )
    lines = [
        "| | ComfyUI on the daemon | ComfyUI alone |",
        "|---|---|---|",
        pair("load average of the machine before (two cores)", load),
        pair("memory of the ComfyUI process (RSS) before any model", gigabytes("rss_start")),
        pair("after four pictures, two of them with a LoRA, one decoded", gigabytes("rss")),
        pair("that is, more than before any model", more),
        pair("of all that not shared with files", gigabytes("rss_private")),
        pair("the highest meanwhile", gigabytes("rss_highest")),
        pair("from queueing to the end of the first step, nothing loaded anywhere", seconds("cold")),
        pair("the same in a new process with a warm daemon", seconds("warm_daemon_new_process")),
        pair("the same when the model has run before: nearly the step alone", seconds("warm")),
        pair("the same when a LoRA was put on", seconds("lora")),
        pair("the same when its strength was changed", seconds("lora_strength")),
        pair("a step after the first", lambda side: f"{side['warm']['step_s']:.1f} s"),
        *(
            f"| a step beside the engine's time, seen from Python, {way} | {text} | |"
            for way, text in found.get("overhead", {}).items()
        ),
    ]
    return head + "\n".join(each for each in lines if each)


def write_page():
    from cases import CASES, FULL_CASES

    text = PAGE.read_text(encoding="utf-8")
    for name, table in {
        "matrix": matrix_table([each.name for each in CASES]),
        "full": FULL + table if (table := matrix_table([each.name for each in FULL_CASES])) else "",
        "life": life_table(),
        "figures": figures_table(),
    }.items():
        marks = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        text, count = re.subn(marks, lambda found: found[1] + table + found[2], text, flags=re.S)
        assert count == 1, f"docs/comfyui.md has no place for the table {name}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_page()
