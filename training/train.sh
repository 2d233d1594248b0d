#!/bin/sh
# The whole recipe, from nothing: an environment of its own, then every stage. Needs Python 3.11+, npm and libcairo2.
set -eu
cd "$(dirname "$0")"
[ -d work/venv ] || python3 -m venv work/venv
work/venv/bin/pip install -q -r requirements.txt
work/venv/bin/pip install -q --no-deps -r requirements-nodeps.txt
exec work/venv/bin/python train.py all
