#!/bin/sh
# Measures the router beside PyTorch with Hugging Face transformers, and ONNX Runtime. usage: tests/bench/peers.sh [OPTION...]
# Options are those of peers.py (--help). Python and its packages live in a folder outside the repository, $ROUTER_PEERS
# or ~/.cache/router-peers, made at the first call; nothing else of this project needs them.
here=$(cd "$(dirname "$0")" && pwd) || exit 2
venv=${ROUTER_PEERS:-$HOME/.cache/router-peers}
if [ ! -x "$venv/bin/python" ]; then
    # The builds for processors alone where their index can be reached; the default ones carry CUDA.
    python3 -m venv "$venv.new" || exit 1
    "$venv.new/bin/pip" install --quiet --retries 0 --index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0' ||
        "$venv.new/bin/pip" install --quiet 'torch==2.13.0' || exit 1
    "$venv.new/bin/pip" install --quiet 'transformers==5.24.0' 'onnxruntime==1.32.0' 'onnx==1.23.2' numpy || exit 1
    mv "$venv.new" "$venv" || exit 1
fi
# A core type forced on OpenBLAS would slow us down, telemetry would disturb; both sides see the same environment.
unset OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS OMP_NUM_THREADS MKL_NUM_THREADS
export ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
exec "$venv/bin/python" "$here/peers.py" "$@"
