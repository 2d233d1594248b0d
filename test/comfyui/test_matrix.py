"""Every workflow of cases.py: ComfyUI alone against ComfyUI on the daemon. See run_matrix.py."""

import os
import unittest

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import run_matrix  # noqa: E402
from cases import CASES, FULL_CASES  # noqa: E402


class Matrix(unittest.TestCase):
    def test_every_case_agrees(self):
        # Models of full width take 7 GB of disk and some minutes.
        rows = run_matrix.run(CASES + (FULL_CASES if os.environ.get("LUNA_TEST_FULL") else []))
        for row in rows:
            with self.subTest(row["case"]):
                self.assertEqual(row["problem"], "")


if __name__ == "__main__":
    unittest.main()
