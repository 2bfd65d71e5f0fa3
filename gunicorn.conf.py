"""How gunicorn runs the proxy.

Values people choose live in the service's own configuration; this file only hands them on. What is marked REQUIRED is
part of the design.
"""

import os

from app.settings.configuration import load_settings
from workers.gunicorn_worker import arbiter_signals as gunicorn_arbiter
from workers.gunicorn_worker import worker as gunicorn_worker
from workers.gunicorn_worker.timeouts import WorkerTimeouts

settings = load_settings()
server = settings.server

# Where to listen. An IPv6 address needs its brackets.
bind = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"

# REQUIRED: one owner of the GPUs. A second worker would book the same memory again.
workers = 1

# REQUIRED: our own worker. A request takes a thread only once its head is complete, errors are JSON, and a stop drains
# before it closes.
worker_class = "workers.gunicorn_worker.worker.ProxyWorker"

# Requests answered at the same time; each stream holds one thread until it ends. Python's switch interval stays as it
# is, 5 ms: with 0.5 ms threads hand the lock on in mid-work, and every figure of bench.relay was worse.
threads = server.threads

# REQUIRED above `threads`: open connections. Those idle between two requests, or still sending a head, hold no thread.
worker_connections = server.threads + 2048

# Seconds an idle connection is kept for the client's next request (clients and proxies in front pool them).
keepalive = 75

# REQUIRED: never restart the worker after so many requests; its children and streams would end with it.
max_requests = 0

# REQUIRED: load nothing before the fork. Threads do not survive one, and the arbiter would reap children of ours.
preload_app = False

# REQUIRED: a second listener on the same port would be a second owner.
reuse_port = False

# No control socket: it offers the reload and the worker count that the signals below refuse.
control_socket_disable = True

# Seconds without a sign of life from the worker's main loop until the arbiter aborts it. Requests do not count here:
# they run on threads and may take as long as they like.
timeout = 60

# REQUIRED above `drain_seconds + stop_seconds`: seconds from the stop signal until the arbiter kills the worker.
# The rest is for clients that are slow to close. systemd's TimeoutStopSec must be above this one.
graceful_timeout = int(server.drain_seconds + server.stop_seconds) + 10

# The sign of life is a file's time stamp: in memory, so that a slow disk cannot look like a hung worker.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# No header of a request says where it came from or which path it has: there is no trusted proxy.
forwarded_allow_ips = ""
forwarder_headers = ""

# The longest request line, in bytes (a model's name may stand in the query); beyond it 414.
limit_request_line = 8190

# gunicorn's own messages go to standard error in the form of ours. It writes no line per request: the service does that
# itself.
logger_class = "workers.gunicorn_worker.logger.ServiceLogger"
errorlog = "-"
accesslog = None

# What gunicorn has no names for.
_timeouts = WorkerTimeouts(
    receive_timeout_seconds=server.receive_timeout_seconds,
    send_timeout_seconds=settings.upstream.stall_seconds,
    drain_seconds=server.drain_seconds,
    stop_seconds=server.stop_seconds,
)


def when_ready(arbiter):
    """REQUIRED: HUP reloads inside the worker; USR2, TTIN and TTOU are refused; TERM, INT and QUIT are one."""
    gunicorn_arbiter.install_signal_handlers(arbiter)


def post_fork(arbiter, worker):
    """REQUIRED: the worker, and by it every llama-server, dies with a killed arbiter."""
    gunicorn_arbiter.die_with_arbiter(worker)
    worker.timeouts = _timeouts


def worker_exit(arbiter, worker):
    """REQUIRED: no thread that is stuck in a dead client's socket holds the process."""
    gunicorn_worker.exit_process(worker)
