"""The bounded log of a llama-server, and the lines that explain its exit."""

from __future__ import annotations

import json

import pytest

from workers.server.log import ERROR_BYTES, RING_BYTES, ServerLog, error_lines, is_out_of_gpu_memory


def a_log(text: str) -> ServerLog:
    log = ServerLog()
    log.feed(text.encode())
    return log


def test_a_line_split_between_two_reads_is_one_line():
    log = ServerLog()
    for piece in (b"first li", b"ne\nsecond", b" line\nunfinished"):
        log.feed(piece)
    assert log.lines() == ["first line", "second line", "unfinished"]


def test_memory_is_bounded_and_the_newest_lines_are_kept():
    log = ServerLog()
    for number in range(50_000):
        log.feed(b"line %d with some text behind it\n" % number)
    assert sum(map(len, log.lines())) <= RING_BYTES
    assert log.lines()[-1].startswith("line 49999 ")


def test_an_endless_line_is_bounded_in_memory():
    log = ServerLog()
    for _ in range(1000):
        log.feed(b"x" * 65536)
    assert sum(map(len, log.lines())) <= 4096


def test_error_lines_are_the_last_errors():
    lines = [
        "0.00.010.000 I build: 11549",
        "0.00.020.000 E llama_model_load: error loading model: unknown model architecture: 'nope'",
        "0.00.021.000 E common_init: failed to load model '/models/x.gguf'",
        "0.00.022.000 I srv  cleaning up",
    ]
    assert error_lines(lines) == (
        "llama_model_load: error loading model: unknown model architecture: 'nope'\n"
        "common_init: failed to load model '/models/x.gguf'"
    )


def test_without_errors_the_last_lines_are_returned():
    assert error_lines(["one", "two"]) == "one\ntwo"
    assert error_lines(["one", 'cmd_child_to_router:state:{"state":"loading"}', "two"]) == "one\ntwo"


BACKTRACES = {
    "gdb": """[New LWP 8409]
[New LWP 8408]

This GDB supports auto-downloading debuginfo from the following URLs:
  <https://debuginfod.ubuntu.com>
Enable debuginfod for this session? (y or [n]) [answered N; input not from terminal]
Debuginfod has been disabled.
To make this setting permanent, add 'set debuginfod enabled off' to .gdbinit.
[Thread debugging using libthread_db enabled]
Using host libthread_db library "/lib/x86_64-linux-gnu/libthread_db.so.1".
__syscall_cancel_arch () at ../sysdeps/unix/sysv/linux/x86_64/syscall_cancel.S:56
warning: 56\t../sysdeps/unix/sysv/linux/x86_64/syscall_cancel.S: No such file or directory
56\tin ../sysdeps/unix/sysv/linux/x86_64/syscall_cancel.S
0x00007fae703158a7 in wait4 () from /usr/lib64/libc.so.6
#0  __syscall_cancel_arch () at ../sysdeps/unix/sysv/linux/x86_64/syscall_cancel.S:56
#1  0x0000564ac2e60592 in ggml_abort ()
#2  0x00007fc8d32a013c in ggml_uncaught_exception() () from /opt/llama/libggml-base.so
[Inferior 1 (process 8400) detached]
""",
    "no ptrace": """warning: process 4711 is already traced by process 1
Could not attach to process.  If your uid matches the uid of the target process, check the setting of /proc/sys/kernel
ptrace: Operation not permitted.
""",
    "lldb": """(lldb) process attach --pid 4711
Process 4711 stopped
* thread #1, name = 'llama-server', stop reason = signal SIGSTOP
  * frame #0: 0x00007f libc.so.6`wait4 + 26
    frame #1: 0x00007f libggml-base.so`ggml_abort + 120
Executable module set to "/opt/llama/llama-server".
Process 4711 detached
""",
    "symbols": """/opt/llama/libggml-base.so(+0x16f5b)[0x7f3b2c016f5b]
/opt/llama/libggml-base.so(ggml_abort+0x152) [0x7f3b2c0173c2]
WARNING: Using native backtrace. Set GGML_BACKTRACE_LLDB for more info.
""",
    "unknown": "Python Exception <class 'gdb.error'>: Error in re-setting breakpoint: No such file\nfault, denied\n",
    "none": "",
}
ABORT = "/src/ggml/src/ggml-cpu/ops.cpp:4511: GGML_ASSERT(i01 >= 0 && i01 < ne01) failed"


@pytest.mark.parametrize("backtrace", BACKTRACES)
def test_a_crash_says_the_assertion_with_and_without_a_debugger(backtrace: str):
    lines = ["0.01 E srv  send_error: an error of a request, long ago", *["0.02 I slot release"] * 9, ABORT]
    assert error_lines([*lines, *BACKTRACES[backtrace].splitlines()], may_quote=True) == ABORT


def test_an_exception_that_nobody_caught_is_named_with_its_text():
    lines = [
        "terminate called after throwing an instance of 'std::runtime_error'",
        "  what():  no memory for the graph",
    ]
    assert error_lines([*lines, *BACKTRACES["gdb"].splitlines()]) == "\n".join(lines)


def test_what_ggml_says_of_cuda_before_it_aborts_is_part_of_the_message():
    lines = [
        "CUDA error: an illegal memory access was encountered",
        "  current device: 0, in function f",
        "x.cu:98: CUDA error",
    ]
    lines = ["0.01 I srv  an error of long ago", *["0.02 I slot release"] * 9, *lines]
    assert (
        error_lines(lines, may_quote=True)
        == "CUDA error: an illegal memory access was encountered\nx.cu:98: CUDA error"
    )


def test_the_message_of_a_crash_quotes_no_request():
    """Everybody whose request was running gets it."""
    lines = [
        '0.01 W srv  operator(): got exception: {"error":{"message":"parse error, last read: \'secret\'"}}',
        "0.02 E srv  cannot use 'secret'",
        'root ::= "secret error',
    ]
    assert error_lines(lines, may_quote=True) == "srv  cannot use '...'"


def test_error_lines_are_bounded_in_size():
    assert len(error_lines(["error " + "é" * 5000] * 20).encode()) <= ERROR_BYTES


def test_json_lines_are_unpacked():
    record = {"type": "log", "level": "ERROR", "msg": "cannot open the file\n"}
    assert a_log(json.dumps(record) + "\n").lines() == ["E cannot open the file"]
    assert a_log('{"not": "a log line"}\n').lines() == ['{"not": "a log line"}']


# --- whether GPU memory ran out --------------------------------------------------------------------------

CUDA_MALLOC = "allocating 4685.30 MiB on device 0: cudaMalloc failed: out of memory"
NO_KV = "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache"
NO_GRAPH = "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers"
OUT_OF_GPU_MEMORY = (
    f"ggml_backend_cuda_buffer_type_alloc_buffer: {CUDA_MALLOC}",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4912906240",
    "ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 317718528",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    "CUDA error: out of memory",
    "CUDA error: the resource allocation failed",  # cuBLAS could not allocate its workspace
    NO_KV,
    NO_GRAPH,
)


@pytest.mark.parametrize("words", OUT_OF_GPU_MEMORY)
@pytest.mark.parametrize("before", ["", "0.01.252.267 E ", "E ", "0.01.2 "])
def test_every_message_about_missing_gpu_memory_is_recognized_whatever_precedes_it(words: str, before: str):
    text = f"0.00.010.000 I build: 11549\n{before}{words}\n0.02.000.000 I srv  cleaning up\n"
    assert is_out_of_gpu_memory(a_log(text).lines())


def test_missing_gpu_memory_is_recognized_in_json_lines():
    record = {"type": "log", "level": "ERROR", "msg": f"{OUT_OF_GPU_MEMORY[0]}\n"}
    assert is_out_of_gpu_memory(a_log(json.dumps(record) + "\n").lines())


@pytest.mark.parametrize(
    "line",
    [
        "llama_model_load: error loading model: unknown model architecture: 'cudaMalloc failed: out of memory'",
        "error: invalid argument: --out-of-memory",
        "CUDA error: no kernel image is available for execution on the device",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1.00 MiB on device 0: cudaMalloc failed: unknown error",
        "ggml_cuda_host_malloc: failed to allocate 852.89 MiB of pinned memory: out of memory",  # pageable is used
        "llama_init_from_model: failed to initialize the context: quantized V cache was requested, but this requires",
        *(f"llama_model_loader: - kv  26: general.description str = {words}" for words in OUT_OF_GPU_MEMORY),
        *(f"0.00.1 I print_info: general.name = {words}" for words in OUT_OF_GPU_MEMORY),
    ],
)
def test_other_failures_and_text_from_model_files_are_not_missing_gpu_memory(line: str):
    assert not is_out_of_gpu_memory([line])


def test_missing_ram_for_the_context_is_not_missing_gpu_memory():
    lines = [
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 36000.00 MB)",
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 37748736000",
        "alloc_tensor_range: failed to allocate CPU buffer of size 37748736000",
        NO_KV,
    ]
    assert not is_out_of_gpu_memory(lines)
    assert not is_out_of_gpu_memory(lines[2:])
    assert is_out_of_gpu_memory([*lines, "CUDA error: out of memory"])


def test_a_graph_that_fits_at_the_second_attempt_is_not_missing_gpu_memory():
    """With several GPUs llama.cpp first tries pipeline parallelism, which takes more memory."""
    first_attempt = [
        OUT_OF_GPU_MEMORY[0],
        OUT_OF_GPU_MEMORY[2],
        "0.05.1 W sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism",
    ]
    assert not is_out_of_gpu_memory([*first_attempt, "couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1"])
    assert is_out_of_gpu_memory([*first_attempt, OUT_OF_GPU_MEMORY[0]])
