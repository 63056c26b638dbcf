#!/usr/bin/env bash
# cuda.sh [FOLDER]: builds retune with `--features cuda` on a machine that needs
# neither a GPU nor a driver. The compiler and the libraries come from PyPI, the
# driver's library is a stub to link against. FOLDER keeps them (about 2.5 GB).
#
# A machine with an NVIDIA driver and toolkit needs none of this:
# `cargo build --release --features cuda`.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(realpath -m "${1:-target/cuda-toolkit}")
capability=${CUDA_COMPUTE_CAP:-90}
wheels=$folder/venv
root=$folder/root

if [ ! -x "$root/bin/nvcc" ]; then
    python3 -m venv "$wheels"
    "$wheels/bin/pip" install -q -r tests/interop/cuda_requirements.txt
    packages=$(echo "$wheels"/lib/python3*/site-packages/nvidia/cu13)
    # One tree as the toolkit's installer makes it.
    mkdir -p "$root/lib64"
    ln -sfn "$packages"/{bin,include,nvvm} "$root/"
    for library in "$packages"/lib/*; do
        name=$(basename "$library")
        ln -sf "$library" "$root/lib64/$name"
        case $name in *.so.*) ln -sf "$library" "$root/lib64/${name%%.so*}.so" ;; esac
    done
fi

export CUDA_HOME=$root CUDA_PATH=$root CUDA_ROOT=$root CUDA_TOOLKIT_ROOT_DIR=$root
export CUDA_COMPUTE_CAP=$capability PATH=$root/bin:$PATH
export LIBRARY_PATH=$root/lib64${LIBRARY_PATH:+:$LIBRARY_PATH}
nvcc --version | tail -n 2

# Everything compiles before anything is linked: only then is it known what of
# the driver is called.
cargo build --lib --features cuda
objects=(target/debug/deps/libcudarc-*.rlib)
nm -u "${objects[@]}" 2>/dev/null | awk '/ U cu[A-Z]/ { print $2 }' | sort -u |
    awk '{ print "void " $1 "(void) {}" }' >"$folder/cuda_stub.c"
[ -s "$folder/cuda_stub.c" ]
gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$root/lib64/libcuda.so" "$folder/cuda_stub.c"
ln -sf libcuda.so "$root/lib64/libcuda.so.1"
cargo build --features cuda

# What can be asked of it without a GPU: that it knows the backend, and that it
# says so when there is no device.
LD_LIBRARY_PATH=$root/lib64 target/debug/retune --version
echo "built: target/debug/retune, compute capability $capability"
