#!/bin/sh
# Everything that needs an NVIDIA GPU, in one command: parity of the two rasterisers and of films, then throughput of open-1 and of a
# network of flex-1's size at several precisions, with network, rasteriser and video apart. Results go to docs/gpu.json,
# which `make bench` puts into docs/performance.md.
# Usage: benchmarks/gpu.sh [arguments of gpu.py]      Needs: a CUDA build of torch, and gsplat (pip install '.[cuda]')
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
"$python" -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)' || {
    echo "no CUDA device, or a CPU build of torch: nothing was measured" >&2
    exit 5
}
"$python" -c 'import gsplat' 2>/dev/null || "$python" -m pip install 'gsplat==1.5.3'
"$python" -m pytest -q tests/render tests/stages/test_animation.py
exec "$python" benchmarks/gpu.py --save docs/gpu.json "$@"
