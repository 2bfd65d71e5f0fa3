"""llama.cpp's own memory figures, made without a GPU and without building llama.cpp.

The library of the installed embedded engine (xllamacpp) reports what it would allocate. In place of a GPU it has a
backend that answers as ggml-cuda does and computes nothing: native/stand_in_cuda.cpp, with the functions in which
ggml-cuda decides about memory, cut at build time out of the source package of the same version. Model files are sparse:
metadata and tensors of bench/data/vram/headers.json, without data. A row takes a quarter of a second of one core.

Where the engine's accounting (its `no_alloc` pass, as for --fit) has no answer: adapters are loaded with a model that
takes nothing, and with --split-mode tensor, which it counts as one device, the model is loaded onto devices that only
reserve. Loaded so, a plain start takes what the accounting says, but for the last of several GPUs, where the accounting
is up to 4 embeddings of a ubatch higher (32 MiB for an 8B model).

Not included: CUDA's context, cuBLAS and what grows while a model answers (bench/gpu measures those);
--split-mode row, whose buffers the stand-in lacks; companions of a model with --split-mode tensor; a projector's graph
with --no-warmup, which is allocated with the first image.
"""
