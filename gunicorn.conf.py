"""How gunicorn runs the proxy.

User settings are in the service's own configuration; this file only passes them on. Lines marked REQUIRED must not be
changed: the design depends on them.
"""

import os

from app.settings.configuration import load_settings
from workers.gunicorn_worker import arbiter_signals as gunicorn_arbiter
from workers.gunicorn_worker import worker as gunicorn_worker
from workers.gunicorn_worker.timeouts import WorkerTimeouts

settings = load_settings()
server = settings.server

# The listen address. IPv6 addresses need brackets.
bind = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"

# REQUIRED: one owner of the GPUs. A second worker would book the same memory again.
workers = 1

# REQUIRED: our own worker class. A request occupies a thread only once its head is complete, errors are JSON, and the
# worker drains before it exits.
worker_class = "workers.gunicorn_worker.worker.ProxyWorker"

# Requests handled concurrently; each stream holds one thread until it ends. Python's switch interval keeps its default
# of 5 ms: with 0.5 ms threads lose the GIL in mid-work, and every figure of bench.relay was worse.
threads = server.threads

# REQUIRED, above `threads`: maximum open connections. Idle ones and those still sending a head hold no thread.
worker_connections = server.threads + 2048

# Seconds an idle connection is kept open for reuse by the client or a proxy in front. Longer than the 90 s of the
# connection pools of reqwest and Go: the side that closes first must be the client, or a request can meet the close.
keepalive = 100

# REQUIRED: never restart the worker after a number of requests; its llama-servers and streams would end with it.
max_requests = 0

# REQUIRED: load the application after the fork. Threads do not survive a fork, and the arbiter would reap our children.
preload_app = False

# REQUIRED: a second listener on the same port would be a second owner.
reuse_port = False

# No control socket: it would offer the reload and worker count changes that the signal handlers below reject.
control_socket_disable = True

# Seconds without a heartbeat of the worker's main loop until the arbiter aborts it. Requests are not limited by this:
# they run on other threads.
timeout = 60

# REQUIRED, above `drain_seconds + stop_seconds`: seconds from the stop signal until the arbiter kills the worker. The
# remainder is for clients that are slow to close. systemd's TimeoutStopSec must exceed this value.
graceful_timeout = int(server.drain_seconds + server.stop_seconds) + 10

# The heartbeat is a file's timestamp: kept in memory, so that a slow disk is not mistaken for a hung worker.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# No trusted proxies: request headers cannot change the client address or the path.
forwarded_allow_ips = ""
forwarder_headers = ""

# Maximum bytes of a request line (the query may contain a model name); longer ones get 414.
limit_request_line = 8190

# gunicorn's own messages go to stderr in our log format. The access log is written by the service, not by gunicorn.
logger_class = "workers.gunicorn_worker.logger.ServiceLogger"
errorlog = "-"
accesslog = None

# Timeouts for which gunicorn has no settings.
_timeouts = WorkerTimeouts(
    receive_timeout_seconds=server.receive_timeout_seconds,
    send_timeout_seconds=settings.upstream.stall_seconds,
    drain_seconds=server.drain_seconds,
    stop_seconds=server.stop_seconds,
)


def when_ready(arbiter):
    """REQUIRED: HUP reloads within the worker; USR2, TTIN and TTOU are rejected; TERM, INT and QUIT are equivalent."""
    gunicorn_arbiter.install_signal_handlers(arbiter)


def post_fork(arbiter, worker):
    """REQUIRED: the worker, and with it every llama-server, exits if the arbiter is killed."""
    gunicorn_arbiter.die_with_arbiter(worker)
    worker.timeouts = _timeouts


def worker_exit(arbiter, worker):
    """REQUIRED: the process exits even if a thread is blocked on a dead client's socket."""
    gunicorn_worker.exit_process(worker)
