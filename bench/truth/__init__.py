"""llama.cpp's own memory figures, made without a GPU and without building llama.cpp.

The embedded engine's library (xllamacpp's, as installed) is asked what it would allocate. For a GPU stands a backend
that answers as ggml-cuda does and computes nothing: native/stand_in_cuda.cpp, with the functions in which ggml-cuda
decides about memory, cut at build time out of the source package of the same version. Model files are sparse: metadata
and tensors of bench/data/vram/headers.json, without data. A row takes a quarter of a second of one core.

What it does not say: CUDA's context, cuBLAS and what grows while a model answers (bench/gpu measures those), and
--split-mode row and tensor, whose buffers the engine's accounting does not assign to devices.
"""
